"""An agent that calculates with a tool. With OPENAI_API_KEY a model decides when to use it."""

import os
from collections.abc import AsyncGenerator

from haystack.components.agents import Agent
from haystack.components.generators import chat  # lazy: what is not used of it is not imported
from haystack.components.generators.chat.types import ChatGenerator
from haystack.dataclasses import ChatMessage

from hayhooks import BasePipelineWrapper, async_streaming_generator

from .scripted_generator import ScriptedChatGenerator
from .tools import calculate


class PipelineWrapper(BasePipelineWrapper):
    """Calculates instead of guessing."""

    def setup(self) -> None:
        self.pipeline = Agent(
            chat_generator=chat_generator(),
            tools=[calculate],
            system_prompt="You are good with numbers because you never guess: you calculate with your tool.",
        )

    def run_api(self, question: str) -> str:
        """Answer one question.

        Args:
            question: what to calculate, in words or numbers.
        """
        return self.pipeline.run(messages=[ChatMessage.from_user(question)])["last_message"].text

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict) -> AsyncGenerator:
        """Go on with a chat, streamed; the agent's own tool calls stay on the server."""
        history = [ChatMessage.from_openai_dict_format(message) for message in messages]
        return async_streaming_generator(pipeline=self.pipeline, pipeline_run_args={"messages": history})


def chat_generator() -> ChatGenerator:
    if os.environ.get("OPENAI_API_KEY"):
        return chat.OpenAIChatGenerator(model=os.environ.get("OPENAI_MODEL", "gpt-5-mini"))
    return ScriptedChatGenerator()
