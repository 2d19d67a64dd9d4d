"""The boundary to HTTP: every request gets its id, and every error becomes a response, in one place."""

import itertools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from hayhooks.encode import encode
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
from hayhooks.logger import log

_REQUEST_ID = b"x-request-id"

# Added to the answer's headers by the boundary: one wrapped `send` does for all of ours.
EXTRA_HEADERS = "hayhooks.headers"


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that has been answered, to its last byte."""

    method: str
    path: str
    status: int
    took_ms: float


OnRequest = Callable[[Answered], None]


class Boundary:
    """Gives each request its id, turns what nobody expected into a 500, and tells *on_request* of each answer.

    It stands inside CORSMiddleware, unlike Starlette's own handler of 500s: a browser may read the error.
    """

    def __init__(self, app: ASGIApp, on_request: OnRequest | None = None) -> None:
        self._app = app
        self._on_request = on_request
        self._prefix = secrets.token_hex(8)
        self._counter = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; what is no HTTP passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0
        extra: list[tuple[bytes, bytes]] = [(_REQUEST_ID, self._request_id(scope))]
        scope[EXTRA_HEADERS] = extra

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except (DisconnectedError, ClientDisconnect) as error:
            # Starlette's own has no message; it is raised while a request is read.
            log.info("{} {} was cancelled: {}", scope["method"], scope["path"], str(error) or "it was never complete")
        except Exception as error:
            response = _unhandled(error, Request(scope), request_id=extra[0][1].decode("latin-1"))
            if status:  # the response has begun: cutting the connection is all that tells the client
                raise
            await response(scope, receive, send_with_headers)
        finally:
            if self._on_request is not None:
                took_ms = (time.perf_counter() - began) * 1000
                self._on_request(Answered(scope["method"], scope["path"], status, took_ms))

    def _request_id(self, scope: Scope) -> bytes:
        """The client's, or a new one: unique by the random prefix of this process."""
        for name, value in scope["headers"]:
            if name == _REQUEST_ID and value:
                return bytes(value)
        return f"{self._prefix}{next(self._counter):08x}".encode()


def _unhandled(error: Exception, request: Request, request_id: str) -> Response:
    """Log what no handler answered for, and make a response of it."""
    if isinstance(error, RefusedError):  # by what stands outside the user's middleware, or in it
        return _on_hayhooks_error(request, error)
    where = f"{request.method} {request.url.path}"
    if isinstance(error, ExpiredError):
        log.warning("{} was cancelled: {}", where, error)
        if isinstance(error, TimedOutError):  # an SDK would have it done twice more
            return _error_response(request, 504, str(error), {"x-should-retry": "false"})
        return _error_response(request, 503, str(error), {"Retry-After": "1"})
    log.opt(exception=error).error("{} failed (request {})", where, request_id)
    return JSONResponse({"detail": "Internal server error", "request_id": request_id}, status_code=500)


def exception_handlers(*, show_tracebacks: bool) -> dict[Any, ExceptionHandler]:
    """What makes a response of each error that is raised on purpose."""

    def on_pipeline_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, PipelineError)
        log.opt(exception=error.__cause__ or error).error("{} failed: {}", request.url.path, error)
        body = {"detail": f"Pipeline execution failed: {error}"}
        if show_tracebacks:
            body["traceback"] = error.traceback
        return JSONResponse(body, status_code=500)

    return {
        HTTPException: _on_http_exception,
        PipelineError: on_pipeline_error,
        HayhooksError: _on_hayhooks_error,
    }


def _on_http_exception(request: Request, error: Exception) -> Response:
    """Of a wrapper or of Starlette: status and detail as they are."""
    assert isinstance(error, HTTPException)
    if error.status_code in (204, 304):
        return Response(status_code=error.status_code, headers=error.headers)
    return _error_response(request, error.status_code, error.detail, error.headers)


def _on_hayhooks_error(request: Request, error: Exception) -> Response:
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
    message = detail if isinstance(detail, str) else HTTPStatus(status).phrase
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    body = OpenAIError(status, message, type=kind, code=code).body()
    return JSONResponse({**body, "detail": detail}, status_code=status, headers=headers)


def _speaks_openai(path: str) -> bool:
    below = path.startswith(("/v1/", "/models", "/chat/completions", "/responses")) or "/files/" in path
    return below or path.endswith(("/chat", "/responses", "/files"))
