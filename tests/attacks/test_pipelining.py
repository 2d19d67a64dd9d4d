"""Trailers, pipelined clients that leave, and websocket handshakes behind another request."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from hayhooks import Settings, create_app
from tests.attacks.wire import PROTOCOLS, Responses, Wire, chunked, get, post, wired
from tests.live_server import LiveServer, eventually, serving


@pytest.fixture(scope="module")
def wire(protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with wired(tmp_path_factory.mktemp("pipelining"), protocol) as wire:
        yield wire


@pytest.fixture(scope="module")
def server(protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with routes of its own: the headers of a request, and a websocket that echoes."""
    root = tmp_path_factory.mktemp("pipelines")
    app = create_app(Settings(pipelines_dir=root, fast_protocol=protocol == "fast", _env_file=None))

    @app.post("/headers")
    async def headers(request: Request) -> JSONResponse:
        await request.body()
        return JSONResponse([name.decode() for name, _ in request.scope["headers"]])

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())

    app.router.routes.append(WebSocketRoute("/socket", echo))
    with serving(root, app) as server:
        server.serve("words", WORDS)
        yield server


@PROTOCOLS
@pytest.mark.parametrize("early", [False, True])
def test_trailers_are_no_headers(server: LiveServer, early: bool):
    """Trailers do not become headers, of their request or of the next one, in one segment or several."""
    request = chunked("/headers", b"{}", "Trailer: Authorization", trailers=b"Authorization: Bearer x\r\nX-A: b\r\n")
    cut = request.index(b"0\r\n") + 5
    with server.connected() as connection:
        if early:
            connection.sendall(request * 2)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in (request[:cut], request[cut:], request[:cut], request[cut:]):
                connection.sendall(piece)
        responses = Responses(connection)
        for _ in range(2):
            assert responses.next() == (200, b'["host","content-type","transfer-encoding","trailer"]')


LEAVING = {
    "at once": lambda number: [post("/waits/run", b'{"number": %d}' % number) + get("/healthz")],
    "later": lambda number: [post("/waits/run", b'{"number": %d}' % number), get("/healthz")],
    "many": lambda number: [post("/waits/run", b'{"number": %d}' % number), get("/healthz") * 500],
    "two that run long": lambda number: [post("/waits/run", b'{"number": %d}' % number) * 2],
    "half of one": lambda number: [post("/waits/run", b'{"number": %d}' % number), get("/healthz")[:20]],
}


@PROTOCOLS
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("how", LEAVING)
def test_a_pipelined_client_that_leaves_stops_its_work(
    wire: Wire, how: str, reset: bool, request: pytest.FixtureRequest
):
    number = 1 + 2 * list(LEAVING).index(how) + reset
    with wire.connected() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in LEAVING[how](number):
            connection.sendall(piece)
            eventually(lambda: wire.told("begun", number))
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    eventually(lambda: wire.told("cancelled", number), "the work to be stopped")


def handshake(path: str, *headers: str) -> bytes:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"
    return get(path, "Connection: Upgrade", "Upgrade: websocket", *key, *headers)


@PROTOCOLS
@pytest.mark.parametrize("split", [False, True])
def test_a_websocket_handshake_behind_a_request_waits_for_its_answer(server: LiveServer, split: bool):
    """The handshake is answered after the answers before it, and the websocket works."""
    request = post("/words/run") + post("/headers")
    with server.connected() as connection:
        connection.sendall(request if split else request + handshake("/socket"))
        if split:
            connection.sendall(handshake("/socket"))
        received = b""
        while b"HTTP/1.1 101" not in received:
            data = connection.recv(65536)
            assert data, received
            received += data
        words, _, rest = received.partition(b"HTTP/1.1 200 OK\r\n")[2].partition(b"HTTP/1.1 200")
        assert words.count(b"word") == 50
        assert words.endswith(b"0\r\n\r\n")
        assert b'"content-length"]HTTP/1.1 101' in rest
        connection.sendall(b"\x81\x82\0\0\0\0hi")
        while b"\x81\x02hi" not in received:
            data = connection.recv(65536)
            assert data, received
            received += data


WORDS = """
import time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self):
        for _ in range(50):
            yield "word "
            time.sleep(0.002)
"""


@PROTOCOLS
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_handshake_with_a_body_is_a_plain_request(server: LiveServer, method: str):
    request = handshake("/headers", "Content-Length: 5").replace(b"GET", method.encode(), 1) + b"hello"
    with server.connected() as connection:
        connection.sendall(request + get("/healthz"))
        responses = Responses(connection)
        assert [responses.next()[0] for _ in range(2)] == [405 if method == "GET" else 200, 200]


@PROTOCOLS
def test_what_was_pipelined_before_the_server_stops_is_answered(protocol: str, tmp_path: Path):
    """The fast protocol answers all, the plain one the request that runs; the last answer says that it is."""
    with wired(tmp_path, protocol) as wire, wire.connected() as connection:
        connection.sendall(post("/waits/run", b'{"number": 1}'))
        eventually(lambda: wire.told("begun", 1))
        connection.sendall(get("/healthz") * 50)
        wire.process.process.terminate()
        eventually(lambda: "Shutting down" in wire.logged())
        wire.gate.touch()
        received = b""
        with suppress(ConnectionResetError):
            while data := connection.recv(65536):
                received += data
        answers = received.split(b"HTTP/1.1 200 OK")[1:]
        assert len(answers) == (51 if protocol == "fast" else 1)
        assert [b"connection: close" in answer.lower() for answer in answers] == [False] * (len(answers) - 1) + [True]
