"""An idle keep-alive connection keeps no deployment alive that its last request met."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live_server import LiveServer, serving

KEEPER = """
import weakref
from contextvars import ContextVar
from pathlib import Path
from hayhooks import BasePipelineWrapper

noted = ContextVar("noted")


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        weakref.finalize(self, Path(GONE).touch)

    async def run_api(self, text: str = ""):
        noted.set(self)
        return "from the " + VERSION

    async def run_chat_completion_async(self, model, messages, body):
        noted.set(self)
        return self.words()

    async def words(self):
        yield "from the " + VERSION
"""


@pytest.fixture(scope="module", params=["fast", "plain"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    root = tmp_path_factory.mktemp("pipelines")
    with serving(root, removal_grace_ms=0, fast_protocol=request.param == "fast") as server:
        yield server


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, **body: object) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def read_responses(connection: socket.socket, count: int) -> bytes:
    """Read until *count* responses have ended."""
    received = b""
    ended = 0
    while ended < count:
        head, separator, rest = received.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        if separator and b"content-length" in fields and len(rest) >= int(fields[b"content-length"]):
            received = rest[int(fields[b"content-length"]) :]
            ended += 1
        elif separator and b"transfer-encoding" in fields and b"0\r\n\r\n" in rest:
            received = rest.partition(b"0\r\n\r\n")[2]
            ended += 1
        else:
            data = connection.recv(65536)
            assert data, received
            received += data
    return received


CHAT = {"model": "app", "messages": [{"role": "user", "content": "x"}]}
LAST_REQUESTS = {
    "ready": (get("/readyz"), 1),
    "status": (get("/status"), 1),
    "status of it": (get("/status/app"), 1),
    "document": (get("/openapi.json"), 1),
    "models": (get("/v1/models"), 1),
    "run": (post("/app/run", text="x"), 1),
    "long body": (post("/app/run", text="x" * 300_000), 1),
    "invalid": (post("/app/run", text=1), 1),
    "no endpoint": (get("/app/nothing"), 1),
    "no name": (get("/nothing"), 1),
    "chat": (post("/v1/chat/completions", **CHAT), 1),
    "stream": (post("/v1/chat/completions", **CHAT, stream=True), 1),
    "pipelined": (post("/app/run") + get("/readyz") + post("/app/run") + get("/readyz"), 4),
}


def test_an_idle_connection_keeps_no_replaced_deployment(server: LiveServer, tmp_path: Path):
    server.serve("app", KEEPER, version="old", gone=str(tmp_path / "old"))
    with ExitStack() as connections:
        for sent, count in LAST_REQUESTS.values():
            connection = connections.enter_context(server.connected())
            connection.sendall(sent)
            read_responses(connection, count)

        server.serve("app", KEEPER, version="new", gone=str(tmp_path / "new"))

        server.eventually((tmp_path / "old").exists, "the old wrapper to be freed")
        assert server.status()["retired"] == []
