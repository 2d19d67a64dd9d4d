"""The fast protocol's requests and responses: few writes, and each header is tested once."""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

from hayhooks.server.protocol import NO_SCOPE, TLS_PIECE_BYTES, pieces_of

Headers = list[tuple[bytes, bytes]]

_CACHED_HEADERS = frozenset({b"content-type", b"cache-control", b"vary", b"x-hayhooks-revision"})
_MAX_CACHED_LINES = 256
_MAX_CACHED_LINE_BYTES = 200  # a wrapper may send back what a client chose

# A client that sends a long body reads no response before its end, and finds none if it is cut off. After the response
# up to this many bytes of the body are discarded; with more the connection is closed.
MAX_DISCARDED_BYTES = 16 * 1024 * 1024

_MAX_COPIED_BYTES = 64 * 1024  # a larger body is written by itself, not joined with its head


class PendingHeads:
    """Response heads held back for their bodies until the end of the loop's iteration.

    No longer than that: a client that receives nothing may repeat a request that has run.
    """

    def __init__(self) -> None:
        self._cycles: list[FastCycle] = []

    def add(self, cycle: "FastCycle") -> None:
        """Send the head of *cycle* at the end of the iteration, unless it is sent by then."""
        if not self._cycles:
            asyncio.get_running_loop().call_soon(self._flush)
        self._cycles.append(cycle)

    def _flush(self) -> None:
        cycles, self._cycles = self._cycles, []
        for cycle in cycles:
            cycle.flush()


def _unexpected(kind: str, wanted: str) -> RuntimeError:
    return RuntimeError(f"ASGI message {kind!r} sent where the server expects {wanted}")


class FastCycle(RequestResponseCycle):
    """One request and its response: one write for head and body, cached header lines."""

    pending_heads: PendingHeads
    _all_sent = False
    _head = b""  # held back for the body; only if its length is known
    _lines: ClassVar[dict[tuple[bytes, bytes], bytes]] = {}  # of headers that have passed the tests
    _server_lines: ClassVar[tuple[Headers, bytes]] = ([], b"")  # uvicorn's own headers change once a second

    async def send(self, message: Any) -> None:
        """Send an ASGI message; RuntimeError if it is not the one that comes next."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise _unexpected(kind, "'http.response.start'")
            self._start(message["status"], message.get("headers", ()))
            return
        if kind != "http.response.body" or self._all_sent:
            raise _unexpected(kind, "nothing more" if self._all_sent else "'http.response.body'")
        body, more = message.get("body", b""), message.get("more_body", False)
        if more:
            self._write_body(body, more=True)
            return
        self._all_sent = True
        if len(body) > TLS_PIECE_BYTES and self.scope["scheme"] == "https":
            await self._write_pieces(body)
        else:
            self._write_body(body, more=False)
        if self.flow.write_paused:  # a request lasts to its last byte
            await self.flow.drain()
        self.response_complete = True
        self.scope = NO_SCOPE
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def _write_pieces(self, body: bytes) -> None:
        *pieces, last = pieces_of(body)
        for piece in pieces:
            self._write_body(piece, more=True)
            if self.flow.write_paused:
                await self.flow.drain()
            if self.disconnected:
                return
        self._write_body(last, more=False)

    def flush(self) -> None:
        """Send the head if it is still held back."""
        head, self._head = self._head, b""
        if head and not self.disconnected and not self.transport.is_closing():
            self.transport.write(head)

    def _start(self, status: int, headers: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        server_headers, server_lines = self._server_lines
        if server_headers is not self.default_headers:
            server_lines = b"".join(b"%b: %b\r\n" % header for header in self.default_headers)
            FastCycle._server_lines = self.default_headers, server_lines
        lines = [STATUS_LINE[status], server_lines]
        cached = self._lines
        for header in headers:
            try:
                line = cached.get(header)
            except TypeError:  # a list, or of bytearrays
                line = None
            lines.append(line or self._line(*header))
        if not self.keep_alive or (self.more_body and self._is_long()):
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

    def _is_long(self) -> bool:
        """Whether the protocol may close the connection before the body ends: the client is not to use it again."""
        sizes = [int(value) for name, value in self.scope["headers"] if name == b"content-length"]
        return not sizes or sizes[0] > MAX_DISCARDED_BYTES

    def _line(self, name: bytes, value: bytes) -> bytes:
        """Encode a valid header; note its effect on the connection and the body."""
        name, value = bytes(name).lower(), bytes(value)
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
        if self.expected_content_length and not more:
            raise RuntimeError("The response's content is shorter than its Content-Length")
