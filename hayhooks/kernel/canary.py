"""Canary: a new revision gets a share of the requests beside the one that serves; then all of them, or none.

The conductor begins and ends canaries; the dispatcher chooses which requests go to them. On the event loop the judge of
trials rolls one back at once that fails most of its requests.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from loguru import logger as log

from hayhooks.kernel.admission import Outcomes
from hayhooks.kernel.failure import rolled_back
from hayhooks.kernel.options import KernelOptions
from hayhooks.kernel.revision_store import RevisionStore
from hayhooks.kernel.state import Deployment, Failure, Snapshot
from hayhooks.kernel.trial import Judge, Rollbacks

_MIN_TIMED = 50  # requests of either revision before their durations are compared
_NOISE_MS = 5.0  # by so little a slower answer is no slower


@dataclass(frozen=True, slots=True)
class CanaryFigures:
    """What one of the two revisions has answered since the canary began."""

    revision: str
    requests: int
    failed: int
    p95_ms: float | None  # of the last that did not fail; None without any

    @property
    def failed_share(self) -> float:
        """The share of the requests that failed, from 0 to 1."""
        return self.failed / self.requests if self.requests else 0.0

    def __str__(self) -> str:
        p95 = "" if self.p95_ms is None else f", p95 {self.p95_ms:.0f} ms"
        return f"revision {self.revision}: {self.failed} of {self.requests} requests failed{p95}"


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """A canary that runs."""

    name: str
    share: float
    since: float  # Unix seconds
    ends_in_s: float  # at the latest
    canary: CanaryFigures
    serving: CanaryFigures


@dataclass(slots=True, eq=False)
class _Canary:
    deployment: Deployment
    beside: Deployment  # what gets the other requests
    judge: Judge
    ends_at: float  # of a monotonic clock
    since: float = field(default_factory=time.time)  # Unix seconds
    counted: tuple[int, int] = (0, 0)  # requests and failures of `beside` before it began
    is_marked: bool = False  # the state directory has said that it is one
    failure: Failure | None = None  # why it is to be rolled back
    is_promoted: bool = False  # it is to get all requests

    def stand_beside(self, deployment: Deployment) -> None:
        outcomes = deployment.runtime.outcomes
        self.beside, self.judge.before, self.counted = deployment, outcomes, outcomes.counted
        outcomes.measure()

    def report(self) -> CanaryReport:
        return CanaryReport(
            self.deployment.name,
            self.deployment.canary,
            self.since,
            round(max(self.ends_at - time.monotonic(), 0.0), 1),
            _figures(self.deployment.revision.id, self.deployment.runtime.outcomes, (0, 0)),
            _figures(self.beside.revision.id, self.beside.runtime.outcomes, self.counted),
        )


class Canaries:
    """The canaries that run, one of a name. For the conductor only, except for `share_of`, `prepare` and `reports`."""

    def __init__(
        self,
        options: KernelOptions,
        store: RevisionStore | None,
        report: Callable[[Failure], None],
        told: Callable[[], Rollbacks],
    ) -> None:
        self._options = options
        self._store = store
        self._report = report
        self._told = told  # what other workers have rolled back
        self._running: dict[str, _Canary] = {}

    def share_of(self, deployment: Deployment) -> tuple[float, bool]:
        """Return the share that *deployment* gets at first beside another, 0 for all, and whether a mark asks for it.

        In a loader thread.
        """
        store, revision = self._store, deployment.revision
        if not self._options.canary_s:
            return 0.0, False
        asked = store.canary_share(revision) if store else None
        if asked is not None:
            return asked, True
        # Another worker may have promoted it, or it takes its own place.
        is_tried = deployment.canary and not (store and store.is_last_good(revision))
        return (deployment.canary if is_tried else 0.0), False

    def prepare(self, deployment: Deployment, share: float) -> Deployment:
        """Return *deployment* with its *share*; the state directory gets to know: a restart goes on with both.

        In a loader thread.
        """
        if share and self._store:
            self._store.begin_canary(deployment.revision, share)
        return deployment if share == deployment.canary else replace(deployment, canary=share)

    def begun(
        self, outcomes: Mapping[str, Deployment | Failure], snapshot: Snapshot, restored: Collection[str]
    ) -> dict[str, Deployment]:
        """Return those of *outcomes* that begin as canaries, beside what serves in *snapshot* or is *restored*."""
        begun = {}
        for name, outcome in outcomes.items():
            if isinstance(outcome, Deployment) and outcome.canary:
                serving = snapshot.deployments.get(name)
                is_other = serving is not None and serving.revision.fingerprint != outcome.revision.fingerprint
                if is_other or (serving is None and name in restored):
                    begun[name] = outcome
        return begun

    def fail(self, failure: Failure) -> None:
        """Note that a revision is to be rolled back, if it is a canary."""
        canary = self._running.get(failure.revision.name)
        if canary is not None and canary.deployment.revision is failure.revision:
            canary.failure = failure

    @property
    def decided(self) -> set[str]:
        """The names whose canary is to be promoted or rolled back."""
        return {name for name, canary in self._running.items() if canary.is_promoted or canary.failure}

    def outcomes(self) -> Iterator[Deployment | Failure]:
        """Yield what ends them: the deployment that gets all requests, or the failure of one that gets none."""
        for canary in self._running.values():
            if canary.failure is not None:
                yield canary.failure
            elif canary.is_promoted:
                yield canary.deployment

    def replace(self, snapshot: Snapshot, successor: Snapshot) -> list[Deployment]:
        """End and begin canaries before *successor* is published; return the deployments that retire after it."""
        for name, canary in list(self._running.items()):
            serving = successor.deployments.get(name)
            if successor.canaries.get(name) is not canary.deployment:
                del self._running[name]
                canary.deployment.runtime.outcomes.judge = None
                for each in (canary.deployment, canary.beside):
                    each.runtime.outcomes.durations_s = None
            elif serving is not None and serving is not canary.beside:
                canary.stand_beside(serving)
        for name, deployment in successor.canaries.items():
            if name not in self._running:
                beside, ends_at = successor.deployments[name], time.monotonic() + self._options.canary_s
                judge = Judge(deployment.revision, beside.runtime.outcomes, self._options, self._report)
                self._running[name] = canary = _Canary(deployment, beside, judge, ends_at)
                canary.is_marked = self._store is not None and self._store.is_canary(deployment.revision)
                deployment.runtime.outcomes.judge = judge
                deployment.runtime.outcomes.measure()
                canary.stand_beside(beside)
        return [
            deployment
            for name, deployment in snapshot.canaries.items()
            if deployment not in (successor.canaries.get(name), successor.deployments.get(name))
        ]

    def tick(self) -> None:
        """Decide what has answered enough requests, or whose time is over; follow other workers and commands."""
        told = self._told() if self._running else {}
        for name, canary in list(self._running.items()):
            if canary.failure or canary.is_promoted:
                continue
            revision, store = canary.deployment.revision, self._store
            why = told.get((name, revision.fingerprint)) or (store and store.why_rolled_back(revision))
            if why:
                canary.failure = rolled_back(revision, why)
                continue
            report = canary.report()
            if store is not None and canary.is_marked and store.is_promoted(revision):
                canary.is_promoted = True  # by a command, or another worker
            elif report.canary.requests >= self._options.canary_requests or not report.ends_in_s:
                if problem := self._problem(report):
                    canary.failure = rolled_back(revision, f"rolled back: {problem}; {report.serving}")
                else:
                    canary.is_promoted = True
            if canary.is_promoted:
                log.info("{}: the canary gets all requests; {}; {}", name, report.canary, report.serving)

    def _problem(self, report: CanaryReport) -> str:
        """Return why the canary is to be rolled back; "" if it is not."""
        canary, serving, options = report.canary, report.serving, self._options
        if canary.requests < min(options.trial_requests, options.canary_requests):
            return ""
        if canary.failed_share > max(options.canary_error_rate, serving.failed_share):
            last = self._running[report.name].judge.problem
            return f"{canary.failed} of {canary.requests} requests failed, the last by {last}"
        timed = min(canary.requests - canary.failed, serving.requests - serving.failed)
        if timed < _MIN_TIMED or canary.p95_ms is None or serving.p95_ms is None or not options.canary_slowdown:
            return ""
        if canary.p95_ms > serving.p95_ms * options.canary_slowdown + _NOISE_MS:
            times = f"more than {options.canary_slowdown:g} times {serving.p95_ms:.0f} ms"
            return f"95 % of its {canary.requests} requests took up to {canary.p95_ms:.0f} ms, {times}"
        return ""

    def reports(self) -> list[CanaryReport]:
        """Return what each canary and the deployment beside it have answered; from any thread."""
        return [canary.report() for canary in self._running.copy().values()]


def _figures(revision: str, outcomes: Outcomes, before: tuple[int, int]) -> CanaryFigures:
    durations_s = sorted(outcomes.durations_s or ())  # which copies it in one step: the event loop appends
    p95_ms = round(durations_s[math.ceil(0.95 * len(durations_s)) - 1] * 1000, 1) if durations_s else None
    return CanaryFigures(revision, outcomes.ended - before[0], outcomes.failed - before[1], p95_ms)
