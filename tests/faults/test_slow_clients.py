"""Clients that send slowly, for ever, or too much of what nobody reads: ended by rule, while others are served."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.sync.client import connect

from hayhooks import Settings, create_app
from tests.live_server import ECHO, LiveServer, eventually, replace, serving

HEAD = b"POST /echo/run HTTP/1.1\r\nHost: x\r\n"
ASK = HEAD + b"Content-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    root = tmp_path_factory.mktemp("pipelines")
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    with serving(root, read_timeout=1) as server:
        eventually(lambda: server.status()["pipelines"])
        yield server


def told(connection: socket.socket) -> tuple[int, Any]:
    """Status and JSON of what is answered before the connection is closed; 0 and None if nothing is."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    if not received:
        return 0, None
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def whole_answer(connection: socket.socket) -> bytes:
    """Receive the answer to ``ASK``, whose head and body may come one after the other."""
    answer = b""
    while not answer.endswith(b"}") and (data := connection.recv(65536)):
        answer += data
    return answer


def sends_until_cut(
    connection: socket.socket, data: bytes, *, at_most: int = 1_000_000_000, between: Callable[[], object] = int
) -> int:
    """Send *data* again and again until the server closes the connection, and say how many bytes were sent."""
    sent = 0
    end = time.monotonic() + 60
    while sent < at_most and time.monotonic() < end:
        try:
            connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return sent
        sent += len(data)
        between()
    raise AssertionError(f"the server has taken {sent:,} bytes, and is open for more")


def test_a_connection_on_which_nothing_comes_is_closed(server: LiveServer):
    with server.connected() as connection:
        assert told(connection) == (0, None)


@pytest.mark.parametrize("sent", [b"G", HEAD, HEAD + b"X-A: ", b"\r\n\r\nPOST"])
def test_incomplete_headers_are_408(server: LiveServer, sent: bytes):
    """Headers that are not complete in time are a 408 that names the limit."""
    with server.connected() as connection:
        connection.sendall(sent)
        status, body = told(connection)

    message = "Request headers were not complete within 1 s (HAYHOOKS_READ_TIMEOUT)"
    assert (status, body["detail"], body["error"]["message"]) == (408, message, message)


def test_headers_byte_by_byte_are_ended(server: LiveServer):
    """Headers that come a byte at a time are ended too and others are served."""
    with server.connected() as connection:
        connection.sendall(HEAD)
        served: list[str] = []
        sends_until_cut(connection, b"X", between=lambda: served.append(server.run("echo", text="x")))

    assert set(served) == {"echo x"}


def test_the_second_request_of_a_connection_is_bounded_as_the_first(server: LiveServer):
    with server.connected() as connection:
        connection.sendall(ASK)
        assert b"200 OK" in whole_answer(connection)
        connection.sendall(HEAD)
        assert told(connection)[0] == 408


def test_a_connection_that_is_used_outlives_the_limit(server: LiveServer):
    def outlives() -> bool:
        with server.connected() as connection:
            began = asked = time.monotonic()
            while asked - began < 3:
                answer = b""
                with suppress(ConnectionError):
                    connection.sendall(ASK)
                    answer = whole_answer(connection)
                if time.monotonic() - asked > 0.5:
                    return False  # a busy machine: it may have been unused for as long as the limit
                assert b"200 OK" in answer
                asked = time.monotonic()
                time.sleep(0.1)
        return True

    assert any(outlives() for _ in range(20))


SLEEPS = """
import asyncio
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    async def run_api_async(self):
        await asyncio.sleep(2.5)
        return "done"
"""


def test_an_answer_may_take_longer_than_the_limit(root: Path):
    with serving(root, read_timeout=1) as server:
        server.serve("sleeps", SLEEPS)
        assert server.run("sleeps") == "done"


@pytest.mark.parametrize("path", ["/echo/run", "/v1/chat/completions"])
@pytest.mark.parametrize("sent", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
def test_a_body_that_pauses_for_too_long_is_a_408_that_names_the_limit(server: LiveServer, path: str, sent: bytes):
    with server.connected() as connection:
        connection.sendall(HEAD.replace(b"/echo/run", path.encode()) + sent)
        status, body = told(connection)

    message = "No request body data received for 1 s (HAYHOOKS_READ_TIMEOUT)"
    assert (status, body["detail"]) == (408, message)
    assert ("error" in body) is path.startswith("/v1")


def test_a_body_that_keeps_coming_may_take_longer_than_the_limit(server: LiveServer):
    pauses = [1.0]

    def slowly() -> Iterator[bytes]:
        pauses.clear()
        for piece in (b'{"text":', b' "', *([b"x"] * 10), b'"}'):
            began = time.monotonic()
            yield piece
            time.sleep(0.2)
            pauses.append(time.monotonic() - began)

    while max(pauses) > 0.6:  # a busy machine
        response = httpx.post(server.url + "/echo/run", content=slowly(), timeout=30)

    assert response.json() == {"result": "echo " + "x" * 10}


def test_many_bodies_that_pause_are_each_ended_in_their_time(server: LiveServer):
    with ExitStack() as stack:
        connections = []
        for _ in range(50):
            connections.append(stack.enter_context(server.connected()))
            connections[-1].sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
            time.sleep(0.01)
        assert server.run("echo", text="x") == "echo x"
        assert {told(connection)[0] for connection in connections} == {408}


UPLOAD = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self, files: list): return len(files)
"""


def test_an_upload_that_pauses_for_too_long_is_a_408(root: Path):
    with serving(root, read_timeout=1) as server, server.connected() as connection:
        server.serve("upload", UPLOAD)
        head = HEAD.replace(b"echo", b"upload") + b"Content-Type: multipart/form-data; boundary=b\r\n"
        part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx'
        connection.sendall(head + b"Content-Length: 1000\r\n\r\n" + part)
        assert told(connection)[0] == 408


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (b"X-A: " + b"a" * 70_000 + b"\r\n", "65,536"),
        (b"".join(b"X-%d: %s\r\n" % (number, b"a" * 700) for number in range(100)), "65,536"),
        (b"".join(b"X-%d: a\r\n" % number for number in range(300)), "256 are allowed"),
    ],
)
def test_headers_that_are_too_large_or_too_many_are_a_431(server: LiveServer, headers: bytes, reason: str):
    for end in (b"\r\n", b""):  # complete, or not even that
        if not end and "256" in reason:
            continue
        with server.connected() as connection:
            connection.sendall(HEAD + headers + end)
            status, body = told(connection)
        assert status == 431
        assert reason in body["detail"]
        assert body["error"]["message"] == body["detail"]


def test_an_address_that_is_too_long_is_a_431(server: LiveServer):
    with server.connected() as connection:
        connection.sendall(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert told(connection)[0] == 431


def test_headers_for_ever_are_ended_by_their_size(server: LiveServer):
    with server.connected() as connection:
        connection.sendall(HEAD)
        sent = sends_until_cut(connection, b"X-A: aaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 100)

    assert sent < 20_000_000  # what lies in buffers on the way


def test_large_headers_within_the_limit_are_taken(server: LiveServer):
    """Large headers within the limit and a large body with them are taken."""
    headers = {f"X-{number}": "a" * 500 for number in range(100)}
    response = server.client.post("/echo/run", json={"text": "x" * 500_000}, headers=headers)

    assert response.status_code == 200


def test_what_is_sent_after_the_answer_is_not_read_for_ever(server: LiveServer):
    with server.connected() as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n")
        assert b"404 Not Found" in connection.recv(65536)
        sent = sends_until_cut(connection, b"x" * 100_000)

    assert 16_000_000 < sent < 60_000_000


def test_what_trickles_in_after_the_answer_is_not_waited_for_for_ever(server: LiveServer):
    with server.connected() as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert b"404 Not Found" in connection.recv(65536)
        sends_until_cut(connection, b"x", at_most=1000, between=lambda: time.sleep(0.05))


def test_connection_survives_an_early_answer(server: LiveServer):
    """A connection goes on after an answer that came before the end of the body."""
    with server.connected() as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        assert b"404 Not Found" in connection.recv(65536)
        connection.sendall(b"x" * 100_000 + ASK)
        assert b"200 OK" in connection.recv(65536)


def test_requests_that_come_before_their_turn_are_all_answered(server: LiveServer):
    with server.connected() as connection:
        connection.sendall(ASK * 5)
        received = b""
        while received.count(b"}") < 5:
            received += connection.recv(65536)
        connection.sendall(HEAD)
        assert told(connection)[0] == 408


def test_a_websocket_is_not_ended_by_the_limit(root: Path):
    async def socket_echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    app = create_app(Settings(pipelines_dir=root, read_timeout=1, _env_file=None))
    app.router.routes.append(WebSocketRoute("/socket", socket_echo))
    with serving(root, app) as server, connect(server.url.replace("http", "ws") + "/socket") as connection:
        time.sleep(2)
        connection.send("x")
        assert connection.recv() == "x"


def test_hundreds_of_slow_clients_do_not_keep_others_from_being_served(server: LiveServer):
    with ExitStack() as stack:
        slow = []
        for index in range(300):
            slow.append(stack.enter_context(server.connected()))
            slow[-1].sendall(HEAD if index % 2 else HEAD + b"Content-Length: 100\r\n\r\n{")
        for _ in range(20):
            assert server.run("echo", text="x") == "echo x"
        assert {told(connection)[0] for connection in slow} == {408}
