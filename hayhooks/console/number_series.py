"""Number series: the metrics' counters in steps of some seconds, for the last minutes."""

import json
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from hayhooks.observability.metrics import BUCKETS, Metrics
from hayhooks.observability.request_record import POLLED, PipelineCounters
from hayhooks.observability.worker_state import WorkerStateDir

STEP_S = 5
POINTS = 180  # a quarter of an hour

_KIND = "numbers"
_STATM = Path("/proc/self/statm")


class Numbers(NamedTuple):
    """What a pipeline did in one step; as JSON a list."""

    requests: int  # without those that are polled
    errors: int  # responses of 500 and more, and streams that broke off
    chunks: int
    in_flight: int  # at the end
    buckets: Sequence[int]  # requests by duration, as in the metrics

    def minus(self, before: "Numbers") -> "Numbers":
        """Return what was added since *before*."""
        buckets = [new - old for new, old in zip(self.buckets, before.buckets, strict=True)]
        counts = (self.requests - before.requests, self.errors - before.errors, self.chunks - before.chunks)
        return Numbers(*counts, self.in_flight, buckets)

    def plus(self, other: "Numbers") -> "Numbers":
        """Return the sum of both, of two workers in one step."""
        buckets = [one + another for one, another in zip(self.buckets, other.buckets, strict=True)]
        counts = (self.requests + other.requests, self.errors + other.errors, self.chunks + other.chunks)
        return Numbers(*counts, self.in_flight + other.in_flight, buckets)

    def quantile_ms(self, quantile: float) -> float | None:
        """Estimate a duration as Prometheus does, linear in its bucket; None without requests."""
        rank = quantile * self.requests
        for index, count in enumerate(accumulate(self.buckets)):
            if count >= rank > 0:
                if index == len(BUCKETS):
                    return BUCKETS[-1] * 1000
                lower = BUCKETS[index - 1] if index else 0.0
                share = (rank - count + self.buckets[index]) / self.buckets[index]
                return round((lower + (BUCKETS[index] - lower) * share) * 1000, 2)
        return None


NOTHING = Numbers(0, 0, 0, 0, [0] * (len(BUCKETS) + 1))


class Step(NamedTuple):
    """One step of a process; as JSON a list."""

    number: int  # Unix seconds by STEP_S: the same in all workers
    cpu_s: float
    memory_bytes: int
    pipelines: Mapping[str, Numbers]  # of those that did anything; "" for the server's own routes


class NumberSeries:
    """The steps of this process, which it shares with the other workers."""

    def __init__(self, metrics: Metrics, worker_dir: WorkerStateDir) -> None:
        self._metrics = metrics
        self._worker_dir = worker_dir
        self._steps: deque[Step] = deque(maxlen=POINTS)
        self._totals: dict[str, Numbers] = {}  # since the start, at the last step
        self._cpu_s = time.process_time()

    def take(self) -> None:
        """Take a step, from the last one to this moment; in a thread."""
        totals = {name: _total(counts) for name, counts in self._metrics.counters()}
        pipelines = {name: total.minus(self._totals.get(name, NOTHING)) for name, total in totals.items()}
        for name, numbers in pipelines.items():
            if numbers.requests < 0 or numbers.chunks < 0:  # it was removed, and is here again
                pipelines[name] = totals[name]
        active = {name: numbers for name, numbers in pipelines.items() if any(numbers[:4])}
        before, self._cpu_s, self._totals = self._cpu_s, time.process_time(), totals
        number = int(time.time() // STEP_S) - 1  # the one that has just ended
        self._steps.append(Step(number, round(self._cpu_s - before, 3), _memory(), active))
        if self._worker_dir.directory is not None:
            self._worker_dir.post_as(_KIND, json.dumps([os.getpid(), list(self._steps)]))

    def of_workers(self) -> list[tuple[int, list[Step]]]:
        """Return process id and steps of each worker, the one that was heard of last at the end.

        Those that have ended are among them, and the system may have given the process id of one to another.
        """
        workers = [(os.getpid(), list(self._steps))]
        for _, posted in self._worker_dir.posted(_KIND):
            pid, steps = json.loads(posted)
            workers.append(
                (
                    pid,
                    [
                        Step(number, cpu_s, memory, {name: Numbers(*numbers) for name, numbers in pipelines.items()})
                        for number, cpu_s, memory, pipelines in steps
                    ],
                )
            )
        return sorted(workers, key=lambda worker: worker[1][-1].number if worker[1] else 0)


def series(workers: Iterable[Sequence[Step]], *, points: int, pipeline: str | None, now: float) -> dict[str, Any]:
    """Return arrays of *points* numbers, one for each step up to *now*, summed over *workers*.

    Those of "server" are of all requests, those of "pipelines" of one *pipeline*, or of each. A number is None where no
    worker ran.
    """
    first = int(now // STEP_S) - points
    numbers_of_steps = range(first, first + points)
    cpu, memory = defaultdict[int, float](float), Counter[int]()
    whole: dict[int, Numbers] = {}
    sums: dict[str, dict[int, Numbers]] = {}
    known = set()
    for steps in workers:
        for step in steps:
            known.add(step.number)
            cpu[step.number] += step.cpu_s
            memory[step.number] += step.memory_bytes
            for name, numbers in step.pipelines.items():
                whole[step.number] = whole.get(step.number, NOTHING).plus(numbers)
                if name and pipeline in (None, name):
                    by_step = sums.setdefault(name, {})
                    by_step[step.number] = by_step.get(step.number, NOTHING).plus(numbers)

    def arrays(by_step: Mapping[int, Numbers]) -> dict[str, list[Any]]:
        row = [by_step.get(number, NOTHING) if number in known else None for number in numbers_of_steps]
        return {
            **{
                key: [each and getattr(each, key) for each in row]
                for key in ("requests", "errors", "chunks", "in_flight")
            },
            "p50_ms": [each and each.quantile_ms(0.5) for each in row],
            "p95_ms": [each and each.quantile_ms(0.95) for each in row],
        }

    return {
        "step_s": STEP_S,
        "from": first * STEP_S,
        "points": points,
        "server": {
            "cpu": [round(cpu[number] / STEP_S, 3) if number in known else None for number in numbers_of_steps],
            "memory_bytes": [memory[number] if number in known else None for number in numbers_of_steps],
            **arrays(whole),
        },
        "pipelines": {name: arrays(by_step) for name, by_step in sorted(sums.items())},
    }


def _total(counts: PipelineCounters) -> Numbers:
    buckets, errors = [0] * (len(BUCKETS) + 1), counts.stream_failures
    for (endpoint, _, status), numbers in counts.answers.copy().items():
        if endpoint in POLLED:
            continue
        for index, count in enumerate(numbers[:-1]):
            buckets[index] += int(count)
            errors += int(count) if status >= 500 else 0
    return Numbers(sum(buckets), errors, counts.chunks, counts.in_flight, buckets)


def _memory() -> int:
    """Return the resident bytes of this process; 0 without /proc."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
