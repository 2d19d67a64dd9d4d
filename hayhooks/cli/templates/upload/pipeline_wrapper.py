"""Take documents by upload, and answer questions from them. It is a model of the OpenAI API, too."""

import re
from collections.abc import AsyncGenerator
from pathlib import Path

from haystack import Document, Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.preprocessors import MarkdownHeaderSplitter
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from hayhooks import (
    BasePipelineWrapper,
    async_streaming_generator,
    chat_messages_from_openai,
    generation_kwargs_from,
    source_events,
)
from hayhooks.testing.components import StandInChatGenerator

FOLDER = Path(__file__).parent


def reply(messages: list[ChatMessage]) -> str:
    """Play the model: quote the passage that has most words of the question, else the first one."""
    passages = re.findall(
        r'<passage file="(.*?)">\s*(?:#[^\n]*\s+)*(.*?)\s*</passage>', messages[0].text or "", re.DOTALL
    )
    asked = set(re.findall(r"\w{4,}", (messages[-1].text or "").lower()))
    if not passages:
        return "The uploaded documents do not say."
    file, text = max(passages, key=lambda passage: len(asked & set(re.findall(r"\w{4,}", passage[1].lower()))))
    return f"{text} ({file})"


class PipelineWrapper(BasePipelineWrapper):
    """Indexes uploaded texts, and answers questions from them."""

    def setup(self) -> None:
        # One index of this folder for the whole process: it stays when you save, and is gone when the server ends. A
        # server with several workers, or one that remembers, needs a store outside, such as Qdrant or Elasticsearch.
        self.store = InMemoryDocumentStore(index=str(FOLDER))

        self.indexing = Pipeline()
        self.indexing.add_component("split", MarkdownHeaderSplitter())
        self.indexing.add_component("write", DocumentWriter(self.store, policy=DuplicatePolicy.OVERWRITE))
        self.indexing.connect("split", "write")

        self.pipeline = Pipeline()
        self.pipeline.add_component("retriever", InMemoryBM25Retriever(self.store, top_k=3))
        self.pipeline.add_component(
            "prompt", ChatPromptBuilder((FOLDER / "prompt.jinja").read_text(), required_variables="*")
        )
        # A real model: OpenAIChatGenerator(model="..."), or another of haystack.components.generators.chat.
        self.pipeline.add_component("llm", StandInChatGenerator(reply))
        self.pipeline.connect("retriever.documents", "prompt.documents")
        self.pipeline.connect("prompt.prompt", "llm.messages")

    def run_api(self, files: list[UploadFile]) -> dict[str, int]:
        """Index files, and say how many passages each has; a file of the same name is replaced.

        Args:
            files: texts or Markdown, in UTF-8.
        """
        documents = [Document(content=_text(file), meta={"name": file.filename}) for file in files]
        passages = {}
        for document in documents:
            name = document.meta["name"]
            self.store.delete_by_filter({"field": "meta.name", "operator": "==", "value": name})
            passages[name] = self.indexing.run({"split": {"documents": [document]}})["write"]["documents_written"]
        return passages

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict) -> AsyncGenerator:
        """Answer from the uploaded documents: the sources first, then the answer, word by word."""
        history = [message for message in chat_messages_from_openai(messages) if message.text]
        questions = [message.text for message in history if message.is_from("user")]
        if not questions:
            raise HTTPException(400, "there is no question: no message of the user has a text")
        return async_streaming_generator(
            self.pipeline,
            pipeline_run_args={
                # "And on Sundays?" finds something only together with the question before it.
                "retriever": {"query": " ".join(questions[-2:])},
                "prompt": {"history": history},
                "llm": {"generation_kwargs": generation_kwargs_from(body, streams=True)},
            },
            on_component_end={"retriever": lambda outputs: source_events(outputs["documents"])},
        )


def _text(file: UploadFile) -> str:
    try:
        return file.file.read().decode()
    except UnicodeDecodeError:
        # Haystack has converters for PDF, DOCX, PPTX, HTML and more: haystack.components.converters.
        raise HTTPException(415, f"{file.filename} is not a text in UTF-8") from None
