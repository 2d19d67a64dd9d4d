"""Executions over HTTP: who owns them, what a client prefers, and what it is told of one."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from hayhooks.errors import InvalidInputError, NotFoundError, PipelineError, shortened
from hayhooks.executions.execution import ANYBODY, Execution, Executions, Kind, Order, StreamEvent
from hayhooks.http.invoke import call_owner
from hayhooks.http.json import encode
from hayhooks.http.stream import Stream
from hayhooks.kernel.state import Deployment

_MAX_TEXT = 512  # bytes of an owner, and of a key
_MAX_WAIT_S = 60.0
_MAX_DELAY_S = 365 * 86_400.0
_PUBLIC = ("kind", "message", "expected_input_schema")  # keys of what an execution waits for

_id_match = re.compile(r"[A-Za-z0-9_-]{1,128}").fullmatch


@dataclass(frozen=True, slots=True)
class Preference:
    """What the header ``Prefer`` asks for (RFC 7240)."""

    respond_async: bool = False
    wait_s: float | None = None

    @property
    def applied(self) -> str:
        """What an order honours of it, for ``Preference-Applied``."""
        wait = [f"wait={self.wait_s:g}"] if self.wait_s is not None else []
        return ", ".join(["respond-async"] * self.respond_async + wait)

    @classmethod
    def of(cls, headers: Headers) -> "Preference":
        """Read all headers of the name; what is unknown or malformed is ignored, as the RFC says."""
        found: dict[str, str] = {}
        for part in ",".join(headers.getlist("prefer")).split(","):
            name, _, value = part.partition(";")[0].partition("=")
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
        wait = found.get("wait", "")
        return cls(
            "respond-async" in found, min(float(wait), _MAX_WAIT_S) if wait.isascii() and wait.isdigit() else None
        )


def executions_of(scope: Scope) -> Executions:
    """Return the executions of the application that serves the request."""
    service: Executions = scope["app"].executions
    return service


async def owner_of(deployment: Deployment, request: Request) -> str | None:
    """Return whose executions the client may see: what ``durable_owner_id`` returns, None without it."""
    if deployment.owner is None:
        return None
    owner = await call_owner(deployment, deployment.owner, request)
    if not isinstance(owner, str) or not 1 <= len(owner.encode(errors="replace")) <= _MAX_TEXT:
        found = shortened(repr(owner))
        message = f"durable_owner_id() returned {found}: it must be a text of 1 to {_MAX_TEXT} bytes"
        raise PipelineError(message, traceback="")
    return owner


async def execution_in(request: Request, deployment: Deployment, execution_id: str) -> Execution:
    """Return an execution of *deployment* that the client may see; a 404 if there is none."""
    if not _id_match(execution_id):
        raise invalid(("path", "execution_id"), execution_id, "be up to 128 letters, digits, - and _")
    owner = await owner_of(deployment, request)
    execution = await executions_of(request.scope).get(deployment.name, execution_id, owner)
    if execution is None:
        raise NotFoundError("Execution not found")
    return execution


async def submit(
    request: Request, deployment: Deployment, kind: Kind, body: Any, *, revision: str = "", wants_chunks: bool = False
) -> tuple[Execution, bool]:
    """Order an execution of *deployment* with what the request's headers and parameters say of it.

    Return it, and whether it is that of an earlier order.
    """
    query = request.query_params
    order = Order(
        deployment.name,
        kind,
        body,
        owner=await owner_of(deployment, request) or ANYBODY,
        revision=revision,
        idempotency_key=idempotency_key(request.headers),
        delay_s=number(query, "delay", 0, 0, _MAX_DELAY_S),
        priority=int(number(query, "priority", 50, 1, 100)),
        wants_chunks=wants_chunks,
    )
    return await executions_of(request.scope).submit(order)


async def order_response(request: Request, execution: Execution, *, is_replay: bool) -> Response:
    """Wait for the end of what was ordered as the client prefers, and return the response that tells of it."""
    preference = Preference.of(request.headers)
    if preference.wait_s is not None and not execution.is_terminal:
        execution = await executions_of(request.scope).wait(execution, preference.wait_s, until_end=True)
    is_ended = execution.is_terminal and (is_replay or preference.wait_s is not None)
    response = execution_response(request, execution, 200 if is_ended else 202)
    response.headers["Location"] = f"{request.scope['app_root_path']}{path_of(execution)}"
    if is_replay:
        response.headers["Idempotent-Replay"] = "true"
    if preference.applied:
        response.headers["Preference-Applied"] = preference.applied
    return response


class WatchedStream(Stream):
    """What one client reads of an execution's events; the first batch is [None], so the stream begins at once."""

    def __init__(self, events: AsyncIterator[StreamEvent]) -> None:
        super().__init__([None])
        self._events = events

    async def next(self, _on_wait: Any = None) -> list[StreamEvent | None]:
        """Return the next event; none at the end."""
        if self.first:
            return await super().next()
        event = await anext(self._events, None)
        return [event] if event is not None else []

    async def aclose(self) -> None:
        """Watch no longer."""
        await self._events.aclose()  # type: ignore[attr-defined]  # a generator


def idempotency_key(headers: Headers) -> str:
    """Return the header ``Idempotency-Key``, "" without one; a 422 if it is empty or too long."""
    key = headers.get("idempotency-key")
    if key is None:
        return ""
    if not 1 <= len(key.encode("latin-1", "replace")) <= _MAX_TEXT:
        raise invalid(("header", "Idempotency-Key"), key, f"have 1 to {_MAX_TEXT} bytes")
    return key


def number(query: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    """Return the number in the parameter *name*; a 422 if it is none from *least* to *most*."""
    text = query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise invalid(("query", name), text, f"be a number from {least:g} to {most:g}")
    return value


def invalid(place: tuple[str, str], value: str, accepted: str) -> InvalidInputError:
    """Return the error for *value* at *place*, as FastAPI words those of headers and parameters."""
    detail = {"type": "value_error", "loc": place, "msg": f"Input should {accepted}", "input": shortened(value)}
    return InvalidInputError([detail], 1)


def result_body(request: Request, execution: Execution) -> dict[str, Any]:
    """Return what a client is told of *execution*."""
    error = execution.error
    path = f"{request.scope['app_root_path']}{path_of(execution)}"
    # The errors of a request that was sent in the background are those of its response.
    shows_errors = request.app.settings.show_tracebacks or execution.order.kind in ("run", "response")
    return {
        **_common_fields(execution),
        "sequence": execution.sequence,
        "progress": list(execution.progress),
        "steps": list(execution.steps),
        "result": execution.result,
        "error": {
            "type": error.type,
            "message": error.message if shows_errors or error.code else "Durable execution failed",
            "retryable": error.retryable,
            "code": error.code or None,
        }
        if error is not None
        else None,
        "waiting": {key: execution.wait.get(key) for key in _PUBLIC} if execution.wait is not None else None,
        "waiting_for": execution.waiting_for or None,
        "cancellation_requested_at": time_text(execution.cancellation_requested_at),
        "delay_until": time_text(execution.delayed_until),
        "attempts": [
            {
                "attempt": attempt.number,
                "revision": attempt.revision,
                "started_at": time_text(attempt.started_at),
                "ended_at": time_text(attempt.ended_at),
                "outcome": attempt.outcome or None,
            }
            for attempt in execution.attempts
        ],
        "created_at": time_text(execution.created_at),
        "updated_at": time_text(execution.updated_at),
        "links": {
            "self": path,
            "cancel": f"{path}/cancel",
            "resume": f"{path}/resume",
            "stream": f"{path}/stream",
        },
    }


def summary_body(execution: Execution) -> dict[str, Any]:
    """Return what a list tells of *execution*."""
    return {
        **_common_fields(execution),
        "created_at": time_text(execution.created_at),
        "updated_at": time_text(execution.updated_at),
        "cancellation_pending": execution.cancellation_requested_at is not None and not execution.is_terminal,
        "available_at": time_text(execution.delayed_until),
    }


def execution_response(request: Request, execution: Execution, status: int = 200) -> Response:
    """Return the response with what a client is told of *execution*."""
    return Response(encode(result_body(request, execution)), status, media_type="application/json")


def path_of(execution: Execution) -> str:
    """Return the path of *execution*, without that of the application."""
    return f"/{execution.order.deployment}/executions/{execution.id}"


def time_text(seconds: float | None) -> str | None:
    """Return a time as ISO 8601 in UTC; None for none."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _common_fields(execution: Execution) -> dict[str, Any]:
    order = execution.order
    return {
        "execution_id": execution.id,
        "deployment": order.deployment,
        "kind": order.kind,
        "revision": order.revision,
        "status": execution.status,
        "attempt": execution.attempt,
    }
