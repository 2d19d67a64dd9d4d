"""The boundary to HTTP: every request gets its id, and every error becomes a response, in one place."""

import asyncio
import inspect
import itertools
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketClose

from hayhooks.errors import (
    DisconnectedError,
    ExpiredError,
    HayhooksError,
    InvalidInputError,
    NotFoundError,
    OpenAIError,
    PipelineError,
    RefusedError,
    TimedOutError,
    UnavailableError,
)
from hayhooks.http.json import encode
from hayhooks.observability.log import log, printable
from hayhooks.observability.request_record import RequestRecord, current_request, record_error

_REQUEST_ID = b"x-request-id"
_STATUSES = range(200, 600)  # those that end a request
_PHRASES: Mapping[int, str] = {status.value: status.phrase for status in HTTPStatus}

# Added to the answer's headers by the boundary: one wrapped `send` does for all of ours.
EXTRA_HEADERS = "hayhooks.headers"


OnRequestStart = Callable[[RequestRecord, Scope], None]
OnRequestEnd = Callable[[RequestRecord], None]


class RequestContextMiddleware:
    """Gives each request its id and makes a response of each error: by *handlers*, and of what nobody expected a 500.

    It tells *on_begin* of each, and *on_request* when it has ended, with the last byte.

    It stands inside CORSMiddleware, unlike Starlette's own handler of 500s: a browser may read the error.
    """

    def __init__(
        self,
        app: ASGIApp,
        handlers: Mapping[Any, ExceptionHandler],
        on_begin: Sequence[OnRequestStart] = (),
        on_request: Sequence[OnRequestEnd] = (),
    ) -> None:
        self._app = app
        self._handlers = handlers
        self._on_begin = on_begin
        self._on_request = on_request
        self._prefix = secrets.token_hex(8)
        self._counter = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or websocket; what is neither passes."""
        if scope["type"] != "http":
            await _websocket_or_lifespan(self._app, scope, receive, send)
            return
        record = self._begin(scope)
        extra: list[tuple[bytes, bytes]] = scope.setdefault(EXTRA_HEADERS, [])
        extra.append((_REQUEST_ID, record.id.encode("latin-1")))

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *extra]
            else:
                record.size += len(message.get("body", b""))
            return send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except (DisconnectedError, ClientDisconnect) as error:
            # Starlette's own has no message; it is raised while a request is read.
            _cancelled(record, str(error) or "it was never complete")
        except asyncio.CancelledError:
            record.cancelled = True
            raise
        # A wrapper's own response may raise anything, SystemExit included.
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if record.status:  # the response has begun: cutting the connection is all that tells the client
                record_error(error)
                await asyncio.sleep(0)  # its head may be held back to the end of the turn (protocol.py), and must leave
                raise
            response = await self._response_to(error, Request(scope), record)
            await response(scope, receive, send_with_headers)
        finally:
            self._end(record, scope.get("route"))

    async def _response_to(self, error: BaseException, request: Request, record: RequestRecord) -> Response:
        handler = self._handler_of(error)
        if handler is not None:
            try:
                response = handler(request, error)  # type: ignore[arg-type]
                return await response if inspect.isawaitable(response) else response  # type: ignore[return-value]
            # What a wrapper raises can say what is no JSON, or no header; and the handler may be the user's.
            except Exception as spoiled:
                error = spoiled
        record_error(error)
        return _unhandled(error, request, record.id)

    def _handler_of(self, error: BaseException) -> ExceptionHandler | None:
        """As Starlette finds it: by the status of an HTTPException, else by the nearest class."""
        if isinstance(error, HTTPException) and error.status_code in self._handlers:
            return self._handlers[error.status_code]
        return next((self._handlers[cls] for cls in type(error).__mro__ if cls in self._handlers), None)

    def _begin(self, scope: Scope) -> RequestRecord:
        client = scope.get("client")
        record = RequestRecord(scope["method"], scope["path"], client[0] if client else "", self._request_id(scope))
        current_request.set(record)
        for tell in self._on_begin:
            tell(record, scope)
        return record

    def _end(self, record: RequestRecord, route: Any) -> None:
        record.end(route.path if isinstance(route, Route) else None)
        for tell in self._on_request:
            tell(record)

    def _request_id(self, scope: Scope) -> str:
        """The client's, or a new one: unique by the random prefix of this process."""
        for name, value in scope["headers"]:
            if name == _REQUEST_ID and value:
                return bytes(value).decode("latin-1")
        return f"{self._prefix}{next(self._counter):08x}"


async def _websocket_or_lifespan(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Have *app* serve it; a handshake that it refuses is answered with the error, where the server can."""
    try:
        await app(scope, receive, send)
    except RefusedError as error:
        await _deny(error.status, error, scope, receive, send)
    except NotFoundError as error:
        await _deny(404, error, scope, receive, send)


async def _deny(status: int, error: RefusedError | NotFoundError, scope: Scope, receive: Receive, send: Send) -> None:
    if "websocket.http.response" not in scope.get("extensions", {}):
        await WebSocketClose(code=1008)(scope, receive, send)  # the server answers with its plain 403
        return
    code, headers = (error.code, error.headers) if isinstance(error, RefusedError) else (None, None)
    response = JSONResponse(OpenAIError(status, str(error), code=code).body(), status_code=status, headers=headers)
    await WebSocket(scope, receive, send).send_denial_response(response)


def _cancelled(record: RequestRecord, why: str) -> None:
    record.cancelled = True
    log.info("{} {} was cancelled: {}", record.method, printable(record.path), why)


def _unhandled(error: BaseException, request: Request, request_id: str) -> Response:
    """Log what no handler answered for, and make a response of it."""
    where = f"{request.method} {printable(request.url.path)}"
    if isinstance(error, ExpiredError):
        log.warning("{} was cancelled: {}", where, error)
        if isinstance(error, TimedOutError):  # an SDK would have it done twice more
            return _error_response(request, 504, str(error), {"x-should-retry": "false"})
        return _error_response(request, 503, str(error), {"Retry-After": "1"})
    log.opt(exception=error).error("{} failed (request {})", where, printable(request_id))
    return JSONResponse({"detail": "Internal server error", "request_id": request_id}, status_code=500)


def exception_handlers(*, show_tracebacks: bool) -> dict[Any, ExceptionHandler]:
    """What makes a response of each error that is raised on purpose.

    They are coroutines: plain functions Starlette would run in the thread pool, which requests may have filled.
    """

    async def on_pipeline_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, PipelineError)
        record_error(error)
        log.opt(exception=error.__cause__ or error).error("{} failed: {}", printable(request.url.path), error)
        body = {"detail": f"Pipeline execution failed: {error}"}
        if show_tracebacks:
            body["traceback"] = error.traceback
        return JSONResponse(body, status_code=500)

    return {
        HTTPException: _on_http_exception,
        PipelineError: on_pipeline_error,
        HayhooksError: _on_hayhooks_error,
    }


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Of a wrapper or of Starlette: status and detail as they are."""
    assert isinstance(error, HTTPException)
    if error.status_code not in _STATUSES:
        raise ValueError(f"HTTPException with the status {error.status_code!r}: it must be from 200 to 599") from error
    if error.status_code in (204, 304):
        return Response(status_code=error.status_code, headers=error.headers)
    return _error_response(request, error.status_code, error.detail, error.headers)


async def _on_hayhooks_error(request: Request, error: Exception) -> Response:
    match error:
        case OpenAIError():
            headers = {} if error.retry else {"x-should-retry": "false"}
            return JSONResponse(error.body(), status_code=error.status, headers=headers)
        case InvalidInputError():
            return Response(encode({"detail": error.details}), status_code=422, media_type="application/json")
        case NotFoundError():
            return _error_response(request, 404, str(error))
        case UnavailableError():
            return _error_response(request, 503, str(error), {"Retry-After": "1"})
        case RefusedError():
            return _error_response(request, error.status, str(error), error.headers, code=error.code)
    raise error


def _error_response(
    request: Request, status: int, detail: Any, headers: Any = None, *, code: str | None = None
) -> Response:
    """``{"detail": ...}``; with a *code*, or on a path that speaks OpenAI, with the error object its clients read."""
    if code is None and not _speaks_openai(get_route_path(request.scope)):
        return JSONResponse({"detail": detail}, status_code=status, headers=headers)
    message = detail if isinstance(detail, str) else _PHRASES.get(status, f"Status {status}")
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    body = OpenAIError(status, message, type=kind, code=code).body()
    return JSONResponse({**body, "detail": detail}, status_code=status, headers=headers)


def _speaks_openai(path: str) -> bool:
    below = path.startswith(("/v1/", "/models", "/chat/completions", "/responses")) or "/files/" in path
    return below or path.endswith(("/chat", "/responses", "/files"))
