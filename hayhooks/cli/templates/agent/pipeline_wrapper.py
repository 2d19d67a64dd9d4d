"""An agent with a tool. It is a model of the OpenAI API, under the name of this folder."""

import re
from collections.abc import AsyncGenerator
from typing import Annotated

from haystack.components.agents import Agent
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import tool

from hayhooks import BasePipelineWrapper, async_streaming_generator


@tool
def multiply(first: Annotated[int, "a whole number"], second: Annotated[int, "another one"]) -> int:
    """Multiply two whole numbers."""
    return first * second


def reply(messages: list[ChatMessage]) -> ChatMessage:
    """Play the model, without a key: call the tool, then answer with its result."""
    last = messages[-1]
    if last.tool_call_result:
        return ChatMessage.from_assistant(f"That makes {last.tool_call_result.result}.")
    numbers = [int(number) for number in re.findall(r"-?\d+", last.text or "")]
    if len(numbers) != 2:
        return ChatMessage.from_assistant("Give me two numbers to multiply.")
    call = ToolCall("multiply", {"first": numbers[0], "second": numbers[1]})
    return ChatMessage.from_assistant(tool_calls=[call])


class PipelineWrapper(BasePipelineWrapper):
    """Multiplies, with a tool and not by guessing."""

    def setup(self) -> None:
        # For a real model put OpenAIChatGenerator(model="...") here, or any other that can call tools.
        self.pipeline = Agent(
            chat_generator=MockChatGenerator(response_fn=reply),
            tools=[multiply],
            system_prompt="You never guess: you calculate with your tools.",
        )

    def run_api(self, question: str) -> str:
        """Answer one question.

        Args:
            question: what to multiply.
        """
        return self.pipeline.run(messages=[ChatMessage.from_user(question)])["last_message"].text

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict) -> AsyncGenerator:
        """Go on with a chat, streamed; the agent's own tool calls stay on the server."""
        history = [ChatMessage.from_openai_dict_format(message) for message in messages]
        return async_streaming_generator(self.pipeline, pipeline_run_args={"messages": history})
