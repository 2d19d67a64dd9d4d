"""Encode metrics in Prometheus' exposition formats.

Imported at the first scrape: prometheus-client would slow the start of every server (benchmark row ``start``).
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from hayhooks.observability.metrics import BUCKETS, FAMILIES, Metrics, Rows
from hayhooks.observability.worker_state import WorkerStateDir


def expose(metrics: Metrics, worker_dir: WorkerStateDir, accept: str) -> tuple[bytes, str]:
    """Encode the numbers of all workers as *accept* asks; return body and media type."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # an invalid version
        encode, content_type = choose_encoder("")
    return encode(_Page(metrics, worker_dir)), content_type


class _Page(Collector):
    def __init__(self, metrics: Metrics, worker_dir: WorkerStateDir) -> None:
        self._metrics = metrics
        self._worker_dir = worker_dir

    def collect(self) -> Iterator[Metric]:
        """Yield the families that have numbers."""
        rows = self._metrics.all_rows(self._worker_dir)
        by_family: dict[str, Rows] = {}
        for key, numbers in rows.items():
            by_family.setdefault(key[0], {})[key] = numbers
        for name, family in FAMILIES.items():
            if name not in by_family:
                continue
            metric = _KINDS[family.type](name, family.help, labels=family.labels)
            for (_, labels), numbers in sorted(by_family[name].items()):
                if family.type == "histogram":
                    cumulative = zip((*map(str, BUCKETS), "+Inf"), accumulate(numbers[:-1]), strict=True)
                    metric.add_metric(labels, list(cumulative), sum_value=numbers[-1])
                else:
                    metric.add_metric(labels, numbers[0])
            yield metric


_KINDS: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}
