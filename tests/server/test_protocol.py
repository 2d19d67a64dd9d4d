"""What goes over the wire: the same as uvicorn's own protocol sends, whatever an application says."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hayhooks.server.fast_cycle import PendingHeads
from hayhooks.server.fast_protocol import FastHttpProtocol
from hayhooks.server.plain_protocol import PlainHttpProtocol
from hayhooks.server.protocol import StalledClients
from tests.live_server import eventually
from tests.network import connected

TEXT = (b"content-type", b"text/plain")


def start(*headers: Any, status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: Any, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def length(size: int) -> tuple[bytes, bytes]:
    return (b"content-length", b"%d" % size)


ANSWERS: dict[str, list[Message]] = {
    "short": [start(length(5), TEXT), body(b"short")],
    "twice": [start(TEXT, TEXT, length(5)), body(b"twice")],
    "empty": [start(length(0)), body(b"")],
    "large": [start(length(300_000)), body(b"x" * 300_000)],
    "in-parts": [start(length(6)), body(b"in", more=True), body(b"", more=True), body(b"part")],
    "of-unknown-length": [start(TEXT), body(b"one", more=True), body(b"", more=True), body(b"two")],
    "in-chunks": [start((b"Transfer-Encoding", b"Chunked")), body(b"one", more=True), body(b"")],
    "nothing": [start(status=204), body(b"")],
    "not-modified": [start((b"etag", b'"1"'), status=304), body(b"")],
    "closing": [start(length(7), (b"connection", b"close")), body(b"closing")],
    "upper-case": [start((b"Content-Length", b"5"), (b"X-Thing", b"A b")), body(b"upper")],
    "lists": [start([b"content-length", b"5"], [b"content-type", b"a/b"]), body(b"lists")],
    "memory-in-a-tuple": [start(length(5), (b"x-a", memoryview(b"a")), (b"x-a", bytearray(b"b"))), body(b"tuple")],
    "bytearrays": [start(length(5), (bytearray(b"content-type"), memoryview(b"a/b"))), body(bytearray(b"bytes"))],
    "memory": [start(length(6)), body(memoryview(b"memory"))],
    "late": [start(length(4)), body(b"late")],
    "no-headers": [{"type": "http.response.start", "status": 200}, {"type": "http.response.body"}],
    "odd-status": [start(length(0), status=599), body(b"")],
}

# Of these only what the client sees is compared: that the connection is closed before the answer's end.
BROKEN: dict[str, list[Message]] = {
    "late-too-long": [start(length(1)), body(b"too long")],
    "late-nothing": [start(length(1))],
    "too-long": [start(length(1)), body(b"too long")],
    "too-short": [start(length(100)), body(b"too short")],
    "no-end": [start(), body(b"begun", more=True)],
    "not-begun": [body(b"not begun")],
    "begun-twice": [start(length(1)), start(length(1))],
    "after-the-end": [start(length(1), (b"connection", b"close")), body(b"1"), body(b"2")],
    "bad-name": [start((b"bad name", b"1"), length(0)), body(b"")],
    "bad-value": [start((b"content-type", b"a\r\nb: c"), length(0)), body(b"")],
    "bad-length": [start((b"content-length", b"1\r\nb: c")), body(b"1")],
    "number-for-length": [start((b"content-length", 1)), body(b"1")],
    "odd-length": [start((b"content-length", b"five")), body(b"12345")],
    "bad-id": [start((b"x-request-id", b"a\nb"), length(0)), body(b"")],
}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the messages that the path names."""
    while (await receive()).get("more_body"):
        pass
    name = scope["path"][1:]
    for message in {**ANSWERS, **BROKEN}[name]:
        await send(dict(message))
        if name.startswith("late"):
            await asyncio.sleep(0.01)


@contextmanager
def serving_by(protocol: Any, app: Any = application) -> Iterator[int]:
    """Serve *app* with *protocol*; yields the port."""
    config = uvicorn.Config(
        app, http=protocol, host="127.0.0.1", port=0, lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=30)


STALLED_CLIENTS = StalledClients(write_timeout_s=30)
PROTOCOLS = {
    "fast": (
        partial(FastHttpProtocol, read_timeout_s=30, pending_heads=PendingHeads(), stalled_clients=STALLED_CLIENTS),
        HttpToolsProtocol,
    ),
    "h11": (partial(PlainHttpProtocol, stalled_clients=STALLED_CLIENTS), H11Protocol),
}


@pytest.fixture(scope="module", params=PROTOCOLS)
def ports(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """Where ours serves, and where uvicorn's does."""
    ours, uvicorns = PROTOCOLS[request.param]
    with ExitStack() as stack:
        yield stack.enter_context(serving_by(ours)), stack.enter_context(serving_by(uvicorns))


def talk(port: int, *requests: bytes) -> bytes:
    """All that is answered to *requests* before the connection is closed, without the date."""
    with connected(port) as connection:
        connection.sendall(b"".join(requests))
        received = b""
        try:
            while piece := connection.recv(1 << 20):
                received += piece
        except ConnectionResetError:
            received += b"(reset)"
    return b"\r\n".join(line for line in received.split(b"\r\n") if not line.startswith(b"date:"))


def request(name: str, *, method: str = "GET", version: str = "1.1", last: bool = False) -> bytes:
    end = "Connection: close\r\n" if last else ""
    return f"{method} /{name} HTTP/{version}\r\nHost: x\r\n{end}\r\n".encode()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_sent_as_uvicorn_sends_it(name: str, method: str, ports: tuple[int, int]) -> None:
    # The second time what is known of its headers is used, and the last one closes the connection.
    asked = request(name, method=method), request(name, method=method), request(name, method=method, last=True)
    ours, uvicorns = (talk(port, *asked) for port in ports)
    assert ours == uvicorns
    assert ours.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("name", ["short", "of-unknown-length"])
def test_a_client_of_http_1_0_is_answered_as_uvicorn_answers_it(name: str, ports: tuple[int, int]) -> None:
    ours, uvicorns = (talk(port, request(name, version="1.0")) for port in ports)
    assert ours == uvicorns
    assert ours.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_ends_its_connection_and_no_other(name: str, ports: tuple[int, int]) -> None:
    ours, uvicorns = (talk(port, request(name)) for port in ports)
    assert b"b: c" not in ours
    # Only where all is over in the turn of the loop in which it began has ours sent no head yet.
    assert ours == uvicorns or (ours == b"" and name in ("begun-twice",))
    assert talk(ports[0], request("short", last=True)).endswith(b"short")


@pytest.mark.parametrize("ports", ["fast"], indirect=True)
def test_a_short_answer_comes_in_one_piece(ports: tuple[int, int]) -> None:
    with connected(ports[0]) as connection:
        for _ in range(20):
            connection.sendall(request("short"))
            assert connection.recv(65536).endswith(b"\r\n\r\nshort")


def test_requests_sent_at_once_are_answered_in_order(ports: tuple[int, int]) -> None:
    names = ["short", "in-parts", "of-unknown-length", "nothing", "large", "empty"]
    asked = [request(name, last=name == "empty") for name in names]
    ours, uvicorns = (talk(port, *asked) for port in ports)
    assert ours == uvicorns
    assert ours.count(b"HTTP/1.1 ") == len(names)
