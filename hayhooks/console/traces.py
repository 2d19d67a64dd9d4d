"""``/traces``: the last requests to pipelines, and what each did, span by span."""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from hayhooks.errors import NotFoundError, shortened
from hayhooks.http.hooks import Hooks
from hayhooks.kernel.state import Snapshot
from hayhooks.kernel.threads import server_threads
from hayhooks.observability.haystack_tracer import noted_spans
from hayhooks.observability.log import log
from hayhooks.observability.traces import Traces
from hayhooks.observability.worker_state import WorkerStateDir
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
_SHARE_S = 1.0
_STATUS = r"error|[2345]xx|[1-5][0-9]{2}"


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Keep traces while the application runs, if HAYHOOKS_TRACES asks for it."""
    limit: int = app.settings.traces  # type: ignore[attr-defined]  # a Hayhooks
    if not limit:
        yield
        return
    hooks: Hooks = app.hooks  # type: ignore[attr-defined]
    worker_dir = WorkerStateDir.of_environment()
    app.state.traces = traces = Traces(limit, worker_dir)

    async def share() -> None:
        while worker_dir.directory is not None:
            began_at = time.monotonic()
            try:
                await server_threads.run(traces.post)
            except Exception:  # a fault of ours costs one time
                log.exception("The traces were not shared with the other workers")
            await asyncio.sleep(max(_SHARE_S, 20 * (time.monotonic() - began_at)))

    sharing = asyncio.create_task(share())
    try:
        with noted_spans(), hooks.use(on_request_start=traces.begin, on_request_end=traces.end):
            yield
    finally:
        sharing.cancel()


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/traces`` and ``/traces/{id}``; 404 if HAYHOOKS_TRACES is 0."""
    yield DocumentedRoute("/traces", list_traces, {"GET": lambda: _LIST_DOCS})
    # A client's id may have slashes.
    yield DocumentedRoute("/traces/{id:path}", one_trace, {"GET": lambda: _TRACE_DOCS})


async def list_traces(request: Request) -> Response:
    """Answer with the requests that the query asks for."""
    kept, query = _traces(request), request.query_params
    limit, status, pipeline = query.get("limit", "50"), query.get("status", ""), query.get("pipeline")
    if not (limit.isascii() and limit.isdecimal()) or len(limit) > 4 or not 1 <= int(limit) <= _MAX_LIMIT:
        raise HTTPException(400, f"'limit' must be from 1 to {_MAX_LIMIT:,}, not {shortened(limit)!r}")
    if status and not re.fullmatch(_STATUS, status):
        expected = "a status such as 422, or one of 2xx, 3xx, 4xx, 5xx, error"
        raise HTTPException(400, f"'status' must be {expected}, not {shortened(status)!r}")
    try:
        before = float(query.get("before", "inf"))
    except ValueError:
        before = math.nan
    if not before >= 0:  # nan too
        raise HTTPException(400, f"'before' must be Unix seconds, not {shortened(query['before'])!r}")
    found = [
        each
        for each in await server_threads.run(kept.summaries)
        if pipeline in (None, each["pipeline"]) and each["at"] < before and _has_status(each, status)
    ]
    return JSONResponse({"traces": found[: int(limit)]})


async def one_trace(request: Request) -> Response:
    """Answer with one request and its spans."""
    request_id = request.path_params["id"]
    trace = await server_threads.run(_traces(request).find, request_id)
    if trace is None:
        raise NotFoundError(f"there is no trace of the request {shortened(request_id)!r}")
    return JSONResponse(trace)


def _traces(request: Request) -> Traces:
    traces: Traces | None = getattr(request.app.state, "traces", None)
    if traces is None:
        raise NotFoundError("no traces are kept: HAYHOOKS_TRACES is 0")
    return traces


def _has_status(facts: dict[str, Any], status: str) -> bool:
    if status == "error":
        return bool(facts["error"])
    found = str(facts["status"])
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
    "error": {"type": "string", "description": "What went wrong, or why it was refused."},
    "cut": {"type": "boolean", "description": "It had more spans, inputs or outputs than are kept."},
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
    description=(
        "Those that began last first. `HAYHOOKS_TRACES` says how many each worker keeps; the others know of them a "
        "second later."
    ),
    parameters=(
        parameter("limit", "How many.", "query", type="integer", minimum=1, maximum=_MAX_LIMIT, default=50),
        parameter("pipeline", "Only of this one.", "query"),
        parameter("status", "A status, `2xx` to `5xx`, or `error`.", "query", pattern=f"^(?:{_STATUS})?$"),
        parameter("before", "Only those that began before, in Unix seconds.", "query", type="number", minimum=0),
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
            {
                JSON: object_schema(
                    [*_REQUEST, "place", "spans"],
                    place={
                        "type": ["object", "null"],
                        "description": "Where in the user's code it failed: file, line, and the lines around it.",
                    },
                    spans={"type": "array", "items": _SPAN},
                    **_REQUEST,
                )
            },
        ),
        **error_responses(404),
    },
)
