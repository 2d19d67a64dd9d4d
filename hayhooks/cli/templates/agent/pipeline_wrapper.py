"""An agent with tools. It is a model of the OpenAI API, under the name of this folder."""

import re
from collections.abc import AsyncGenerator
from datetime import date
from typing import Annotated

from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import tool

from hayhooks import (
    BasePipelineWrapper,
    async_streaming_generator,
    chat_messages_from_openai,
    default_on_tool_call_end,
    default_on_tool_call_start,
    generation_kwargs_from,
)
from hayhooks.testing.components import StandInChatGenerator


@tool
def multiply(first: Annotated[int, "a whole number"], second: Annotated[int, "another one"]) -> int:
    """Multiply two whole numbers."""
    return first * second


@tool
def days_until(day: Annotated[str, "a date, as 2030-12-31"]) -> int:
    """Count the days from today to a date."""
    return (date.fromisoformat(day) - date.today()).days


def reply(messages: list[ChatMessage]) -> ChatMessage:
    """Play the model: call the tool that fits the question, then answer with its result."""
    last = messages[-1]
    if last.tool_call_result:
        return ChatMessage.from_assistant(f"That makes {last.tool_call_result.result}.")
    if day := re.search(r"\d{4}-\d\d-\d\d", last.text or ""):
        return ChatMessage.from_assistant(tool_calls=[ToolCall("days_until", {"day": day[0]})])
    numbers = [int(number) for number in re.findall(r"-?\d+", last.text or "")]
    if len(numbers) != 2:
        return ChatMessage.from_assistant("Give me two numbers to multiply, or a date to count the days to.")
    return ChatMessage.from_assistant(tool_calls=[ToolCall("multiply", {"first": numbers[0], "second": numbers[1]})])


class PipelineWrapper(BasePipelineWrapper):
    """Calculates, with tools and not by guessing."""

    def setup(self) -> None:
        self.pipeline = Agent(
            # A real model: OpenAIChatGenerator(model="..."), or another that can call tools.
            chat_generator=StandInChatGenerator(reply),
            tools=[multiply, days_until],
            system_prompt="You never guess: you calculate with your tools.",
        )

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict) -> AsyncGenerator:
        """Go on with a conversation; the agent's own tool calls stay on the server, the client sees events of them."""
        arguments = {
            "messages": chat_messages_from_openai(messages),
            "generation_kwargs": generation_kwargs_from(body, tools=False, streams=True),
        }
        return async_streaming_generator(
            self.pipeline,
            pipeline_run_args=arguments,
            on_tool_call_start=default_on_tool_call_start,
            on_tool_call_end=default_on_tool_call_end,
        )

    async def run_api_async(self, question: str) -> str:
        """Answer one question.

        Args:
            question: what to calculate, such as "17 * 3" or "days until 2030-12-31".
        """
        result = await self.pipeline.run_async(messages=[ChatMessage.from_user(question)])
        return result["last_message"].text
