"""Metrics: counters of this process, and rows of numbers, merged over the workers.

Requests only add to plain attributes, on the event loop; ``/metrics`` builds the rows.
prometheus-client's own multi-process mode cannot drop the series of removed pipelines.
"""

import asyncio
import json
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, NamedTuple

from hayhooks.errors import sendable
from hayhooks.kernel.state import Change, Failure, Snapshot
from hayhooks.observability.request_record import PipelineCounters, RequestRecord
from hayhooks.observability.worker_state import WorkerStateDir

if TYPE_CHECKING:
    from prometheus_client.process_collector import ProcessCollector

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds

_UNKNOWN = "unknown"  # one label for all unknown paths: clients can invent any number of them
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # and "other", for the same reason
_POST_S = 1.0
_KIND = "metrics"


class Family(NamedTuple):
    """One metric."""

    type: str  # counter, gauge or histogram
    help: str  # for the page and for the documentation
    labels: tuple[str, ...] = ()
    merge: str = "sum"  # of the workers' numbers: sum, max, min, or one: only that of the worker that is asked


FAMILIES: Mapping[str, Family] = {
    "hayhooks_requests_total": Family(
        "counter", "Requests that have ended.", ("pipeline", "endpoint", "method", "status")
    ),
    "hayhooks_request_duration_seconds": Family(
        "histogram", "Time from a request's headers to the last byte of its answer.", ("pipeline", "endpoint")
    ),
    "hayhooks_key_requests_total": Family(
        "counter", "Requests that have ended, by the name of their API key.", ("key", "status")
    ),
    "hayhooks_requests_in_flight": Family("gauge", "Requests that a pipeline works on.", ("pipeline",)),
    "hayhooks_requests_cancelled_total": Family("counter", "Requests whose client went away.", ("pipeline",)),
    "hayhooks_stream_chunks_total": Family("counter", "Items that wrappers have streamed.", ("pipeline",)),
    "hayhooks_stream_failures_total": Family(
        "counter", "Streams that broke off after their status had been sent.", ("pipeline",)
    ),
    "hayhooks_deploys_total": Family("counter", "Revisions that have been put into service.", ("pipeline",)),
    "hayhooks_deploy_failures_total": Family("counter", "Revisions that would not load.", ("pipeline",)),
    "hayhooks_rollbacks_total": Family(
        "counter", "Revisions that were taken back because requests failed.", ("pipeline",)
    ),
    "hayhooks_undeploys_total": Family("counter", "Pipelines that have been removed."),
    "hayhooks_load_seconds": Family("gauge", "How long what serves took to load.", ("pipeline",), "one"),
    "hayhooks_loaded_timestamp_seconds": Family("gauge", "When what serves was loaded.", ("pipeline",), "one"),
    "hayhooks_deployment_info": Family(
        "gauge", "1, for the revision that serves and its state.", ("pipeline", "revision", "state"), "one"
    ),
    "hayhooks_deployments": Family("gauge", "Pipelines by state.", ("state",), "one"),
    "hayhooks_generation": Family("gauge", "How often what is served has changed.", (), "max"),
    "hayhooks_workers": Family("gauge", "Processes that serve."),
    "hayhooks_event_loop_lag_seconds": Family(
        "gauge", "How long the event loop has let requests wait, at most, in the last 60 s.", (), "max"
    ),
    "hayhooks_executions": Family("gauge", "Executions that have not ended, by state.", ("pipeline", "state"), "one"),
    "hayhooks_execution_oldest_seconds": Family(
        "gauge", "How long the oldest execution has been in its state.", ("pipeline", "state"), "one"
    ),
    "hayhooks_execution_attempts_total": Family(
        "counter", "Attempts of executions that have ended, by how.", ("pipeline", "outcome")
    ),
    "hayhooks_execution_queue_seconds": Family(
        "histogram", "Time from an execution's order to its first attempt.", ("pipeline",)
    ),
    "process_cpu_seconds_total": Family("counter", "Processor time, user and system."),
    "process_resident_memory_bytes": Family("gauge", "Resident memory."),
    "process_virtual_memory_bytes": Family("gauge", "Virtual memory."),
    "process_open_fds": Family("gauge", "Open file descriptors."),
    "process_max_fds": Family("gauge", "File descriptors that one process may open.", (), "max"),
    "process_start_time_seconds": Family("gauge", "When the first of them was started.", (), "min"),
}

Key = tuple[str, tuple[str, ...]]  # a family's name, and the values of its labels
Rows = dict[Key, list[float]]  # one number; of a histogram one for each bucket, the last without bound, and their sum


class Metrics:
    """The counters of this process; a pipeline's last as long as its folder."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()  # the live one
        self._server = PipelineCounters()
        self._pipelines: dict[str, PipelineCounters] = {}
        self._keys: dict[tuple[str, str], int] = {}  # by the name of a key, and status
        self._undeploys = 0
        self._events = 0  # increases with every count
        self.loop_lag: Callable[[], float] | None = None  # of the watchdog, if there is one
        self.executions: Rows = {}  # what the database of executions had at the last scrape

    @cached_property
    def scrape_lock(self) -> asyncio.Lock:
        """Held by the one scrape that runs."""
        return asyncio.Lock()

    def of(self, name: str) -> PipelineCounters | None:
        """Return the counters of the pipeline *name*; None if it has just been removed."""
        return self._pipelines.get(name)

    def counters(self) -> list[tuple[str, PipelineCounters]]:
        """List the counters of all pipelines by name; "" has those of the server's own routes. In any thread."""
        return [("", self._server), *self._pipelines.copy().items()]

    def __call__(self, record: RequestRecord) -> None:
        """Count a completed request; on the event loop."""
        self._events += 1
        counts = record.counts or self._server
        key = (record.endpoint, record.method, record.status)
        answers = counts.answers.get(key)
        if answers is None:
            method = record.method if record.method in _METHODS else "other"
            empty = [0.0] * (len(BUCKETS) + 2)
            answers = counts.answers.setdefault((record.endpoint, method, record.status), empty)
        answers[bisect_left(BUCKETS, record.took_s)] += 1
        answers[-1] += record.took_s
        if record.api_key:
            label = (record.api_key, str(record.status))
            self._keys[label] = self._keys.get(label, 0) + 1
        if record.cancelled:
            counts.cancelled += 1
        if record.error and record.status < 400:
            counts.stream_failures += 1

    def live(self, snapshot: Snapshot) -> None:
        """Keep counters for exactly the pipelines of the live *snapshot*."""
        self._events += 1
        self.snapshot, names = snapshot, _names(snapshot)
        for name in self._pipelines.keys() - names:
            del self._pipelines[name]
        for name in names - self._pipelines.keys():
            self._pipelines[name] = PipelineCounters()

    def changed(self, change: Change) -> None:
        """Count *change*, whose snapshot is live; on the event loop."""
        self._events += 1
        counts = self._pipelines.get(change.name) or PipelineCounters()
        match change.event:
            case "deployed":
                counts.deploys += 1
            case "failed" if isinstance(change.outcome, Failure) and change.outcome.has_served:
                counts.rollbacks += 1
            case "failed":
                counts.failures += 1
            case "undeployed":
                self._undeploys += 1

    def attempt_begun(self, name: str, queued_s: float) -> None:
        """Count the first attempt of an execution of *name*, *queued_s* after its order; on the event loop."""
        if counts := self._pipelines.get(name):
            counts.queued = counts.queued or [0.0] * (len(BUCKETS) + 2)
            counts.queued[bisect_left(BUCKETS, queued_s)] += 1
            counts.queued[-1] += queued_s

    def attempt_ended(self, name: str, outcome: str) -> None:
        """Count an attempt of an execution of *name*; on the event loop."""
        self._events += 1
        if counts := self._pipelines.get(name):
            counts.attempts[outcome] = counts.attempts.get(outcome, 0) + 1

    def rows(self) -> Rows:
        """Return this process' numbers, to be merged over workers."""
        rows: Rows = {}
        for metric in _process_collector().collect():  # none without /proc
            for sample in metric.samples:
                rows[sample.name, ()] = [round(sample.value, 1)]
        rows["hayhooks_generation", ()] = [self.snapshot.generation]
        rows["hayhooks_undeploys_total", ()] = [self._undeploys]
        rows["hayhooks_workers", ()] = [1]
        rows.update({("hayhooks_key_requests_total", label): [count] for label, count in self._keys.copy().items()})
        if self.loop_lag is not None:
            rows["hayhooks_event_loop_lag_seconds", ()] = [round(self.loop_lag(), 3)]
        _add(rows, _requests("", self._server))
        for name, counts in self._pipelines.copy().items():  # a copy is made in one step: the loop goes on
            label = (name,)
            _add(rows, _requests(name, counts))
            rows["hayhooks_requests_in_flight", label] = [counts.in_flight]
            rows["hayhooks_requests_cancelled_total", label] = [counts.cancelled]
            rows["hayhooks_stream_chunks_total", label] = [counts.chunks]
            rows["hayhooks_stream_failures_total", label] = [counts.stream_failures]
            rows["hayhooks_deploys_total", label] = [counts.deploys]
            rows["hayhooks_deploy_failures_total", label] = [counts.failures]
            rows["hayhooks_rollbacks_total", label] = [counts.rollbacks]
            if counts.attempts:
                rows["hayhooks_execution_queue_seconds", label] = list(counts.queued)
            for outcome, count in counts.attempts.copy().items():
                rows["hayhooks_execution_attempts_total", (name, outcome)] = [count]
        return rows

    def all_rows(self, worker_dir: WorkerStateDir) -> Rows:
        """Return the merged numbers of all workers, and this worker's view of deployments.

        This worker's numbers are published first, so no sum ever falls at another worker's next scrape.
        """
        rows = self.rows()
        post(worker_dir, rows)
        known = _names(self.snapshot) | {""}
        for lives, posted in worker_dir.posted(_KIND):
            _add(rows, _wanted(posted, known, lives=lives))
        return rows | dict(_of_snapshot(self.snapshot)) | self.executions

    @contextmanager
    def shared(self, worker_dir: WorkerStateDir) -> Iterator[None]:
        """Publish the numbers to other workers once a second, and when the context ends."""
        if worker_dir.directory is None:
            yield
            return
        stopped = threading.Event()

        def share() -> None:
            published: tuple[int, float] | None = None
            while not stopped.wait(_POST_S):
                state = self._events, round(self.loop_lag(), 3) if self.loop_lag is not None else 0.0
                # A stream that goes on changes its chunk count, but is not an event.
                if state != published or any(counts.in_flight for counts in self._pipelines.copy().values()):
                    post(worker_dir, self.rows())
                    published = state
            post(worker_dir, self.rows())

        thread = threading.Thread(target=share, name="hayhooks metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def post(worker_dir: WorkerStateDir, rows: Rows) -> None:
    """Publish *rows* to the other workers."""
    if worker_dir.directory is not None:
        worker_dir.post_as(_KIND, json.dumps([[name, labels, numbers] for (name, labels), numbers in rows.items()]))


def _wanted(posted: str, known: set[str], *, lives: bool) -> Iterator[tuple[Key, list[float]]]:
    """Decode rows, but none of removed pipelines and no gauges of an ended worker."""
    for name, labels, numbers in json.loads(posted):
        family = FAMILIES.get(name)
        if family is None or (family.type == "gauge" and not lives):
            continue
        if "pipeline" not in family.labels or labels[family.labels.index("pipeline")] in known:
            yield (name, tuple(labels)), numbers


def _add(rows: Rows, more: Iterable[tuple[Key, Sequence[float]]]) -> None:
    """Merge *more* into *rows*, as the families say."""
    for key, numbers in more:
        there = rows.get(key)
        if there is None:
            rows[key] = list(numbers)
            continue
        match FAMILIES[key[0]].merge:
            case "max":
                rows[key] = list(map(max, there, numbers))
            case "min":
                rows[key] = list(map(min, there, numbers))
            case _:
                rows[key] = [a + b for a, b in zip(there, numbers, strict=True)]


def _requests(pipeline: str, counts: PipelineCounters) -> Iterator[tuple[Key, list[float]]]:
    for (endpoint, method, status), numbers in counts.answers.copy().items():
        endpoint = endpoint or _UNKNOWN
        yield ("hayhooks_requests_total", (pipeline, endpoint, method, str(status))), [sum(numbers[:-1])]
        yield ("hayhooks_request_duration_seconds", (pipeline, endpoint)), numbers


def _names(snapshot: Snapshot) -> set[str]:
    """Return the names of all folders; a failed one's may not be Unicode."""
    return {*snapshot.deployments, *map(sendable, (*snapshot.failures, *snapshot.loading))}


def _of_snapshot(snapshot: Snapshot) -> Iterator[tuple[Key, list[float]]]:
    states = dict.fromkeys(("serving", "stale", "failed", "loading"), 0)
    for name in {*snapshot.deployments, *snapshot.failures, *snapshot.loading}:
        state, deployment = snapshot.state(name), snapshot.deployments.get(name)
        states[state] += 1
        if deployment is not None:
            yield ("hayhooks_load_seconds", (name,)), [deployment.load_ms / 1000]
            yield ("hayhooks_loaded_timestamp_seconds", (name,)), [deployment.loaded_at]
            yield ("hayhooks_deployment_info", (name, deployment.revision.id, state)), [1]
        if canary := snapshot.canaries.get(name):
            yield ("hayhooks_deployment_info", (name, canary.revision.id, "canary")), [1]
    for state, count in states.items():
        yield ("hayhooks_deployments", (state,)), [count]


@cache
def _process_collector() -> "ProcessCollector":
    from prometheus_client.process_collector import ProcessCollector  # noqa: PLC0415 - see prometheus.py

    return ProcessCollector(registry=None)
