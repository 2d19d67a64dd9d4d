"""Connections: uvicorn's own, but with limits on what a client may make it wait for.

uvicorn waits for the headers of a request for ever, and reads on for ever what it has answered already.
"""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from hayhooks.errors import OpenAIError
from hayhooks.observability.log import log
from hayhooks.server.protocol import ClosingProtocol

_MAX_HEAD = 64 * 1024  # bytes of request line and headers
_MAX_HEADERS = 256

# A client that sends a long body reads no answer before its end, unless it is cut off: then it may find none at all. So
# what still comes when all has been said is read and thrown away, but not more than this.
_MAX_REST = 16 * 1024 * 1024


class _HeadTooLargeError(Exception):
    """Ends the parsing of a request."""


class LimitedHttpProtocol(ClosingProtocol):
    """One connection of a client.

    Args:
        read_timeout_s: how long the headers of a request may take to come, from the connection's begin or from the
            answer before. A connection on which nothing comes at all is closed after that too, and not sooner as by
            uvicorn: who keeps connections, as OpenAI's clients do for 5 s, must be the one that closes them, or its
            next request meets a closed one.
    """

    def __init__(self, *args: Any, read_timeout_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_timeout_s = read_timeout_s
        self._waiting_since: float | None = None  # for the headers of a request; None while one is answered
        self._came = 0  # bytes since then
        self._rest = False  # whether they are first of all those of a body that nobody wants any more
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: tuple[int, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        # One timer for the connection's whole life, and not one a request, which would cost more than the rest.
        self._timer = self.loop.call_later(self._read_timeout_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        self._stop_looking()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """As uvicorn's; the connection is another protocol's from now on, unless that can make nothing of it."""
        self._stop_looking()
        super().handle_websocket_upgrade()
        protocol: Any = self.transport.get_protocol()
        if not getattr(
            protocol, "handshake_initiated", True
        ):  # it would say nothing, wait for ever, and break the stop
            self.connections.discard(protocol)
            self.transport.set_protocol(self)
            self._answer(400, "The handshake of the websocket is not valid")

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but not for ever."""
        self._came += len(data)
        super().data_received(data)
        if self._waiting_since is not None and self._came > (_MAX_REST if self._rest else _MAX_HEAD):
            self._end(431, _too_large(f"more than {_MAX_HEAD:,} bytes"))

    def on_headers_complete(self) -> None:
        """As uvicorn's, for headers that are not too large."""
        if self._came > _MAX_HEAD:  # it may have been the body, too
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > _MAX_HEAD:
                self._refuse(431, _too_large(f"{size:,} bytes, and {_MAX_HEAD:,} are allowed"))
        if len(self.headers) > _MAX_HEADERS:
            self._refuse(431, _too_large(f"{len(self.headers):,} of them, and {_MAX_HEADERS} are allowed"))
        self._waiting_since = None
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's; what comes next are the headers of another request, and before them what is left of this."""
        rest = self.cycle.more_body
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next request had come already
            self._waiting_since = self.loop.time()
            self._came, self._rest = 0, rest

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed; what we refuse to parse with the reason."""
        if self._refusal is None:
            super().send_400_response(msg)
        else:
            self._answer(*self._refusal)

    def _look(self) -> None:
        """Close the connection if the client has made us wait for too long."""
        wait_s = self._read_timeout_s
        if self._waiting_since is not None:
            wait_s += self._waiting_since - self.loop.time()
        if wait_s > 0:
            self._timer = self.loop.call_later(wait_s, self._look)
            return
        limit = f"{self._read_timeout_s:g} s (HAYHOOKS_READ_TIMEOUT)"
        self._end(408, f"The headers of the request were not complete within {limit}")

    def _stop_looking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _refuse(self, status: int, message: str) -> None:
        self._refusal = status, message
        raise _HeadTooLargeError

    def _end(self, status: int, message: str) -> None:
        """Close the connection; say why where somebody may wait for an answer."""
        if self._rest or not self._came:
            self.transport.close()
        elif not self.transport.is_closing():
            self._answer(status, message)

    def _answer(self, status: int, message: str) -> None:
        log.info("A connection of {} was closed: {}", self.client and self.client[0], message)
        body = json.dumps(OpenAIError(status, message).body()).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


def _too_large(what: str) -> str:
    return f"The headers of the request are too large: {what}"
