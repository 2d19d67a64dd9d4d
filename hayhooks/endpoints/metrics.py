"""``/metrics``: request and deploy metrics of all workers, in Prometheus' formats."""

import time
from collections.abc import Iterator, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from hayhooks.errors import NotFoundError, UnavailableError
from hayhooks.executions.execution import Counts
from hayhooks.http.context import switch_of
from hayhooks.http.executions import executions_of
from hayhooks.kernel.state import Snapshot
from hayhooks.kernel.threads import server_threads
from hayhooks.observability.metrics import Key
from hayhooks.observability.worker_state import WorkerStateDir
from hayhooks.openapi.describe import (
    TEXT,
    DocumentedRoute,
    OperationDocs,
    error_response,
    error_responses,
    response_object,
)


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/metrics``; 404 if HAYHOOKS_METRICS is false."""
    worker_dir = WorkerStateDir.of_environment()

    async def metrics(request: Request) -> Response:
        kept = switch_of(request.scope).metrics
        if kept is None:
            raise NotFoundError(_OFF)

        def exposed() -> tuple[bytes, str]:
            from hayhooks.observability.prometheus import expose  # noqa: PLC0415 - see there

            return expose(kept, worker_dir, request.headers.get("accept", ""))

        try:
            kept.executions = dict(_of_executions(await executions_of(request.scope).counts()))
        except UnavailableError:  # the database is away: the other numbers are told
            kept.executions = {}
        async with kept.scrape_lock:  # with 1,000 pipelines this takes a second
            body, content_type = await server_threads.run(exposed)
        return Response(body, headers={"Content-Type": content_type})

    yield DocumentedRoute("/metrics", metrics, {"GET": lambda: _DOCS})


def _of_executions(counts: Mapping[str, Counts]) -> Iterator[tuple[Key, list[float]]]:
    now = time.time()
    for name, each in counts.items():
        for state in ("queued", "running", "waiting"):
            yield ("hayhooks_executions", (name, state)), [each.by_status.get(state, 0)]
        for state, since in (("queued", each.oldest_queued_at), ("waiting", each.oldest_waiting_at)):
            if since is not None:
                yield ("hayhooks_execution_oldest_seconds", (name, state)), [round(max(now - since, 0.0), 3)]


_OFF = "nothing is served at /metrics: HAYHOOKS_METRICS is false"

_DOCS = OperationDocs(
    name="metrics",
    summary="Request and deploy metrics for Prometheus",
    answers={
        "200": response_object(
            "The metrics of all workers", {TEXT: {"type": "string"}, "application/openmetrics-text": {"type": "string"}}
        ),
        **error_responses(),
        "404": error_response(404, {"detail": _OFF}, "HAYHOOKS_METRICS is false"),
    },
)
