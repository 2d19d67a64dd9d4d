"""``/traces``: the last requests to pipelines, and what each did, span by span."""

from collections.abc import Iterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from hayhooks.errors import NotFoundError, shortened
from hayhooks.kernel.state import Snapshot
from hayhooks.observability.traces import Trace, Traces
from hayhooks.openapi.describe import (
    JSON,
    DocumentedRoute,
    OperationDocs,
    error_responses,
    object_schema,
    parameter,
    response_object,
)

_MAX_LIMIT = 1_000
_STATUSES = ("error", "2xx", "3xx", "4xx", "5xx")


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/traces`` and ``/traces/{id}``; 404 if HAYHOOKS_TRACES is 0."""

    async def list_traces(request: Request) -> Response:
        kept, query = _traces(request), request.query_params
        limit, status, pipeline = query.get("limit", "50"), query.get("status", ""), query.get("pipeline")
        if not limit.isdecimal() or len(limit) > 4 or not 1 <= int(limit) <= _MAX_LIMIT:
            raise HTTPException(400, f"'limit' must be from 1 to {_MAX_LIMIT:,}, not {shortened(limit)!r}")
        if status and status not in _STATUSES and not (status.isdecimal() and len(status) == 3):
            expected = f"a number or one of {', '.join(_STATUSES)}"
            raise HTTPException(400, f"'status' must be {expected}, not {shortened(status)!r}")
        found = []
        for trace in kept.newest_first():
            if pipeline in (None, trace.facts["pipeline"]) and _has_status(trace, status):
                found.append(trace.summary())
                if len(found) == int(limit):
                    break
        return JSONResponse({"traces": found})

    async def one_trace(request: Request) -> Response:
        trace = _traces(request).find(request.path_params["id"])
        if trace is None:
            raise NotFoundError(f"there is no trace of the request {shortened(request.path_params['id'])!r}")
        return JSONResponse(trace.as_dict())

    yield DocumentedRoute("/traces", list_traces, {"GET": lambda: _LIST_DOCS})
    yield DocumentedRoute("/traces/{id}", one_trace, {"GET": lambda: _TRACE_DOCS})


def _traces(request: Request) -> Traces:
    traces: Traces | None = request.app.traces
    if traces is None:
        raise NotFoundError("no traces are kept: HAYHOOKS_TRACES is 0")
    return traces


def _has_status(trace: Trace, status: str) -> bool:
    if status == "error":
        return bool(trace.facts["error"])
    found = str(trace.facts["status"])
    return not status or found == status or f"{found[0]}xx" == status


_REQUEST: dict[str, Any] = {
    "id": {"type": "string", "description": "Its `X-Request-Id`."},
    "trace_id": {"type": "string", "description": "Of OpenTelemetry, if it is on."},
    "at": {"type": "number", "description": "Unix seconds at its begin."},
    "method": {"type": "string"},
    "path": {"type": "string"},
    "pipeline": {"type": "string"},
    "revision": {"type": "string"},
    "status": {"type": "integer"},
    "took_ms": {"type": "number"},
    "chunks": {"type": "integer"},
    "cancelled": {"type": "boolean"},
    "error": {"type": "string"},
}
_SHAPES = {"type": "object", "additionalProperties": {"type": "string"}}
_SPAN = object_schema(
    ["name", "kind", "type", "parent", "start_ms", "took_ms", "error", "inputs", "outputs"],
    name={"type": "string"},
    kind={"enum": ["request", "pipeline", "component", "agent", "tool", "other"]},
    type={"type": "string", "description": "The component's class."},
    parent={"type": ["integer", "null"], "description": "The position of the span around it."},
    start_ms={"type": "number"},
    took_ms={"type": ["number", "null"], "description": "null: it has not ended."},
    error={"type": "string"},
    inputs=_SHAPES,
    outputs=_SHAPES,
)

_LIST_DOCS = OperationDocs(
    name="traces",
    summary="The last requests to pipelines",
    description="The newest first, of the worker that answers. `HAYHOOKS_TRACES` says how many are kept.",
    parameters=(
        parameter("limit", "How many.", "query", type="integer", minimum=1, maximum=_MAX_LIMIT, default=50),
        parameter("pipeline", "Only of this one.", "query"),
        parameter(
            "status", "A status, `2xx` to `5xx`, or `error`.", "query", pattern="^(?:error|[2345]xx|[1-5]\\d\\d)?$"
        ),
    ),
    answers={
        "200": response_object(
            "The requests",
            {
                JSON: object_schema(
                    ["traces"],
                    traces={
                        "type": "array",
                        "items": object_schema([*_REQUEST], spans={"type": "integer"}, **_REQUEST),
                    },
                )
            },
        ),
        **error_responses(400, 404),
    },
)

_TRACE_DOCS = OperationDocs(
    name="trace",
    summary="What one request did",
    description="Shapes of inputs and outputs; contents only with `HAYSTACK_CONTENT_TRACING_ENABLED=true`.",
    parameters=(parameter("id", "The request's `X-Request-Id`."),),
    answers={
        "200": response_object(
            "The request with its spans",
            {JSON: object_schema([*_REQUEST, "spans"], spans={"type": "array", "items": _SPAN}, **_REQUEST)},
        ),
        **error_responses(404),
    },
)
