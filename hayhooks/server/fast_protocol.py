"""HTTP as uvicorn speaks it, where a short answer costs less: 9 microseconds of processor time, of 77 for a ``/run``.

uvicorn writes the head of an answer and its body apart, which are two system calls and two packets, tests every header
with regular expressions, and sets a timer after every answer.
"""

import asyncio
from types import FunctionType
from typing import Any, ClassVar

from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

Headers = list[tuple[bytes, bytes]]

_OFTEN_EQUAL = frozenset({b"content-type", b"cache-control", b"vary", b"x-hayhooks-revision"})
_LINES_KEPT = 256  # of such headers
_LONGEST_KEPT = 200  # bytes of one: a wrapper may send back what a client thinks up

_SMALL = 64 * 1024  # bytes of a body that is cheaper to copy than to write by itself


class CoalescingProtocol(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # One for all connections of the server: it has the same loop.
        self._held: _Held = self.server_state.__dict__.setdefault("hayhooks_held", _Held(self.loop))

    def on_headers_complete(self) -> None:
        """As uvicorn's; the answer is ours."""
        before = self.cycle
        _on_headers_complete(self)
        if self.cycle is not before:
            self.cycle.held = self._held  # type: ignore[attr-defined]

    def on_response_complete(self) -> None:
        """As uvicorn's, without its timer for idle connections: whoever derives from this has one of its own."""
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()


class _Held:
    """Heads of answers that are held back for their bodies, for the rest of this turn of the loop.

    No longer: a client that gets nothing might ask again, and what it asked has run.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._cycles: list[_Cycle] = []

    def add(self, cycle: "_Cycle") -> None:
        """Have the head of *cycle* leave at the end of the turn, if it has not left by then."""
        if not self._cycles:
            self._loop.call_soon(self._flush)
        self._cycles.append(cycle)

    def _flush(self) -> None:
        cycles, self._cycles = self._cycles, []
        for cycle in cycles:
            cycle.flush()


class _Cycle(RequestResponseCycle):
    """One request and its answer."""

    held: _Held
    _head = b""  # held back for the body to leave with it; only where its length is known
    _known: ClassVar[dict[tuple[bytes, bytes], bytes]] = {}  # the lines of headers that have passed the tests
    _of_server: ClassVar[tuple[Headers, bytes]] = ([], b"")  # uvicorn's own headers, which change once a second

    async def send(self, message: Any) -> None:
        """As uvicorn's."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = "http.response.body" if self.response_started else "http.response.start"
        if message["type"] != kind or self.response_complete:
            wanted = "nothing more" if self.response_complete else repr(kind)
            raise RuntimeError(f"The ASGI message {message['type']!r} was sent where the server expects {wanted}")
        if self.response_started:
            self._write_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            self._begin(message["status"], message.get("headers", ()))

    def _begin(self, status: int, headers: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status], self._lines_of_server()]
        for header in headers:
            if type(header) is tuple and type(header[0]) is type(header[1]) is bytes:
                lines.append(self._known.get(header) or self._line(*header))
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
            self.held.add(self)
        else:
            self.transport.write(head)

    def flush(self) -> None:
        """Send the head now, if it is held back still."""
        head, self._head = self._head, b""
        if head and not self.disconnected and not self.transport.is_closing():
            self.transport.write(head)

    def _line(self, name: bytes, value: bytes) -> bytes:
        """The line of a header, of which what it says of the connection or the body is noted."""
        name = name.lower()
        if name == b"content-length" and self.chunked_encoding is None:
            self.expected_content_length = int(value)
            self.chunked_encoding = False
            return b"content-length: %d\r\n" % self.expected_content_length
        if name != b"x-request-id" and HEADER_RE.search(name):
            raise RuntimeError(f"A header must not be called {name!r}")
        if not value.isalnum() and HEADER_VALUE_RE.search(value):
            raise RuntimeError(f"The header {name!r} must not be {value!r}")
        line = b"%b: %b\r\n" % (name, value)
        if name == b"transfer-encoding" and value.lower() == b"chunked":
            self.expected_content_length = 0
            self.chunked_encoding = True
        elif name == b"connection":
            if b"close" in (token.strip() for token in value.lower().split(b",")):
                self.keep_alive = False
                return b""  # it is said in the end
        elif name in _OFTEN_EQUAL and len(line) <= _LONGEST_KEPT:
            if len(self._known) >= _LINES_KEPT:
                self._known.clear()
            self._known[name, value] = line
        return line

    def _lines_of_server(self) -> bytes:
        headers, lines = self._of_server
        if headers is not self.default_headers:
            headers = self.default_headers
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            _Cycle._of_server = headers, lines
        return lines

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
        if head and len(body) > _SMALL:
            self.transport.write(head)
            head = b""
        self.transport.write(head + body)
        if not more:
            self._end()

    def _end(self) -> None:
        if self.expected_content_length:
            raise RuntimeError("The response's content is shorter than its Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


# uvicorn's, but for the class of the cycles that it makes, for which it has no hook: to give a cycle another class when
# it is made costs it the fast attributes of its instances, a microsecond of a request.
_on_headers_complete = FunctionType(
    HttpToolsProtocol.on_headers_complete.__code__, {**vars(httptools_impl), "RequestResponseCycle": _Cycle}
)
