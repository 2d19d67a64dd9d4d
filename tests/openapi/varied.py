"""Wrappers of every kind, for what has to be right about all of them."""

from pathlib import Path

from tests.live_server import LiveServer
from tests.wrappers import source

TYPED = source("typed")
# Of the same name as TYPED's, and another.
OTHER_ITEM = source("other_item")
UNTYPED = source("untyped")
UPLOADS = source("uploads")
UPLOAD_IF_ANY = source("upload_if_any")
STREAM = source("stream")
EVENTS = source("events")
REFUSES = source("refuses")
HAYSTACK = source("haystack_data")
OPENAI = source("openai_apis")

VARIED = {
    "typed": TYPED,
    "other-item": OTHER_ITEM,
    "untyped": UNTYPED,
    "uploads": UPLOADS,
    "upload.if.any": UPLOAD_IF_ANY,
    "stream": STREAM,
    "event_stream": EVENTS,
    "refuses": REFUSES,
    "haystack_data": HAYSTACK,
    "größe-1.0": OPENAI,
}


_HEAD = """
from hayhooks import BasePipelineWrapper


class Base(BasePipelineWrapper):
    def setup(self):
        pass

"""


def wrapper(body: str) -> str:
    """The file of a wrapper whose *body* derives from ``Base``."""
    return _HEAD + body


def write_varied(root: Path) -> None:
    """Write all of them."""
    for name, body in VARIED.items():
        folder = root / name
        folder.mkdir()
        (folder / "pipeline_wrapper.py").write_text(body)


def serve_varied(server: LiveServer) -> None:
    """Have all of them served."""
    write_varied(server.root)
    # A shared server still serves the last test's "it".
    server.eventually(lambda: set(server.status()["pipelines"]) - {"it"} == set(VARIED), "all to be served", 60)
