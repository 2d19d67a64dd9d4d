"""A chat, streamed word by word. It is a model of the OpenAI API, under the name of this folder."""

from collections.abc import AsyncGenerator, Generator

from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage

from hayhooks import BasePipelineWrapper, async_streaming_generator, get_last_user_message, streaming_generator

PROMPT = [
    ChatMessage.from_system("You answer in one sentence."),
    ChatMessage.from_user("{{ question }}"),
]


def answer(messages: list[ChatMessage]) -> str:
    """Play the model, without a key."""
    return f"You asked: {messages[-1].text} A real model would know more."


class PipelineWrapper(BasePipelineWrapper):
    """Answers questions, as a chat or one at a time."""

    def setup(self) -> None:
        self.pipeline = Pipeline()
        self.pipeline.add_component("prompt", ChatPromptBuilder(PROMPT, required_variables=["question"]))
        # For a real model put OpenAIChatGenerator(model="...") here, or any other of Haystack's chat generators.
        self.pipeline.add_component("generator", MockChatGenerator(response_fn=answer))
        self.pipeline.connect("prompt.prompt", "generator.messages")

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict) -> AsyncGenerator:
        """Answer the last message of a chat."""
        question = get_last_user_message(messages) or ""
        return async_streaming_generator(self.pipeline, pipeline_run_args={"prompt": {"question": question}})

    def run_api(self, question: str) -> Generator:
        """Answer one question, as plain text that streams.

        Args:
            question: what you want to know.
        """
        chunks = streaming_generator(self.pipeline, pipeline_run_args={"prompt": {"question": question}})
        return (chunk.content for chunk in chunks)
