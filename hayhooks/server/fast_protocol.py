"""The fast HTTP protocol: uvicorn's httptools one with limits and fewer writes.

It overrides private parts of uvicorn, so ``config.py`` uses it only with versions that
tests/server/test_protocol.py passes with. Benchmark row ``run-async`` falls without it: uvicorn
writes head and body apart, tests every header, and sets a timer after every response.
"""

import asyncio
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from hayhooks.server.protocol import MAX_HEAD_BYTES, NO_SCOPE, GracefulClose

Headers = list[tuple[bytes, bytes]]

_MAX_HEADERS = 256

# A client that sends a long body reads no response before its end, and finds none if it is cut off. After the response
# up to this many bytes of the body are discarded.
_MAX_DISCARDED_BYTES = 16 * 1024 * 1024

_CACHED_HEADERS = frozenset({b"content-type", b"cache-control", b"vary", b"x-hayhooks-revision"})
_MAX_CACHED_LINES = 256
_MAX_CACHED_LINE_BYTES = 200  # a wrapper may send back what a client chose

_MAX_COPIED_BYTES = 64 * 1024  # a larger body is written by itself, not joined with its head


class _HeadTooLargeError(Exception):
    """Ends the parsing of a request."""


class FastHttpProtocol(GracefulClose, HttpToolsProtocol):
    """One client connection; the server's connections share *pending_heads*.

    *read_timeout_s* limits the wait for a request's headers, from the connection or the previous response on.
    """

    def __init__(self, *args: Any, read_timeout_s: float, pending_heads: "PendingHeads", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_timeout_s = read_timeout_s
        self._pending_heads = pending_heads
        self._waiting_since: float | None = None  # for request headers; None while a request is in progress
        self._received_bytes = 0  # since then
        self._discarding = False  # they begin with the rest of a body that nobody reads
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: tuple[int, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the connection's one timer."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._timer = self.loop.call_later(self._read_timeout_s, self._check_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, *event: Any) -> None:
        """Stop the timer: the websocket protocol has its own."""
        self._stop_timer()
        super().handle_websocket_upgrade(*event)

    def data_received(self, data: bytes) -> None:
        """Parse *data*; limit the bytes before a request's headers are complete."""
        self._received_bytes += len(data)
        super().data_received(data)
        limit = _MAX_DISCARDED_BYTES if self._discarding else MAX_HEAD_BYTES
        if self._waiting_since is not None and self._received_bytes > limit:
            self._close(431, f"Request headers too large: more than {MAX_HEAD_BYTES:,} bytes")

    def on_headers_complete(self) -> None:
        """Start the request: uvicorn's method, with our limits and our cycle."""
        self._check_head()
        self._waiting_since = None
        scope, http_version = self.scope, self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        if http_version != "1.1":
            scope["http_version"] = http_version
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + url.path
        scope["query_string"] = url.query or b""
        previous = self.cycle
        self.cycle = cycle = _Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=http_version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        cycle.pending_heads = self._pending_heads
        self.scope = NO_SCOPE
        if previous is None or previous.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:  # pipelined
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_response_complete(self) -> None:
        """Start a pipelined request, or wait for the next one's headers."""
        discarding = self.cycle.more_body
        if self.pipeline:
            self.outside_request.run(super().on_response_complete)
        else:  # without uvicorn's keep-alive timer: ours runs
            self.server_state.total_requests += 1
            if self.flow.read_paused and not self.transport.is_closing():
                self.outside_request.run(self.flow.resume_reading)
        if self.cycle.response_complete:
            self._waiting_since = self.loop.time()
            self._received_bytes, self._discarding = 0, discarding

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is malformed or too large."""
        if self._refusal is None:
            super().send_400_response(msg)
        else:
            self.respond_and_close(*self._refusal)

    def _check_head(self) -> None:
        if self._received_bytes > MAX_HEAD_BYTES:  # the body may be part of it
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                self._refusal = (
                    431,
                    f"Request headers too large: {size:,} bytes; at most {MAX_HEAD_BYTES:,} are allowed",
                )
                raise _HeadTooLargeError
        if len(self.headers) > _MAX_HEADERS:
            self._refusal = 431, f"Too many request headers: {len(self.headers):,}; at most {_MAX_HEADERS} are allowed"
            raise _HeadTooLargeError

    def _check_timeout(self) -> None:
        wait_s = self._read_timeout_s
        if self._waiting_since is not None:
            wait_s += self._waiting_since - self.loop.time()
        if wait_s > 0:
            self._timer = self.loop.call_later(wait_s, self._check_timeout)
            return
        self._close(408, f"Request headers were not complete within {self._read_timeout_s:g} s (HAYHOOKS_READ_TIMEOUT)")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _close(self, status: int, message: str) -> None:
        if self._discarding or not self._received_bytes:
            self.transport.close()  # nobody waits for a response
        elif not self.transport.is_closing():
            self.respond_and_close(status, message)


class PendingHeads:
    """Response heads held back for their bodies until the end of the loop's iteration.

    No longer than that: a client that receives nothing may repeat a request that has run.
    """

    def __init__(self) -> None:
        self._cycles: list[_Cycle] = []

    def add(self, cycle: "_Cycle") -> None:
        """Send the head of *cycle* at the end of the iteration, unless it is sent by then."""
        if not self._cycles:
            asyncio.get_running_loop().call_soon(self._flush)
        self._cycles.append(cycle)

    def _flush(self) -> None:
        cycles, self._cycles = self._cycles, []
        for cycle in cycles:
            cycle.flush()


class _Cycle(RequestResponseCycle):
    """One request and its response: one write for head and body, cached header lines."""

    pending_heads: PendingHeads
    _head = b""  # held back for the body; only if its length is known
    _lines: ClassVar[dict[tuple[bytes, bytes], bytes]] = {}  # of headers that have passed the tests
    _server_lines: ClassVar[tuple[Headers, bytes]] = ([], b"")  # uvicorn's own headers change once a second

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        expected = "http.response.body" if self.response_started else "http.response.start"
        if message["type"] != expected or self.response_complete:
            wanted = "nothing more" if self.response_complete else repr(expected)
            raise RuntimeError(f"ASGI message {message['type']!r} sent where the server expects {wanted}")
        if self.response_started:
            self._write_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            self._start(message["status"], message.get("headers", ()))

    def flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self.disconnected and not self.transport.is_closing():
            self.transport.write(head)

    def _start(self, status: int, headers: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        server_headers, server_lines = self._server_lines
        if server_headers is not self.default_headers:
            server_lines = b"".join(b"%b: %b\r\n" % header for header in self.default_headers)
            _Cycle._server_lines = self.default_headers, server_lines
        lines = [STATUS_LINE[status], server_lines]
        for header in headers:
            if type(header) is tuple and type(header[0]) is type(header[1]) is bytes:
                lines.append(self._lines.get(header) or self._line(*header))
            else:
                lines.append(self._line(*map(bytes, header)))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if self.expected_content_length:
            self._head = head
            self.pending_heads.add(self)
        else:
            self.transport.write(head)

    def _line(self, name: bytes, value: bytes) -> bytes:
        """Encode a valid header; note its effect on the connection and the body."""
        name = name.lower()
        if name == b"content-length" and self.chunked_encoding is None:
            self.expected_content_length = int(value)
            self.chunked_encoding = False
            return b"content-length: %d\r\n" % self.expected_content_length
        if name != b"x-request-id" and HEADER_RE.search(name):
            raise RuntimeError(f"Invalid header name {name!r}")
        if not value.isalnum() and HEADER_VALUE_RE.search(value):
            raise RuntimeError(f"Invalid value {value!r} of header {name!r}")
        line = b"%b: %b\r\n" % (name, value)
        if name == b"transfer-encoding" and value.lower() == b"chunked":
            self.expected_content_length = 0
            self.chunked_encoding = True
        elif name == b"connection":
            if b"close" in (token.strip() for token in value.lower().split(b",")):
                self.keep_alive = False
                return b""  # added after the last header
        elif name in _CACHED_HEADERS and len(line) <= _MAX_CACHED_LINE_BYTES:
            if len(self._lines) >= _MAX_CACHED_LINES:
                self._lines.clear()
            self._lines[name, value] = line
        return line

    def _write_body(self, body: bytes, *, more: bool) -> None:
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            body = b""
        elif self.chunked_encoding:
            end = b"" if more else b"0\r\n\r\n"
            body = b"%x\r\n%b\r\n%b" % (len(body), body, end) if body else end
        elif len(body) > self.expected_content_length:
            self.transport.write(head)
            raise RuntimeError("The response's content is longer than its Content-Length")
        else:
            self.expected_content_length -= len(body)
        if head and len(body) > _MAX_COPIED_BYTES:
            self.transport.write(head)
            head = b""
        self.transport.write(head + body)
        if more:
            return
        if self.expected_content_length:
            raise RuntimeError("The response's content is shorter than its Content-Length")
        self.response_complete = True
        self.scope = NO_SCOPE
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
