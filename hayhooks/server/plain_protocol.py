"""The plain HTTP protocol: uvicorn's h11 protocol with a graceful and a forced close."""

import asyncio
import re
from typing import Any
from urllib.parse import unquote

import h11
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from hayhooks.errors import OpenAIError
from hayhooks.server.protocol import (
    MAX_HEADERS,
    NO_SCOPE,
    TLS_PIECE_BYTES,
    Flow,
    GracefulClose,
    pieces_of,
    too_many_headers,
    wrong_version,
)

_ABSOLUTE = re.compile(rb"https?://", re.IGNORECASE)  # how a target begins that has a host before its path


class PlainHttpProtocol(GracefulClose, H11Protocol):
    """uvicorn's h11 protocol, which limits the bytes of request heads and trailers and ignores unknown upgrades.

    uvicorn limits the time of an idle connection, this class that of an incomplete head.
    """

    _head_timer: asyncio.TimerHandle | None = None  # runs while a head is incomplete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request."""
        super().connection_made(transport)
        self.app: Any = _BoundedApp(self.app, self.flow)
        self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._unlimit_head()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, *event: Any) -> None:
        """Stop the timer: the websocket protocol has its own."""
        self._unlimit_head()
        super().handle_websocket_upgrade(*event)

    def data_received(self, data: bytes) -> None:
        """Parse *data*, or keep it for after the response that is due."""
        if self.conn.their_state is h11.MUST_CLOSE:  # h11 would refuse the request before it
            self.flow.hold()
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._limit_head()
        else:
            self._unlimit_head()
        if self.conn.their_state is h11.DONE and self.conn.trailing_data[0]:
            self.flow.hold()

    def on_response_complete(self) -> None:
        """Start the request that has been read ahead, or wait for the next one."""
        self.scope = self.cycle.scope = NO_SCOPE
        self.outside_request.run(self._read_on)

    def _limit_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.timeout_keep_alive, self._end_head)

    def _unlimit_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_head(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            message = f"Request headers were not complete within {self.timeout_keep_alive:g} s (HAYHOOKS_READ_TIMEOUT)"
            self.respond_and_close(408, message)
        else:
            self.transport.close()  # nobody waits for a response

    def _read_on(self) -> None:
        self.flow.release()
        super().on_response_complete()

    def end_keep_alive(self) -> None:
        """Close the connection after the current response, and say so in its headers."""
        if self.cycle.keep_alive:
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]
        super().end_keep_alive()

    def send_400_response(self, msg: str) -> None:
        """Refuse a malformed request, unless its response has begun: then only a cut connection tells the client."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.respond_and_close(400, msg)
        else:
            self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


class _BoundedApp:
    """Bounds the requests of *app*: headers, version, and what is kept of an unread response."""

    def __init__(self, app: Any, flow: Flow) -> None:
        self._app: ASGIApp = app
        self._flow = flow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; it lasts until the client has taken the response."""
        count, version, refused = len(scope["headers"]), scope["http_version"], None
        if count > MAX_HEADERS:
            refused = OpenAIError(431, too_many_headers(count))
        elif version not in ("1.0", "1.1"):
            refused = OpenAIError(505, wrong_version(version))
        if refused is not None:
            await JSONResponse(refused.body(), refused.status, {"Connection": "close"})(scope, receive, send)
            return

        root = len(scope["root_path"])  # uvicorn has put it before the target
        if _ABSOLUTE.match(scope["raw_path"], root):
            path = scope["raw_path"][root:].split(b"/", 3)[3:]
            scope["raw_path"] = scope["raw_path"][:root] + b"/" + b"".join(path)
            scope["path"] = unquote(scope["raw_path"].decode("ascii"))

        async def send_and_drain(message: Message) -> None:
            if message["type"] != "http.response.body" or message.get("more_body"):
                await send(message)
                return
            body = message.get("body", b"")
            if len(body) > TLS_PIECE_BYTES and scope["scheme"] == "https":
                *pieces, body = pieces_of(body)
                for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": body, "more_body": False})
            if self._flow.write_paused:
                await self._flow.drain()

        await self._app(scope, receive, send_and_drain)
