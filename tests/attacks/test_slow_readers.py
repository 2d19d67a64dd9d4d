"""Clients that do not read their responses: ended by force, and their work and threads with them."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from hayhooks import Settings, create_app
from tests.attacks.test_pipelining import handshake
from tests.attacks.wire import PROTOCOLS, get, post
from tests.live_server import LiveServer, eventually, serving

STREAMS = """
import asyncio
import itertools

from hayhooks import BasePipelineWrapper, SSEStream


class PipelineWrapper(BasePipelineWrapper):
    open = 0

    def setup(self):
        pass

    def run_api(self, kind: str = "", megabytes: int = 0):
        if kind == "open":
            return type(self).open
        if megabytes:
            return "x" * megabytes * 1_000_000
        return {"text": self.words, "sse": lambda: SSEStream(self.words()), "async": self.words_async}[kind]()

    def words(self):
        PipelineWrapper.open += 1
        try:
            while True:
                yield "word" * 1000
        finally:
            PipelineWrapper.open -= 1

    async def words_async(self):
        PipelineWrapper.open += 1
        try:
            for number in itertools.count():
                await asyncio.sleep(0)
                yield "word" * 1000
        finally:
            PipelineWrapper.open -= 1

    def run_chat_completion(self, model, messages, body):
        return self.words()
"""


@pytest.fixture(scope="module")
def server(protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    root = tmp_path_factory.mktemp("pipelines")
    fast = protocol == "fast"
    settings = Settings(pipelines_dir=root, fast_protocol=fast, write_timeout=1, threads=8, _env_file=None)
    app = create_app(settings)

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.send_text("word" * 10_000)

    app.router.routes.append(WebSocketRoute("/socket", talk))
    with serving(root, app) as server:
        server.serve("streams", STREAMS)
        yield server


def is_reset(connection: socket.socket) -> bool:
    """Tell whether the server has ended *connection* by force, without reading from it."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE


TCP_CLOSE = 7


CHAT = b'{"model": "streams", "stream": true, "messages": [{"role": "user", "content": "x"}]}'
UNREAD = {
    "a large answer": post("/streams/run", b'{"megabytes": 20}'),
    "large answers": post("/streams/run", b'{"megabytes": 10}') * 3,
    "a last answer": post("/streams/run", b'{"megabytes": 20}', "Connection: close"),
    "a stream of text": post("/streams/run", b'{"kind": "text"}'),
    "events": post("/streams/run", b'{"kind": "sse"}'),
    "an async stream": post("/streams/run", b'{"kind": "async"}'),
    "a chat": post("/v1/chat/completions", CHAT),
    "many answers": get("/openapi.json") * 1000,
    "a websocket": handshake("/socket"),
}


@PROTOCOLS
@pytest.mark.parametrize("what", UNREAD)
def test_a_client_that_does_not_read_is_ended(server: LiveServer, what: str):
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connected(receive_buffer=4096)) for _ in range(5)]
        for connection in connections:
            connection.setblocking(False)
            connection.send(UNREAD[what])
        for connection in connections:
            eventually(partial(is_reset, connection), "the connection to be ended")
        eventually(lambda: server.run("streams", kind="open") == 0, "its work to be ended")


@PROTOCOLS
def test_a_slow_reader_that_goes_on_reading_is_served_to_the_end(server: LiveServer):
    """Each second it takes a little: it may last longer than the timeout."""
    size = 3_000_000
    with server.connected(receive_buffer=65536) as connection:
        connection.sendall(post("/streams/run", b'{"megabytes": %d}' % (size // 1_000_000)))
        received, begun = 0, time.monotonic()
        while received < size:
            data = connection.recv(65536)
            assert data, f"cut after {received:,} bytes"
            received += len(data)
            time.sleep(0.07)
        assert time.monotonic() - begun > 2


def is_ended_unread(server: LiveServer, request: bytes) -> bool:
    """Whether the connection is ended by force; not where a busy machine had no answer in time, which is a 504."""
    with server.connected(receive_buffer=4096) as connection:
        connection.sendall(request)
        peek = partial(connection.recv, 12, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        eventually(lambda: is_reset(connection) or peek() == b"HTTP/1.1 504")
        return is_reset(connection)


@PROTOCOLS
def test_a_request_timeout_holds_to_the_last_byte(protocol: str, root: Path):
    """The answer is there at once, but the client does not take it: the request's time ends it."""
    limited = STREAMS.replace("    open = 0", "    open = 0\n    request_timeout = 0.5\n    concurrency = 1", 1)
    limited = limited.replace("* 1000", "* 100_000")  # a slow machine too fills in time what the system takes
    with serving(root, fast_protocol=protocol == "fast", write_timeout=3600) as server:
        server.serve("streams", limited)
        for what in ("a large answer", "a last answer", "a stream of text", "events", "a chat"):
            eventually(partial(is_ended_unread, server, UNREAD[what]), f"{what} to be ended")
            assert server.run("streams", kind="open") == 0
