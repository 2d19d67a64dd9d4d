"""An agent that asks another agent, by the Agent2Agent protocol. With OPENAI_API_KEY a model decides when."""

import os
from collections.abc import AsyncGenerator

from haystack.components.agents import Agent
from haystack.components.generators import chat  # lazy: what is not used of it is not imported
from haystack.components.generators.chat.types import ChatGenerator
from haystack.dataclasses import ChatMessage, ToolCall

from hayhooks import BasePipelineWrapper, async_streaming_generator

from .colleagues import ask_calculator


class PipelineWrapper(BasePipelineWrapper):
    """Answers at the front desk, and asks the agent that calculates."""

    def setup(self) -> None:
        self.pipeline = Agent(
            chat_generator=chat_generator(),
            tools=[ask_calculator],
            system_prompt="You are at the front desk. You pass on what has to be calculated, in the guest's words.",
        )

    def run_api(self, question: str) -> str:
        """Answer one question.

        Args:
            question: what a guest wants to know.
        """
        return self.pipeline.run(messages=[ChatMessage.from_user(question)])["last_message"].text

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict) -> AsyncGenerator:
        """Go on with a chat, streamed."""
        history = [ChatMessage.from_openai_dict_format(message) for message in messages]
        return async_streaming_generator(pipeline=self.pipeline, pipeline_run_args={"messages": history})


def chat_generator() -> ChatGenerator:
    if os.environ.get("OPENAI_API_KEY"):
        return chat.OpenAIChatGenerator(model=os.environ.get("OPENAI_MODEL", "gpt-5-mini"))
    return chat.MockChatGenerator(response_fn=reply)


def reply(messages: list[ChatMessage]) -> ChatMessage:
    """Play a model that passes on whatever it is asked, and tells what came of it."""
    last = messages[-1]
    if done := last.tool_call_result:
        return ChatMessage.from_assistant(f"My colleague says: {done.result}")
    return ChatMessage.from_assistant(tool_calls=[ToolCall("ask_calculator", {"question": last.text})])
