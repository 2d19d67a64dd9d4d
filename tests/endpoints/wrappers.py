"""Wrappers of every kind, for what has to be right about all of them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from tests.live_server import LiveServer, eventually

_HEAD = """
from hayhooks import BasePipelineWrapper


class Base(BasePipelineWrapper):
    def setup(self):
        pass

"""

TYPED = """
import datetime, enum
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    name: str = Field(description="What it is called.")
    price: Annotated[float, Field(gt=0, le=1000)]
    colour: Colour = Colour.RED
    parts: "list[Item]" = []


@dataclass
class Place:
    street: str
    number: int | None = None


class PipelineWrapper(Base):
    '''Counts *items*.'''

    def run_api(
        self,
        items: list[Item],
        place: Place | None = None,
        unit: Literal["kg", "g"] = "kg",
        when: datetime.datetime | None = None,
        share: Annotated[int, Field(ge=0, le=100)] = 50,
        prices: dict[str, float] = {},
    ) -> list[Item]:
        '''Weigh the items.

        All of them.

        Args:
            items: what to weigh.
            share: of a hundred.
        '''
        return items
"""

# Of the same name as TYPED's, and another.
OTHER_ITEM = """
from pydantic import BaseModel


class Item(BaseModel):
    weight: int


class PipelineWrapper(Base):
    def run_api(self, item: Item) -> Item:
        return item
"""

UNTYPED = """
class PipelineWrapper(Base):
    def run_api(self, anything=None, **more):
        return {"anything": anything, "more": more}
"""

UPLOADS = """
from starlette.datastructures import UploadFile


class PipelineWrapper(Base):
    def run_api(self, files: list[UploadFile], title: str, pages: list[int] = [], dry: bool = False) -> dict[str, int]:
        '''Index files.

        Args:
            files: what to index.
        '''
        return {"files": len(files)}
"""

UPLOAD_IF_ANY = """
from starlette.datastructures import UploadFile


class PipelineWrapper(Base):
    async def run_api_async(self, picture: UploadFile | None = None, size: int = 1) -> str:
        return "with" if picture else "without"
"""

STREAM = """
from collections.abc import Generator


class PipelineWrapper(Base):
    def run_api(self, text: str) -> Generator[str, None, None]:
        yield "a"
        yield text
"""

EVENTS = """
from hayhooks import SSEStream


class PipelineWrapper(Base):
    def run_api(self, text: str) -> SSEStream:
        return SSEStream(iter(["a", text]))
"""

REFUSES = """
from starlette.exceptions import HTTPException


class PipelineWrapper(Base):
    def run_api(self, number: int) -> int:
        raise HTTPException(409 if number > 0 else 403, {"number": number % 7})
"""

HAYSTACK = """
from haystack import Pipeline
from haystack.components.builders import PromptBuilder
from haystack.dataclasses import ChatMessage, Document


class PipelineWrapper(Base):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("prompt", PromptBuilder("{{ documents }}"))

    def run_api(self, documents: list[Document], message: ChatMessage | None = None) -> list[Document]:
        return documents
"""

OPENAI = """
class PipelineWrapper(Base):
    def setup(self):
        self.kept = {}

    def run_chat_completion(self, model, messages, body):
        '''Talk.'''
        yield "Hello"
        yield f" {len(messages)}"

    async def run_response_async(self, model, input_items, body):
        return "Hello"

    def run_file_upload(self, content, filename, purpose):
        file_id = f"file-{len(self.kept)}"
        self.kept[file_id] = {"id": file_id, "filename": filename, "bytes": len(content), "purpose": purpose}
        return self.kept[file_id]

    def run_file_list(self):
        return list(self.kept.values())

    def run_file_retrieve(self, file_id):
        return self.kept.get(file_id)

    def run_file_content(self, file_id):
        return "content" if file_id in self.kept else None

    def run_file_delete(self, file_id):
        return self.kept.pop(file_id, None) is not None
"""

VARIED = {
    "typed": TYPED,
    "other-item": OTHER_ITEM,
    "untyped": UNTYPED,
    "uploads": UPLOADS,
    "upload.if.any": UPLOAD_IF_ANY,
    "stream": STREAM,
    "events": EVENTS,
    "refuses": REFUSES,
    "haystack_data": HAYSTACK,
    "größe-1.0": OPENAI,
}


def wrapper(body: str) -> str:
    """The file of one of these."""
    return _HEAD + body


def write_varied(root: Path) -> None:
    """Write all of them."""
    for name, body in VARIED.items():
        folder = root / name
        folder.mkdir()
        (folder / "pipeline_wrapper.py").write_text(wrapper(body))


def serve_varied(server: LiveServer) -> None:
    """Have all of them served."""
    write_varied(server.root)
    # A shared server still serves the last test's "it".
    server.eventually(lambda: set(server.status()["pipelines"]) - {"it"} == set(VARIED), "all to be served", 60)


@contextmanager
def also_at(app: Starlette, root_path: str = "") -> Iterator[str]:
    """Serve *app*, whose lifespan another server runs already, on another port; yields the URL."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off", root_path=root_path)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started, "the server to start")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
