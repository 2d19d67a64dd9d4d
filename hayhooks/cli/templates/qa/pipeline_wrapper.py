"""Find the passages of some documents that answer a question."""

from pathlib import Path

from haystack import Pipeline
from haystack.components.converters import TextFileToDocument
from haystack.components.preprocessors import MarkdownHeaderSplitter
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from hayhooks import BasePipelineWrapper

DOCS = Path(__file__).parent / "docs"  # a file that is saved there is indexed at once: it belongs to this folder


class PipelineWrapper(BasePipelineWrapper):
    """Answers questions with passages of the documents."""

    def setup(self) -> None:
        # Not shared: this index goes when this version of the folder goes.
        store = InMemoryDocumentStore(shared=False)

        indexing = Pipeline()
        indexing.add_component("read", TextFileToDocument())
        indexing.add_component("split", MarkdownHeaderSplitter())
        indexing.add_component("write", DocumentWriter(store))
        indexing.connect("read", "split")
        indexing.connect("split", "write")
        indexing.run({"read": {"sources": sorted(DOCS.glob("*.md"))}})

        self.pipeline = Pipeline()
        self.pipeline.add_component("retriever", InMemoryBM25Retriever(store))

    def run_api(self, question: str, top_k: int = 1) -> list[str]:
        """Find the passages that fit a question, the best one first.

        Args:
            question: what you want to know.
            top_k: how many passages to return at most.
        """
        found = self.pipeline.run({"retriever": {"query": question, "top_k": top_k}})
        return [document.content.strip() for document in found["retriever"]["documents"]]
