"""Chat about a folder of Markdown files, streamed word by word. With OPENAI_API_KEY a model answers."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated

from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.converters import TextFileToDocument
from haystack.components.generators import chat  # lazy: what is not used of it is not imported
from haystack.components.generators.chat.types import ChatGenerator
from haystack.components.preprocessors import MarkdownHeaderSplitter
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from pydantic import Field

from hayhooks import BasePipelineWrapper, async_streaming_generator, get_last_user_message

from .local_generator import LocalChatGenerator

DOCS = Path(__file__).parent / "docs"

PROMPT = """
{% message role="system" %}
You keep the Kestrel Hut. Answer in a few words, only from these passages of the handbook, and name the file.

{% for document in documents %}
<passage file="{{ document.meta.file_path }}">
{{ document.content | trim }}
</passage>
{% endfor %}
{% endmessage %}
{% message role="user" %}
{{ query }}
{% endmessage %}
"""


class PipelineWrapper(BasePipelineWrapper):
    """Answers questions about the Kestrel Hut."""

    def setup(self) -> None:
        self.pipeline = Pipeline()
        self.pipeline.add_component("retriever", InMemoryBM25Retriever(index_docs(), top_k=3))
        self.pipeline.add_component("prompt", ChatPromptBuilder(PROMPT))
        self.pipeline.add_component("generator", chat_generator())
        self.pipeline.connect("retriever.documents", "prompt.documents")
        self.pipeline.connect("prompt.prompt", "generator.messages")

    def run_api(self, question: Annotated[str, Field(min_length=1)]) -> str:
        """Answer one question.

        Args:
            question: what you want to know.
        """
        result = self.pipeline.run({"query": question})  # reaches every component that takes a query
        return result["generator"]["replies"][0].text

    async def run_chat_completion_async(self, model: str, messages: list[dict], body: dict) -> AsyncGenerator | str:
        """Answer the last message of a chat, streamed."""
        question = get_last_user_message(messages)
        if not question:
            return "What would you like to know about the hut?"
        return async_streaming_generator(pipeline=self.pipeline, pipeline_run_args={"query": question})


def index_docs() -> InMemoryDocumentStore:
    # Not shared: the index goes when this revision goes. A shared one stays in memory, reload after reload.
    # The expression leaves out a plural's s, so that a question about a dog finds the dogs.
    store = InMemoryDocumentStore(shared=False, bm25_tokenization_regex=r"\b(\w+?)s?\b")
    indexing = Pipeline()
    indexing.add_component("read", TextFileToDocument())
    indexing.add_component("split", MarkdownHeaderSplitter())
    indexing.add_component("write", DocumentWriter(store))
    indexing.connect("read", "split")
    indexing.connect("split", "write")
    indexing.run({"read": {"sources": sorted(DOCS.glob("*.md"))}})
    return store


def chat_generator() -> ChatGenerator:
    if os.environ.get("OPENAI_API_KEY"):
        return chat.OpenAIChatGenerator(model=os.environ.get("OPENAI_MODEL", "gpt-5-mini"))
    return LocalChatGenerator()
