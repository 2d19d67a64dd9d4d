"""Exceptions to responses: every error of the application becomes a response."""

import inspect
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ExceptionHandler, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketClose

from hayhooks.errors import (
    ConflictError,
    ExpiredError,
    HayhooksError,
    InvalidInputError,
    NotFoundError,
    OpenAIError,
    PipelineError,
    RefusedError,
    TimedOutError,
    UnavailableError,
    shortened,
)
from hayhooks.http.context import route_path
from hayhooks.http.json import CONTENT_TYPE, encode
from hayhooks.http.user_code import log_failure
from hayhooks.observability.log import log, printable, printable_line
from hayhooks.observability.request_record import RequestRecord, current_request, record_error

_FINAL_STATUSES = frozenset(range(200, 600))
_is_name = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # a token of RFC 9110
_find_control = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_MAX_DIGITS = 20
_OFTEN = frozenset({b"content-length", b"content-type"})  # names that need no test
_PHRASES: Mapping[int, str] = {status.value: status.phrase for status in HTTPStatus}
_JSON_RPC_INVALID, _JSON_RPC_INTERNAL = -32600, -32603  # codes of JSON-RPC: of the request, of the server

_NOT_ALLOWED = HTTPStatus.METHOD_NOT_ALLOWED.phrase


def exception_handlers(*, show_tracebacks: bool) -> dict[Any, ExceptionHandler]:
    """Return Starlette's handlers for the errors that are raised on purpose.

    They are coroutines: Starlette runs plain functions in its thread pool, which requests may have filled.
    """

    async def on_pipeline_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, PipelineError)
        log_failure(error, f"{printable(request.url.path)} failed")
        body = {"detail": f"Pipeline execution failed: {error}"}
        if show_tracebacks:
            body["traceback"] = error.traceback
        return JSONResponse(body, status_code=500)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        checked_status(error.status_code, ())
        if (
            error.status_code == 405
            and error.detail == _NOT_ALLOWED
            and (allowed := (error.headers or {}).get("Allow"))
        ):
            error.detail = f"{error.detail}: {shortened(request.url.path)} takes {allowed}"  # Starlette's says no more
        _record_problem(error.detail)
        if error.status_code in (204, 304):
            return Response(status_code=error.status_code, headers=error.headers)
        return _error_response(request, error.status_code, error.detail, error.headers)

    return {
        HTTPException: on_http_exception,
        PipelineError: on_pipeline_error,
        HayhooksError: _on_hayhooks_error,
    }


async def response_to(
    error: BaseException, request: Request, request_id: str, handlers: Mapping[Any, ExceptionHandler]
) -> Response:
    """Make the response to *error*: by its handler, else a logged 500."""
    # As Starlette: by the status of an HTTPException, else by the nearest class.
    if isinstance(error, HTTPException) and error.status_code in handlers:
        handler: ExceptionHandler | None = handlers[error.status_code]
    else:
        handler = next((handlers[cls] for cls in type(error).__mro__ if cls in handlers), None)
    if handler is not None:
        try:
            made: Any = handler(request, error)  # type: ignore[arg-type]  # also a handler of websockets, by its type
            response: Response = await made if inspect.isawaitable(made) else made
            checked_status(response.status_code, response.raw_headers)
            return response
        # A wrapper's error may hold what is not JSON, or not a header; and the handler may be the user's.
        except Exception as failed:
            error = failed
    record_error(error)
    where = f"{printable(request.method, 20)} {printable(request.url.path)}"
    if isinstance(error, ExpiredError):
        log.warning("{} was cancelled: {}", where, error)
        if isinstance(error, TimedOutError):  # an SDK would repeat it twice
            return _error_response(request, 504, str(error), {"x-should-retry": "false"})
        return _error_response(request, 503, str(error), {"Retry-After": "1"})
    log.opt(exception=error).error("{} failed (request {})", where, printable(request_id))
    return JSONResponse({"detail": "Internal server error", "request_id": request_id}, status_code=500)


def _record_problem(problem: Any) -> None:
    record: Any = current_request.get(None)
    if record is not None and isinstance(problem, str):
        record.problem = printable_line(problem)


def checked_status(status: Any, headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return *status*; raise ValueError if a response cannot begin like this.

    The server would notice that too: when no other response can be sent.
    """
    if status not in _FINAL_STATUSES:
        raise ValueError(f"The response has the status {status!r}: use 200 to 599")
    lengths = 0
    for header in headers:
        if header == CONTENT_TYPE:  # of most: benchmark row run-many
            continue
        name, value = header
        if name not in _OFTEN:
            if not _is_name(name):
                raise ValueError(f"The response has a header named {_cut(name)}, which is no name of a header")
            name = name.lower()
            if name == b"transfer-encoding" and value.lower() != b"chunked":
                raise ValueError(f"The response's header {_cut(name)} is {_cut(value)}: only chunked can be sent")
        if name == b"content-length":
            lengths += 1
            if lengths > 1 or not value.isdigit() or len(value) > _MAX_DIGITS:
                raise ValueError(f"The response's header {_cut(name)} is not one number: {_cut(value)}")
        elif not value.isalnum() and _find_control(value):
            raise ValueError(f"The response's header {_cut(name)} has a control character: {_cut(value)}")
    return int(status)


def _cut(text: bytes) -> str:
    return repr(text[:100].decode("latin-1"))


def log_cut_response(error: BaseException, record: RequestRecord) -> None:
    """Log *error*, raised after the response of *record* began: the server cuts the connection."""
    origin = record_error(error)
    subject = record.pipeline or f"{record.method} {printable(record.path)}"
    log.opt(exception=origin).error("{}: the answer failed in mid-stream: {}", subject, record.error)
    record.is_logged = True


async def deny_websocket(error: RefusedError | NotFoundError, scope: Scope, receive: Receive, send: Send) -> None:
    """Deny a websocket with *error*, in a response if the server can send one."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await WebSocketClose(code=1008)(scope, receive, send)  # the server answers with its plain 403
        return
    status, code, headers = 404, None, None
    if isinstance(error, RefusedError):
        status, code, headers = error.status, error.code, error.headers
    response = JSONResponse(OpenAIError(status, str(error), code=code).body(), status_code=status, headers=headers)
    await WebSocket(scope, receive, send).send_denial_response(response)


async def _on_hayhooks_error(request: Request, error: Exception) -> Response:
    _record_problem(error.told() if isinstance(error, InvalidInputError) else str(error))
    match error:
        case OpenAIError():
            headers = {} if error.retry else {"x-should-retry": "false"}
            return JSONResponse(error.body(), status_code=error.status, headers=headers)
        case InvalidInputError():
            rest = {"error_count": error.count} if error.count > len(error.details) else {}
            body = encode({"detail": error.details, **rest})
            return Response(body, status_code=422, media_type="application/json")
        case NotFoundError():
            return _error_response(request, 404, str(error))
        case ConflictError():
            return _error_response(request, 409, str(error))
        case UnavailableError():
            return _error_response(request, 503, str(error), {"Retry-After": "1"})
        case RefusedError():
            return _error_response(request, error.status, str(error), error.headers, code=error.code)
    raise error


def _error_response(
    request: Request, status: int, detail: Any, headers: Any = None, *, code: str | None = None
) -> Response:
    """Return ``{"detail": ...}``, or also the error object of OpenAI's or MCP's clients, where they expect it."""
    path = route_path(request.scope)
    message = detail if isinstance(detail, str) else _PHRASES.get(status, f"Status {status}")
    if path == "/mcp":
        number = _JSON_RPC_INTERNAL if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _JSON_RPC_INVALID
        answer = {"jsonrpc": "2.0", "id": None, "error": {"code": number, "message": message}, "detail": detail}
        return JSONResponse(answer, status_code=status, headers=headers)
    speaks_openai = (
        path.startswith(("/v1/", "/models", "/chat/completions", "/responses"))
        or "/files/" in path
        or path.endswith(("/chat", "/responses", "/files"))
    )
    if code is None and not speaks_openai:
        return JSONResponse({"detail": detail}, status_code=status, headers=headers)
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    body = OpenAIError(status, message, type=kind, code=code).body()
    return JSONResponse({**body, "detail": detail}, status_code=status, headers=headers)
