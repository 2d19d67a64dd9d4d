"""The fast HTTP protocol: uvicorn's httptools one with limits and fewer writes.

It overrides private parts of uvicorn, so ``config.py`` uses it only with versions that
tests/server/test_protocol.py passes with. Benchmark row ``run-async`` falls without it: uvicorn
writes head and body apart, tests every header, and sets a timer after every response.
"""

import asyncio
from collections import deque
from operator import itemgetter
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hayhooks.server.fast_cycle import MAX_DISCARDED_BYTES, FastCycle, PendingHeads
from hayhooks.server.protocol import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    NO_SCOPE,
    GracefulClose,
    too_many_headers,
    wrong_version,
)

# The parser takes data in slices of this size. A slice that ends a request may hold many more of a few bytes, and each
# of them takes some kilobytes.
_MAX_SLICE_BYTES = 8192


_NAME = itemgetter(0)  # of a header


class _RequestRefusedError(Exception):
    """Ends the parsing of a request, with the status and message of the response."""


class _Trailers:
    """Drops the trailers of a chunked body, where the parser's callback appends headers."""

    def append(self, header: tuple[bytes, bytes]) -> None:
        pass


_TRAILERS: Any = _Trailers()


class FastHttpProtocol(GracefulClose, HttpToolsProtocol):
    """One client connection; the server's connections share *pending_heads*.

    *read_timeout_s* limits the wait for a request's headers, from the connection or the previous response on.
    While a response is due, nothing that follows its request is parsed, and at most one piece of it is read.
    """

    cycle: Any  # of the request parsed last; None before the first one
    headers: Any  # _TRAILERS after a head is complete
    parser: Any  # None after the connection is lost or became a websocket
    pipeline: deque[tuple[FastCycle, Any]]  # type: ignore[assignment]  # requests in one slice with that before them

    def __init__(self, *args: Any, read_timeout_s: float, pending_heads: PendingHeads, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_timeout_s = read_timeout_s
        self._pending_heads = pending_heads
        self._running: FastCycle | None = None  # the request whose response comes next
        self._ahead = b""  # unparsed
        self._refusal: tuple[int, str] | None = None  # of a request that waits for the responses before it
        self._waiting_since: float | None = None  # for request headers; None while a request is in progress
        self._parsed_bytes = 0  # in a row that were no body: of headers, trailers, chunk sizes
        self._body_bytes = 0  # of the request parsed last
        self._discarded_bytes = 0  # of a body that nobody reads
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the connection's one timer."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._timer = self.loop.call_later(self._read_timeout_s, self._check_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer, and tell the application."""
        self._stop_timer()
        self._disconnect_running()
        self.pipeline.clear()
        self._ahead = b""
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, *event: Any) -> None:
        """Stop the timer: the websocket protocol has its own."""
        self._stop_timer()
        self.parser = None
        super().handle_websocket_upgrade(*event)

    def data_received(self, data: bytes) -> None:
        """Parse *data*, or keep it for after the response that is due."""
        if self._ahead or self._is_response_due():
            self._hold(data)
        elif len(data) <= _MAX_SLICE_BYTES:
            self._parse(data)
        else:
            self._parse_in_slices(data)
        if self._closing and self.cycle is not None:
            self.end_keep_alive()

    def end_keep_alive(self) -> None:
        """Close the connection after the last request that has been read, whose response says so."""
        if not self._ahead:
            super().end_keep_alive()

    def on_headers_complete(self) -> None:
        """Start the request: uvicorn's method, with our limits and our cycle."""
        self._check_head()
        self._parsed_bytes = 0
        self._waiting_since = None
        scope, http_version = self.scope, self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        if http_version != "1.1":
            if http_version != "1.0":
                raise _RequestRefusedError(505, wrong_version(http_version))
            scope["http_version"] = http_version
        elif [*map(_NAME, self.headers)].count(b"host") != 1:  # RFC 9112, 3.2
            raise _RequestRefusedError(400, "A request of HTTP/1.1 needs one Host header")
        if self.parser.should_upgrade():
            return  # _on_upgrade goes on
        url = httptools.parse_url(self.url)
        raw_path = url.path or b"/"  # of http://host
        path = raw_path.decode("ascii")
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = url.query or b""
        previous = self.cycle
        self.cycle = cycle = FastCycle(
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
        self._body_bytes = 0
        self.scope = NO_SCOPE
        self.headers = _TRAILERS
        if previous is None or previous.response_complete:
            self._running = cycle
            self._start_asgi_task(cycle, self.app)
        else:  # pipelined, in one slice with the request before it
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Give *body* to the request, or discard it after the response."""
        self._parsed_bytes = 0
        self._body_bytes += len(body)
        cycle = self.cycle
        if cycle.response_complete:
            self._discarded_bytes += len(body)
            if self._discarded_bytes > MAX_DISCARDED_BYTES:
                self.transport.close()
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End the request's body."""
        self._parsed_bytes = 0
        cycle = self.cycle
        if cycle is not None and cycle.more_body:  # else it is an upgrade, which has no cycle
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Start the request that has been read ahead, or wait for the next one's headers."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not self.pipeline:
            self._waiting_since = self.loop.time()
            self._discarded_bytes = 0
        if self.pipeline or self.flow.read_paused:
            self.outside_request.run(self._read_on)

    def _read_on(self) -> None:
        """Go on with what was held or pipelined while a response was due."""
        if self.pipeline:
            self._running, app = self.pipeline.pop()
            self._start_asgi_task(self._running, app)
            if self._is_response_due():
                return
        elif self._refusal is not None:
            self.respond_and_close(*self._refusal)
            return
        self.flow.release()
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            self.data_received(ahead)
            if self._closing:
                self.shutdown()

    def _parse_in_slices(self, data: bytes) -> None:
        """Parse *data* up to the end of a request, but for a slice: small requests take much memory."""
        view = memoryview(data)
        while view and self.parser is not None and not self.transport.is_closing():
            if self._ahead or self._is_response_due():
                self._hold(view)
                return
            size = max(self._announced_bytes(), _MAX_SLICE_BYTES)
            self._parse(view[:size])
            view = view[size:]

    def _announced_bytes(self) -> int:
        """Return how many bytes the body of the current request still has; 0 if that is not known."""
        cycle = self.cycle
        if cycle is not None and cycle.more_body:
            for name, value in cycle.scope.get("headers", ()):
                if name == b"content-length":
                    return int(value) - self._body_bytes
        return 0

    def _parse(self, data: bytes | memoryview) -> None:
        self._parsed_bytes += len(data)
        try:
            self.parser.feed_data(data)
            if self._parsed_bytes > _MAX_SLICE_BYTES:  # of a head, trailers or a chunk's size that are not complete
                if self._parsed_bytes > MAX_HEAD_BYTES:
                    raise _RequestRefusedError(431, f"Request headers too large: more than {MAX_HEAD_BYTES:,} bytes")
                if self._is_in_head():
                    self._check_head()
        except httptools.HttpParserUpgrade as upgrade:
            self._on_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            refused = error.__context__
            if isinstance(refused, _RequestRefusedError):
                self._refuse(*refused.args)
            else:
                self._refuse(400, f"Invalid HTTP request: {error}")
        except _RequestRefusedError as refused:
            self._refuse(*refused.args)

    def _check_head(self) -> None:
        """Refuse a head that is too large, or has too many headers."""
        if self._parsed_bytes > MAX_HEAD_BYTES:  # a part of the body may be among them
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                message = f"Request headers too large: {size:,} bytes; at most {MAX_HEAD_BYTES:,} are allowed"
                raise _RequestRefusedError(431, message)
        if len(self.headers) > MAX_HEADERS:
            raise _RequestRefusedError(431, too_many_headers(len(self.headers)))

    def _on_upgrade(self, rest: bytes | memoryview) -> None:
        """Go on after a head with ``Upgrade``, after which the parser expects no body; *rest* came after it."""
        headers, websocket = self.headers, self._should_upgrade()
        if self.scope["method"] == "CONNECT":
            self._refuse(501, "CONNECT is not supported")
        elif websocket and not self._is_response_due():
            self.handle_websocket_upgrade()
        else:
            kept = [header for header in headers if websocket or header[0] != b"upgrade"]
            line = b"%b %b HTTP/%b\r\n" % (
                self.scope["method"].encode(),
                self.url,
                self.scope["http_version"].encode(),
            )
            head = b"".join([line, *(b"%b: %b\r\n" % header for header in kept), b"\r\n"])
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            if websocket:
                self._hold(head + rest)
                return
            previous = self.cycle
            self._parse(head)
            if self.cycle is not previous:  # else it is refused
                self.cycle.scope["headers"] = headers
                self._parse(rest)

    def _refuse(self, status: int, message: str) -> None:
        """Respond with an error after the responses that are due, and close the connection."""
        running = self._running
        if self.transport.is_closing():
            return
        if self._is_response_due():
            if self.pipeline and self.cycle.more_body:  # it is this one that is refused
                self.pipeline.popleft()
            self._refusal = status, message
            self.flow.hold()
            return
        if running is not None and running.response_started and not running.response_complete:
            self.transport.close()  # only a cut connection tells the client
        else:
            self.respond_and_close(status, message)
        self._disconnect_running()

    def _hold(self, data: bytes | memoryview) -> None:
        self._ahead += data
        self.flow.hold()

    def _is_response_due(self) -> bool:
        """Tell whether a whole request has been parsed whose response is not complete."""
        running = self._running
        return running is not None and not running.more_body and not running.response_complete

    def _is_in_head(self) -> bool:
        return self.headers is not None and self.headers is not _TRAILERS

    def _disconnect_running(self) -> None:
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()

    def _check_timeout(self) -> None:
        wait_s = self._read_timeout_s
        if self._waiting_since is not None:
            wait_s += self._waiting_since - self.loop.time()
        if wait_s > 0:
            self._timer = self.loop.call_later(wait_s, self._check_timeout)
        elif self._is_in_head():
            message = f"Request headers were not complete within {self._read_timeout_s:g} s (HAYHOOKS_READ_TIMEOUT)"
            self._refuse(408, message)
        else:
            self.transport.close()  # nobody waits for a response

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
