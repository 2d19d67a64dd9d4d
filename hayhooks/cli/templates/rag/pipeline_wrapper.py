"""Answer questions from documents, with sources. It is a model of the OpenAI API, under the name of this folder."""

import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated

from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.converters import TextFileToDocument
from haystack.components.preprocessors import MarkdownHeaderSplitter
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore
from pydantic import Field
from starlette.exceptions import HTTPException

from hayhooks import (
    BasePipelineWrapper,
    async_streaming_generator,
    chat_messages_from_openai,
    generation_kwargs_from,
    source_events,
)
from hayhooks.testing.components import StandInChatGenerator

FOLDER = Path(__file__).parent  # a file that is saved here takes effect at once: prompt and documents too


def reply(messages: list[ChatMessage]) -> str:
    """Play the model: quote the passage that has most words of the question, else the first one."""
    passages = re.findall(
        r'<passage file="(.*?)">\s*(?:#[^\n]*\s+)*(.*?)\s*</passage>', messages[0].text or "", re.DOTALL
    )
    asked = set(re.findall(r"\w{4,}", (messages[-1].text or "").lower()))
    if not passages:
        return "The documents do not say."
    file, text = max(passages, key=lambda passage: len(asked & set(re.findall(r"\w{4,}", passage[1].lower()))))
    return f"{text} ({file})"


class PipelineWrapper(BasePipelineWrapper):
    """Answers questions from the documents in docs/."""

    def setup(self) -> None:
        # Not shared: this index goes when this version of the folder goes.
        store = InMemoryDocumentStore(shared=False)

        indexing = Pipeline()
        indexing.add_component("read", TextFileToDocument())
        indexing.add_component("split", MarkdownHeaderSplitter())
        indexing.add_component("write", DocumentWriter(store))
        indexing.connect("read", "split")
        indexing.connect("split", "write")
        # For PDF, DOCX, HTML and more there are other converters in haystack.components.converters.
        files = sorted(file for file in (FOLDER / "docs").rglob("*") if file.suffix in (".md", ".txt"))
        indexing.run({"read": {"sources": files}})

        self.pipeline = Pipeline()
        self.pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=3))
        self.pipeline.add_component(
            "prompt", ChatPromptBuilder((FOLDER / "prompt.jinja").read_text(), required_variables="*")
        )
        # A real model: OpenAIChatGenerator(model="..."), or another of haystack.components.generators.chat.
        self.pipeline.add_component("llm", StandInChatGenerator(reply))
        self.pipeline.connect("retriever.documents", "prompt.documents")
        self.pipeline.connect("prompt.prompt", "llm.messages")

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict) -> AsyncGenerator:
        """Go on with a conversation: the sources first, then the answer, word by word."""
        arguments = _arguments(chat_messages_from_openai(messages))
        arguments["llm"] = {"generation_kwargs": generation_kwargs_from(body, streams=True)}
        return async_streaming_generator(
            self.pipeline,
            pipeline_run_args=arguments,
            on_component_end={"retriever": lambda outputs: source_events(outputs["documents"])},
        )

    async def run_api_async(
        self, question: Annotated[str, Field(min_length=1)], top_k: Annotated[int, Field(ge=1)] = 3
    ) -> dict:
        """Answer one question.

        Args:
            question: what you want to know.
            top_k: how many passages to read at most.
        """
        arguments = _arguments([ChatMessage.from_user(question)])
        arguments["retriever"]["top_k"] = top_k
        result = await self.pipeline.run_async(arguments, include_outputs_from={"retriever"})
        sources = [
            {"file": document.meta["file_path"], "text": document.content, "score": document.score}
            for document in result["retriever"]["documents"]
        ]
        return {"answer": result["llm"]["replies"][0].text, "sources": sources}


def _arguments(history: list[ChatMessage]) -> dict[str, dict]:
    history = [message for message in history if message.text]
    questions = [message.text for message in history if message.is_from("user")]
    if not questions:
        raise HTTPException(400, "there is no question: no message of the user has a text")
    # "And on Sundays?" finds something only together with the question before it.
    return {"retriever": {"query": " ".join(questions[-2:])}, "prompt": {"history": history}}
