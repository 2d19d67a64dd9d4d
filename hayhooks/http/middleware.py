"""Middleware around every request: id, record and context, and CORS."""

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from hayhooks.errors import DisconnectedError, NotFoundError, RefusedError
from hayhooks.http.context import (
    BodyLimit,
    RequestContext,
    context_of,
    drop_repeated_root_path,
    route_path,
    set_context,
)
from hayhooks.http.disconnect import CLIENT_LEFT
from hayhooks.http.exceptions import checked_status, deny_websocket, log_cut_response, response_to
from hayhooks.http.hooks import Hooks
from hayhooks.http.switch import Switch
from hayhooks.observability.log import log, printable
from hayhooks.observability.request_record import POLLED, RequestRecord, current_request

_REQUEST_ID = b"x-request-id"
VARY = (b"vary", b"Origin")  # for caches: a request with Origin gets other headers
_MAX_ID_BYTES = 200


class RequestContextMiddleware:
    """Gives each request id, record and context, and turns exceptions into responses.

    *cors* makes the middleware around this for requests with Origin: their errors get its headers too.
    """

    def __init__(
        self,
        app: ASGIApp,
        cors: Callable[[ASGIApp], ASGIApp],
        switch: Switch,
        body_limit: BodyLimit,
        handlers: Mapping[Any, ExceptionHandler],
        hooks: Hooks,
    ) -> None:
        self._app = app
        self._serve_with_cors = cors(self._serve_request)
        self._switch = switch
        self._body_limit = body_limit
        self._handlers = handlers
        self._on_start = hooks.on_request_start
        self._on_end = hooks.on_request_end
        self._id_prefix = secrets.token_hex(8)  # makes the ids of this process unique
        self._counter = itertools.count(1)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request, or one websocket."""
        if scope.get("root_path"):
            drop_repeated_root_path(scope, self._switch.live)
        headers = dict(scope.get("headers", ()))  # once for all layers: benchmark row run-async
        context = RequestContext(self._switch, self._body_limit, headers)
        set_context(scope, context)
        if scope["type"] != "http":
            return self._serve_websocket(scope, receive, send)
        if b"origin" in headers:
            return self._serve_with_cors(scope, receive, send)
        context.response_headers.append(VARY)
        return self._serve_request(scope, receive, send)

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except (RefusedError, NotFoundError) as error:
            await deny_websocket(error, scope, receive, send)

    async def _serve_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        record = self._begin(scope, context.headers.get(_REQUEST_ID, b""))
        context.response_headers.append((_REQUEST_ID, record.id.encode("latin-1")))

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                record.status = checked_status(message["status"], message.get("headers", ()))
                message["headers"] = [*message.get("headers", ()), *context.response_headers]
            else:
                record.size += len(message.get("body", b""))
            return send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except (DisconnectedError, ClientDisconnect) as error:
            record.cancelled = True
            _log_cancelled(record, error)
        except asyncio.CancelledError:
            record.cancelled = True
            raise
        # A wrapper's own response may raise anything, SystemExit included.
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if record.status:  # the response has begun: only a cut connection tells the client
                log_cut_response(error, record)
                await asyncio.sleep(0)  # the fast protocol may hold its head back to the end of the turn
                raise
            response = await response_to(error, Request(scope), record.id, self._handlers)
            await response(scope, receive, send_with_headers)
        finally:
            route = scope.get("route")
            record.end(route.path_format if isinstance(route, Route) else None)
            for on_end in self._on_end:
                on_end(record)

    def _begin(self, scope: Scope, sent_id: bytes) -> RequestRecord:
        """Start the record of a request, under the client's id, unless that is too long, or a new one."""
        if 0 < len(sent_id) <= _MAX_ID_BYTES:
            request_id = sent_id.decode("latin-1")
        else:
            request_id = f"{self._id_prefix}{next(self._counter):08x}"
        client = scope.get("client")
        path = (route_path(scope) or "/") if scope.get("root_path") else scope["path"]
        record = RequestRecord(scope["method"], path, client[0] if client else "", request_id)
        current_request.set(record)
        for on_start in self._on_start:
            on_start(record, scope)
        return record


def _log_cancelled(record: RequestRecord, error: Exception) -> None:
    why = str(error) or "the request was incomplete"  # Starlette's ClientDisconnect, raised while it is read
    if why != CLIENT_LEFT or record.path not in POLLED:  # whose readers come and go
        log.info("{} {} was cancelled: {}", record.method, printable(record.path), why)


class BrowserCorsMiddleware(CORSMiddleware):
    """Starlette's CORS, with local networks."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight; local networks are what private networks were renamed to."""
        response = super().preflight_response(request_headers)
        if "access-control-request-local-network" in request_headers and self.allow_private_network:
            response.headers["Access-Control-Allow-Local-Network"] = "true"
        return response
