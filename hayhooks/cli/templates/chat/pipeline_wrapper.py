"""A chat, streamed word by word. It is a model of the OpenAI API, under the name of this folder."""

from collections.abc import AsyncGenerator

from haystack import Pipeline
from haystack.dataclasses import ChatMessage

from hayhooks import (
    BasePipelineWrapper,
    async_streaming_generator,
    chat_messages_from_openai,
    generation_kwargs_from,
)
from hayhooks.testing.components import StandInChatGenerator

SYSTEM = ChatMessage.from_system("You answer in one sentence.")


def reply(messages: list[ChatMessage]) -> str:
    """Play the model."""
    asked = [message.text for message in messages if message.is_from("user")]
    if not asked:
        return "You have not said anything."
    return f"You asked: {asked[-1]} That was question {len(asked)}; a real model would know more."


class PipelineWrapper(BasePipelineWrapper):
    """Goes on with a conversation, or answers one question."""

    def setup(self) -> None:
        self.pipeline = Pipeline()
        # A real model: OpenAIChatGenerator(model="..."), or another of haystack.components.generators.chat.
        self.pipeline.add_component("llm", StandInChatGenerator(reply))

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict) -> AsyncGenerator:
        """Answer the last message of a conversation."""
        # The client sends the whole conversation each time, and what it wants of the model in `body`.
        return self._stream(chat_messages_from_openai(messages), generation_kwargs_from(body, streams=True))

    async def run_api_async(self, question: str) -> AsyncGenerator:
        """Answer one question, as plain text that streams.

        Args:
            question: what you want to know.
        """
        return self._stream([ChatMessage.from_user(question)], {})

    def _stream(self, messages: list[ChatMessage], generation_kwargs: dict) -> AsyncGenerator:
        arguments = {"messages": [SYSTEM, *messages], "generation_kwargs": generation_kwargs}
        return async_streaming_generator(self.pipeline, pipeline_run_args={"llm": arguments})
