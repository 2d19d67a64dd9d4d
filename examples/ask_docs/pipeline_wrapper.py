"""Find the passages of a folder of Markdown files that answer a question. No model is needed."""

import re
from pathlib import Path
from typing import Annotated

from haystack import Document, Pipeline
from haystack.components.converters import TextFileToDocument
from haystack.components.preprocessors import MarkdownHeaderSplitter
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from pydantic import BaseModel, Field

from hayhooks import BasePipelineWrapper, log

DOCS = Path(__file__).parent / "docs"


class Passage(BaseModel):
    heading: str
    content: str
    file: str
    score: float

    @classmethod
    def of(cls, document: Document) -> "Passage":
        return cls(
            heading=document.meta.get("header", ""),
            content=re.sub(r"\A(#+ .*\s+)*", "", document.content).strip(),  # without the headings it begins with
            file=document.meta["file_path"],
            score=round(document.score, 2),
        )


class PipelineWrapper(BasePipelineWrapper):
    """Answers questions about the Kestrel Hut with passages of its handbook."""

    def setup(self) -> None:
        """Index the handbook; a saved file is a new revision, and so a new index."""
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
        log.info("Indexed {} passages", store.count_documents())

        self.pipeline = Pipeline()
        self.pipeline.add_component("retriever", InMemoryBM25Retriever(store))

    def run_api(
        self,
        question: Annotated[str, Field(min_length=1)],
        top_k: Annotated[int, Field(ge=1, le=20)] = 3,
    ) -> list[Passage]:
        """Find the passages that fit a question best, the best one first.

        Args:
            question: what you want to know.
            top_k: how many passages to return at most.
        """
        found = self.pipeline.run({"retriever": {"query": question, "top_k": top_k}})
        return [Passage.of(document) for document in found["retriever"]["documents"]]
