"""A fuzzer of one connection at a time, with h11 as the judge of what was sent and what comes back.

What the application sees must be what h11 reads in the same bytes, however they are cut, and each response must be that
of its request. Of mutated bytes it may see less, up to the first request that is refused, but never anything else.
"""

import hashlib
import os
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from starlette.types import Receive, Scope, Send

from hayhooks.server.fast_cycle import PendingHeads
from hayhooks.server.fast_protocol import FastHttpProtocol
from hayhooks.server.plain_protocol import PlainHttpProtocol
from hayhooks.server.protocol import StalledClients
from tests.live_server import eventually
from tests.network import HOST
from tests.server.test_protocol import serving_by

LARGE = b"large" * 100_000
OPAQUE = b"the body was not read"

Seen = tuple[str, str, bytes, tuple[tuple[bytes, bytes], ...]]  # method, path, body, headers


class Application:
    """Responds as the path says, and notes what it sees of each connection."""

    def __init__(self) -> None:
        self.seen: defaultdict[int, list[Seen]] = defaultdict(list)  # by the client's port
        self.running: defaultdict[int, int] = defaultdict(int)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        port, path = scope["client"][1], scope["path"]
        self.running[port] += 1
        try:
            if path != "/early":
                body = b""
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    if not message.get("more_body"):
                        break
                self.seen[port].append((scope["method"], path, body, tuple(scope["headers"])))
            if path == "/wait":
                while (await receive())["type"] != "http.disconnect":
                    pass
                return
            content = OPAQUE if path == "/early" else response_to(scope["method"], path, body)
            parts = [content[:10], b"", content[10:]] if path == "/chunks" else [content]
            headers = [] if path == "/chunks" else [(b"content-length", b"%d" % len(content))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for index, part in enumerate(parts, 1):
                await send({"type": "http.response.body", "body": part, "more_body": index < len(parts)})
        finally:
            self.running[port] -= 1


def response_to(method: str, path: str, body: bytes) -> bytes:
    content = f"{method} {path} {hashlib.sha256(body).hexdigest()}".encode()
    return content + LARGE if path == "/large" else content


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A valid request."""
    version = draw(st.sampled_from(["1.1"] * 9 + ["1.0"]))
    method = draw(st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS"]))
    path = draw(st.sampled_from(["/fixed", "/chunks", "/early", "/large"])) if version == "1.1" else "/fixed"
    headers = [b"Host: x"]
    if draw(st.booleans()):
        headers += draw(st.sampled_from(UPGRADES))
    if version == "1.1" and not draw(st.integers(0, 9)):
        headers.append(b"Connection: close")
    headers += [b"X-%d: %b" % (number, b"a" * 40) for number in range(draw(st.sampled_from([0, 0, 1, 30, 100])))]
    body = draw(bodies)
    how = draw(st.sampled_from(["length", "chunks"])) if version == "1.1" else "length"
    if body is None:
        return head(method, path, version, headers)
    if version == "1.1" and path != "/early" and draw(st.booleans()):
        headers.append(b"Expect: 100-continue")
    if how == "length":
        return head(method, path, version, [*headers, b"Content-Length: %d" % len(body)]) + body
    step = max(draw(st.integers(1, 5000)), len(body) // 50)
    extension = draw(st.sampled_from([b"", b";a=b", b';a="b c"']))
    chunks = [body[start : start + step] for start in range(0, len(body), step)]
    trailers = draw(st.sampled_from([b"", b"X-Trailer: a\r\n", b"Host: y\r\nAuthorization: Bearer x\r\n"]))
    encoded = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return (
        head(method, path, version, [*headers, b"Transfer-Encoding: chunked"]) + encoded + b"0\r\n" + trailers + b"\r\n"
    )


def head(method: str, path: str, version: str, headers: list[bytes]) -> bytes:
    return b"\r\n".join([f"{method} {path} HTTP/{version}".encode(), *headers, b"", b""])


UPGRADES = [
    [b"Connection: upgrade", b"Upgrade: h2c"],
    [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"],
    [b"Upgrade: foo", b"Connection: keep-alive, upgrade"],
    [b"Connection: upgrade"],
    [b"Upgrade: websocket"],
]
SMUGGLED = b"GET /fixed HTTP/1.1\r\nHost: smuggled\r\n\r\n"
bodies = st.one_of(
    st.none(),
    st.binary(max_size=100),
    st.sampled_from(
        [SMUGGLED, SMUGGLED * 100, b"0\r\n\r\n" + SMUGGLED, b"x" * 3000, b"\r\n\r\n" * 20_000, b"x" * 200_000]
    ),
)
MALFORMED = [
    b"GARBAGE\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"POST /fixed HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
]


class Judge:
    """What h11 reads in the bytes of a client."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.ended = False  # nothing that follows is a request
        self.refused = False
        self.exceeded = False  # more was sent after the end: the system may reset the connection when it is closed
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=65536)
        self._request: h11.Request | None = None
        self._body = b""

    def read(self, data: bytes) -> None:
        if self.ended or not data:  # which to h11 means that the client has closed
            self.exceeded = self.exceeded or bool(data)
            return
        self._connection.receive_data(data)
        try:
            while not self.ended and (event := self._connection.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Request):
                    self._request, self._body = event, b""
                elif isinstance(event, h11.Data):
                    self._body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self._respond()
                else:
                    self.ended = True
        except h11.RemoteProtocolError:
            self.ended = self.refused = True
        if self.ended and self._connection.trailing_data[0]:
            self.exceeded = True

    def _respond(self) -> None:
        assert self._request is not None
        method, target, headers = self._request.method, self._request.target, self._request.headers
        self.requests.append((method.decode(), target.decode(), self._body, tuple(headers)))
        self._connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        self._connection.send(h11.EndOfMessage())
        if self._connection.our_state is h11.MUST_CLOSE:
            self.ended = True
        else:
            self._connection.start_next_cycle()


class Fuzzer(RuleBasedStateMachine):
    """One client after the other."""

    port: int
    application: Application

    @initialize(receive_buffer=st.sampled_from([0, 4096]))
    def connect(self, receive_buffer: int) -> None:
        self.connection = socket.socket()
        self.connection.settimeout(60)
        if receive_buffer:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.connect((HOST, self.port))
        self.own_port = self.connection.getsockname()[1]
        self.application.seen.pop(self.own_port, None)
        self.judge = Judge()
        self.answered = 0
        self.received = b""
        self.unsent = b""
        self.is_mutated = False
        self.is_broken = False  # the server has closed it

    def send(self, data: bytes) -> None:
        """Send *data* in pieces as small as the socket takes; read where the server must be read first."""
        self.judge.read(data)
        self.unsent += data
        self.push()

    def push(self) -> None:
        """Send what is unsent, as far as the server takes it without being read."""
        self.connection.setblocking(False)
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self.unsent:
                self.unsent = self.unsent[self.connection.send(self.unsent) :]
        self.connection.settimeout(60)

    @rule(request=requests(), cuts=st.lists(st.integers(0, 400), max_size=4))
    def ask(self, request: bytes, cuts: list[int]) -> None:
        start = 0
        for cut in [*sorted(cuts), len(request)]:
            self.send(request[start:cut])
            start = max(start, cut)

    @rule(batch=st.lists(requests(), min_size=2, max_size=6), last=st.integers(0, 30))
    def pipeline(self, batch: list[bytes], last: int) -> None:
        data = b"".join(batch)
        self.send(data[: len(data) - last])
        self.send(data[len(data) - last :])

    @rule(count=st.integers(1, 300))
    def ask_often(self, count: int) -> None:
        self.send(b"GET /fixed HTTP/1.1\r\nHost: x\r\n\r\n" * count)

    @rule(size=st.integers(1, 20_000))
    def read_some(self, size: int) -> None:
        self.connection.setblocking(False)
        with suppress(BlockingIOError, ConnectionResetError):
            self.received += self.connection.recv(size)
        self.connection.settimeout(60)

    @rule(count=st.integers(1, 50))
    def read_responses(self, count: int) -> None:
        while count and self.answered < len(self.judge.requests) and self.read_response():
            count -= 1

    def read_response(self) -> bool:
        """Read and check the next response; False if the connection is closed before it."""
        if self.is_broken:
            return False
        method, path, body, _ = self.judge.requests[self.answered]
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target=path, headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        if self.received:
            client.receive_data(self.received)
        status, content = 0, b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                if not (data := self.receive()):
                    assert self.is_mutated or self.judge.exceeded, f"closed instead of a response to {method} {path}"
                    self.is_broken = True
                    return False
                client.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += bytes(event.data)
        self.received = client.trailing_data[0]
        if self.is_mutated and status in (400, 431, 501):
            self.is_broken = True
            return False
        assert status == 200, content
        expected = OPAQUE if path == "/early" else response_to(method, path, body)
        assert content == (b"" if method == "HEAD" else expected)
        self.answered += 1
        return True

    def receive(self) -> bytes:
        """Wait for data; return nothing if the connection is closed."""
        self.push()
        try:
            return self.connection.recv(65536)
        except ConnectionResetError:
            return b""

    @rule(request=st.sampled_from(MALFORMED))
    def ask_something_malformed(self, request: bytes) -> None:
        """It is refused after the responses before it, and the connection closed."""
        if not self.judge.ended:
            self.send(request)
            assert self.judge.refused
        self.finish()

    @rule(request=requests(), mutations=st.lists(st.tuples(st.integers(0, 1000), st.binary(max_size=3)), max_size=3))
    def ask_something_mutated(self, request: bytes, mutations: list[tuple[int, bytes]]) -> None:
        for at, data in mutations:
            at %= len(request)
            request = request[:at] + data + request[at + 1 :]
        self.is_mutated = True
        self.send(request)
        self.leave()

    @rule(tail=st.sampled_from([b"", b"GET /fi", b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"]))
    def leave(self, tail: bytes = b"") -> None:
        """Close the connection early: the work for it ends, and what the application saw is what was sent."""
        self.send(tail)
        self.connection.close()
        self.check_seen()
        self.connect(0)

    @rule()
    def finish(self) -> None:
        """Read all; if the last request ends the connection, so does the server."""
        while self.answered < len(self.judge.requests) and self.read_response():
            pass
        if self.judge.ended and not (self.unsent or self.is_broken or self.judge.exceeded):
            rest = self.received
            with suppress(ConnectionResetError):
                while data := self.connection.recv(65536):
                    rest += data
            assert rest.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")) if self.judge.refused else not rest, rest[:200]
        self.connection.close()
        self.check_seen()
        self.connect(0)

    def check_seen(self) -> None:
        eventually(lambda: not self.application.running[self.own_port], "the work for a client that left to end")
        read = [request for request in self.judge.requests if request[1] != "/early"]
        seen = self.application.seen[self.own_port]
        assert seen[: len(read)] == read[: len(seen)]
        if len(seen) > len(read):  # h11 is stricter in what is allowed in a header
            assert self.is_mutated
            assert self.judge.refused

    def teardown(self) -> None:
        self.connection.close()
        self.check_seen()


@pytest.fixture(scope="module", params=["fast", "plain"])
def machine(request: pytest.FixtureRequest) -> Iterator[type[Fuzzer]]:
    stalled = StalledClients(write_timeout_s=20)
    protocol: Any = (
        partial(FastHttpProtocol, read_timeout_s=30, pending_heads=PendingHeads(), stalled_clients=stalled)
        if request.param == "fast"
        else partial(PlainHttpProtocol, stalled_clients=stalled)
    )
    application = Application()
    with ExitStack() as stack:
        port = stack.enter_context(serving_by(protocol, application))
        yield type("Machine", (Fuzzer,), {"port": port, "application": application})


def test_what_the_application_sees_and_the_client_gets_is_what_was_sent(machine: type[Fuzzer]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=400 if os.environ.get("CI") else 25,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[
                Phase.explicit,
                Phase.reuse,
                Phase.generate,
            ],  # to shrink takes minutes, where a server must be waited for
        ),
    )
