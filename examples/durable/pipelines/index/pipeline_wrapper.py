"""An indexing job: a step for each file, so that what is done stays done."""

from pathlib import Path

from haystack import Document, Pipeline
from haystack.components.preprocessors import DocumentSplitter
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from pydantic import BaseModel

from hayhooks import BasePipelineWrapper, DurableContext

TEXTS = Path(__file__).parent / "texts"


class Job(BaseModel):
    """Which files to index."""

    pattern: str = "*.md"


class Report(BaseModel):
    """What was indexed."""

    files: int
    passages: int


class PipelineWrapper(BasePipelineWrapper):
    """Indexes the texts in its folder."""

    def setup(self) -> None:
        store = InMemoryDocumentStore()
        self.pipeline = Pipeline()
        self.pipeline.add_component("splitter", DocumentSplitter(split_by="passage", split_length=1))
        self.pipeline.add_component("writer", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))
        self.pipeline.connect("splitter.documents", "writer.documents")

    def run_durable(self, context: DurableContext, request: Job) -> Report:
        files = sorted(TEXTS.glob(request.pattern))
        passages = 0
        for number, file in enumerate(files, start=1):
            passages += context.step_sync(f"index {file.name}", self.index, file)
            context.report_progress_sync(f"{number} of {len(files)}: {file.name}")
        return Report(files=len(files), passages=passages)

    def index(self, file: Path) -> int:
        """Index one file, and return the number of its passages."""
        document = Document(content=file.read_text(), meta={"file": file.name})
        return self.pipeline.run({"splitter": {"documents": [document]}})["writer"]["documents_written"]
