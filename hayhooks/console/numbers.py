"""``/console/numbers``: requests, durations, memory and processor of the last quarter of an hour, of all workers."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from hayhooks.console.number_series import POINTS, STEP_S, NumberSeries, Step, series
from hayhooks.errors import NotFoundError, shortened
from hayhooks.http.context import switch_of
from hayhooks.http.json import encode
from hayhooks.http.lookup import serving_summary
from hayhooks.kernel.state import Snapshot
from hayhooks.kernel.threads import server_threads
from hayhooks.observability.log import log
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


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Take a step every few seconds while the application runs."""
    metrics = app.metrics  # type: ignore[attr-defined]  # a Hayhooks
    if metrics is None:
        yield
        return
    app.state.numbers = numbers = NumberSeries(metrics, WorkerStateDir.of_environment())

    async def take_steps() -> None:
        while True:
            # The same moments in all workers; timers may fire some milliseconds early.
            await asyncio.sleep(STEP_S - time.time() % STEP_S + 0.05)
            try:
                await server_threads.run(numbers.take)
            except Exception:  # a fault of ours costs one step
                log.exception("The console's numbers were not taken")

    taking = asyncio.create_task(take_steps())
    try:
        yield
    finally:
        taking.cancel()


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/console/numbers``."""
    worker_dir = WorkerStateDir.of_environment()

    async def numbers(request: Request) -> Response:
        kept: NumberSeries | None = getattr(request.app.state, "numbers", None)
        if kept is None:
            raise NotFoundError("there are no numbers: HAYHOOKS_METRICS is false, or the application does not run")
        points = request.query_params.get("points", str(POINTS))
        if not points.isdecimal() or len(points) > 4 or not 1 <= int(points) <= POINTS:
            raise HTTPException(400, f"'points' must be from 1 to {POINTS}, not {shortened(points)!r}")
        serving = serving_summary(switch_of(request.scope).live.snapshot)
        pipeline = request.query_params.get("pipeline")

        def encoded() -> bytes:
            steps, facts = kept.of_workers(), worker_dir.read(serving)
            by_pid, revisions = dict(steps), Counter(fact["revision"] for fact in facts)
            workers = [
                {
                    "pid": fact["pid"],
                    "revision": fact["revision"],
                    "differs": revisions[fact["revision"]] * 2 <= len(facts),
                    **_sums(by_pid.get(fact["pid"], [])),
                }
                for fact in facts
            ]
            body = series((each for _, each in steps), points=int(points), pipeline=pipeline, now=time.time())
            return encode({**body, "workers": workers})

        return Response(await server_threads.run(encoded), media_type=JSON)

    yield DocumentedRoute("/console/numbers", numbers, {"GET": lambda: _DOCS})


def _sums(steps: Sequence[Step]) -> dict[str, Any]:
    """Return what a worker did in all of its *steps*, and its memory."""
    numbers = [each for step in steps for each in step.pipelines.values()]
    return {
        "requests": sum(each.requests for each in numbers),
        "errors": sum(each.errors for each in numbers),
        "memory_bytes": steps[-1].memory_bytes if steps else 0,
    }


_COUNTS = {"type": "array", "items": {"type": ["number", "null"]}}
_SERIES = dict.fromkeys(("requests", "errors", "chunks", "in_flight", "p50_ms", "p95_ms"), _COUNTS)
_WORKER = object_schema(
    ["pid", "revision", "differs", "requests", "errors", "memory_bytes"],
    pid={"type": "integer"},
    revision={"type": "string", "description": "Of all that it serves."},
    differs={"type": "boolean"},
    requests={"type": "integer"},
    errors={"type": "integer"},
    memory_bytes={"type": "integer"},
)

_DOCS = OperationDocs(
    name="numbers",
    summary="Requests, durations, memory and processor of the last minutes",
    description=(
        "Sums over all workers, those that have ended included; an array has a number for each step, null where no "
        "worker ran. `server` has the requests to any pipeline or none, without what the console and probes poll. "
        "`p50_ms` and `p95_ms` are estimates from the buckets of `hayhooks_request_duration_seconds`, as "
        "Prometheus makes them; null without requests. The `requests` and `errors` of a worker are those of all steps; "
        "it `differs` if at most half of the workers serve the same `revision`."
    ),
    parameters=(
        parameter("points", "How many steps.", "query", type="integer", minimum=1, maximum=POINTS, default=POINTS),
        parameter("pipeline", "Only this one, beside the server itself.", "query"),
    ),
    answers={
        "200": response_object(
            "The numbers",
            {
                JSON: object_schema(
                    ["step_s", "from", "points", "server", "pipelines", "workers"],
                    step_s={"type": "integer"},
                    points={"type": "integer"},
                    server=object_schema([*_SERIES], cpu=_COUNTS, memory_bytes=_COUNTS, **_SERIES),
                    pipelines={"type": "object", "additionalProperties": object_schema([*_SERIES], **_SERIES)},
                    workers={"type": "array", "items": _WORKER},
                    **{"from": {"type": "number", "description": "Unix seconds of the first step."}},
                )
            },
        ),
        **error_responses(400, 404),
    },
)
