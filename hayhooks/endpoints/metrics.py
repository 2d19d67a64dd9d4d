"""``/metrics``: requests and deploys in numbers, as Prometheus reads them; of all workers together."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from anyio import CapacityLimiter, to_thread
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from hayhooks.errors import NotFoundError
from hayhooks.kernel.snapshot import Deployment, Snapshot
from hayhooks.metrics import BUCKETS, FAMILIES, Metrics, Rows
from hayhooks.openapi import TEXT, Described, Docs, answer, errors
from hayhooks.router import switch_of
from hayhooks.workers import Board


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/metrics``, where they are kept."""
    board = Board.of_environment()

    async def metrics(request: Request) -> Response:
        kept = switch_of(request.scope).metrics
        if kept is None:
            raise NotFoundError("nothing is served at /metrics: HAYHOOKS_METRICS is false")
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        # In a thread, and in none that requests may take: with 1,000 pipelines this takes a second.
        body = await to_thread.run_sync(lambda: encode(_Page(kept, board)), limiter=CapacityLimiter(1))
        return Response(body, headers={"Content-Type": content_type})

    yield Described("/metrics", metrics, {"GET": lambda: _DOCS})


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Nothing below a deployment."""
    return iter(())


class _Page(Collector):
    """One answer, as prometheus-client asks for it."""

    def __init__(self, metrics: Metrics, board: Board) -> None:
        self._metrics = metrics
        self._board = board

    def collect(self) -> Iterator[Metric]:
        """The families of which there are numbers."""
        rows = self._metrics.all_rows(self._board)
        by_family: dict[str, Rows] = {}
        for key, numbers in rows.items():
            by_family.setdefault(key[0], {})[key] = numbers
        for name in FAMILIES:
            if name in by_family:
                yield _family(name, by_family[name])


_MAKERS: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _family(name: str, rows: Rows) -> Metric:
    family = FAMILIES[name]
    made = _MAKERS[family.type](name, family.help, labels=family.labels)
    for (_, labels), numbers in sorted(rows.items()):
        if family.type == "histogram":
            made.add_metric(labels, _buckets(numbers), sum_value=numbers[-1])
        else:
            made.add_metric(labels, numbers[0])
    assert isinstance(made, Metric)
    return made


def _buckets(numbers: Sequence[float]) -> list[tuple[str, float]]:
    """Each with those below it, as histograms have them."""
    return list(zip((*map(str, BUCKETS), "+Inf"), accumulate(numbers[:-1]), strict=True))


_DOCS = Docs(
    name="metrics",
    summary="Requests and deploys in numbers, as Prometheus reads them",
    answers={
        "200": answer(
            "The numbers of all workers", {TEXT: {"type": "string"}, "application/openmetrics-text": {"type": "string"}}
        ),
        **errors(404),
    },
)
