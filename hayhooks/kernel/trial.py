"""Trial: for a while the revision that was replaced stays loaded, and serves again if requests of the new one fail.

It is a drain that waits: ``Retirement`` holds the replaced deployment. The conductor begins and ends trials; on the
event loop a ``Judge`` looks at each request that fails, and reports a ``Failure`` to the conductor.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from hayhooks.errors import LoadError, PipelineError
from hayhooks.kernel.admission import Outcomes
from hayhooks.kernel.failure import failure_of, rolled_back
from hayhooks.kernel.options import KernelOptions
from hayhooks.kernel.retire import Retirement
from hayhooks.kernel.state import Deployment, Failure, Revision, Snapshot

Rollbacks = Mapping[tuple[str, str], str]  # by name and fingerprint of a revision, why it was rolled back

_MARK = "-rolled-back"  # of the fingerprint of a revision that another worker has rolled back


def rollbacks(snapshot: Snapshot) -> Rollbacks:
    """Return what is rolled back in *snapshot*, here or in another worker."""
    failed = [(each.revision, each) for each in snapshot.failures.values()]
    return {
        (revision.name, revision.fingerprint.removesuffix(_MARK)): failure.reason
        for revision, failure in failed
        if failure.has_served or revision.fingerprint.endswith(_MARK)
    }


@dataclass(slots=True, eq=False)
class Judge:
    """Decides after each failed request of *revision* whether the deployment *before* it serves again."""

    revision: Revision
    before: Outcomes
    options: KernelOptions  # how many must have been answered, and which share of them may fail
    report: Callable[[Failure], None]
    counted: tuple[int, int] = (0, 0)  # requests and failures before it began, as a canary
    problem: str = ""  # by which the last request failed
    _last: Failure | None = None  # the error of a request, as text
    _noted: int = 0  # errors
    _is_over: bool = False

    def note(self, outcomes: Outcomes, error: BaseException) -> None:
        """Describe *error*, which fails a request, if it may be the last one."""
        # It takes a millisecond, and the exception cannot be kept: its frames refer to the deployment.
        self._noted += 1
        ended = max(outcomes.ended - self.counted[0] + 1, self._noted)  # others may have failed too, and not ended yet
        if not self._is_over and self._are_too_many(self._noted, ended):
            if isinstance(error, PipelineError):  # a result of no use: no code of the user's has raised
                error = LoadError(str(error), traceback=error.traceback, place=error.place)
            self._last = failure_of(self.revision, error)

    def judge(self, outcomes: Outcomes, problem: str) -> None:
        """Report the failure of the revision, once, if too many of its requests have failed, the last by *problem*."""
        self.problem = problem
        ended, failed = outcomes.ended - self.counted[0], outcomes.failed - self.counted[1]
        if self._is_over or not self._are_too_many(failed, ended) or self.before.recent_share >= failed / ended:
            return
        self._is_over = True
        last = self._last or rolled_back(self.revision, problem)
        where = f" at {last.place.short}" if last.place else ""
        reason = f"rolled back after {failed} of {ended} requests failed: {last.reason}{where}"
        self.report(replace(last, reason=reason, failed_at=time.time(), has_served=True))

    def _are_too_many(self, failed: int, ended: int) -> bool:
        return ended >= self.options.trial_requests and failed > self.options.trial_error_rate * ended


@dataclass(slots=True, eq=False)
class _Trial:
    deployment: Deployment
    before: Deployment  # that `Retirement` holds
    ends_at: float  # of a monotonic clock
    failure: Failure | None = None  # why it is to be rolled back


class Trials:
    """The trials that run, one of a name. For the conductor only."""

    def __init__(
        self,
        retirement: Retirement,
        options: KernelOptions,
        report: Callable[[Failure], None],
        told: Callable[[], Rollbacks],
    ) -> None:
        self._retirement = retirement
        self._options = options
        self._report = report
        self._told = told  # what other workers have rolled back
        self._running: dict[str, _Trial] = {}

    def refused(self, revisions: Mapping[str, Revision], snapshot: Snapshot) -> Mapping[str, Revision]:
        """Return *revisions*, each that another worker has rolled back replaced by one that says so.

        Those that serve in *snapshot* are for ``tick``: what they have replaced may serve again.
        """
        told = {**self._told(), **rollbacks(snapshot)}
        refused = {}
        for (name, fingerprint), why in told.items():
            known = (snapshot.deployments.get(name), snapshot.failures.get(name))
            is_known = any(each is not None and each.revision.fingerprint == fingerprint for each in known)
            if name in revisions and revisions[name].fingerprint == fingerprint and not is_known:
                refused[name] = replace(
                    revisions[name], fingerprint=fingerprint + _MARK, problem=why, replaces=fingerprint
                )
        return {**revisions, **refused} if refused else revisions

    def fail(self, failure: Failure) -> None:
        """Note that a revision is to be rolled back, unless its trial is over."""
        trial = self._running.get(failure.revision.name)
        if trial is not None and trial.deployment.revision is failure.revision:
            trial.failure = failure

    @property
    def failed(self) -> set[str]:
        """The names that are to be rolled back."""
        return {name for name, trial in self._running.items() if trial.failure is not None}

    def outcomes(self) -> Iterator[Deployment | Failure]:
        """Yield what rolls them back: of each the deployment that serves again, and the failure of the other."""
        for trial in self._running.values():
            if trial.failure is not None:
                yield trial.before
                yield trial.failure

    def replace(self, snapshot: Snapshot, successor: Snapshot) -> list[Deployment]:
        """End and begin trials before *successor* is published; return the deployments that retire after it."""
        retiring = []
        for name, old in snapshot.deployments.items():
            new = successor.deployments.get(name)
            trial = self._running.get(name)
            if new is old or (trial is not None and trial.deployment is new):  # its publication failed before
                continue
            trial = self._end(name)
            if new is not None and trial is not None and new is trial.before:
                self._retirement.take_back(new)
                retiring.append(old)
                continue
            before = old if new is not None and new.trial_s else None
            # A trial that was not over: of the two that have served, the one that failed less stays.
            if before and trial and trial.before.runtime.outcomes.recent_share < old.runtime.outcomes.recent_share:
                before = trial.before
            elif trial is not None:
                self._retirement.release(trial.before)
            if before is old:
                self._retirement.hold(old)
            else:
                retiring.append(old)
            if new is not None and before is not None:
                self._running[name] = _Trial(new, before, time.monotonic() + new.trial_s)
                outcomes, counted = new.runtime.outcomes, new.runtime.outcomes.counted
                outcomes.judge = Judge(new.revision, before.runtime.outcomes, self._options, self._report, counted)
        return retiring

    def tick(self) -> None:
        """Let go of the deployments that were replaced where the new one has passed its trial."""
        now, told = time.monotonic(), self._told() if self._running else {}
        for name, trial in list(self._running.items()):
            revision = trial.deployment.revision
            why = told.get((name, revision.fingerprint))
            if why is not None and trial.failure is None:
                trial.failure = rolled_back(revision, why)
            if trial.ends_at <= now and trial.failure is None:
                self._end(name)
                self._retirement.release(trial.before)

    def _end(self, name: str) -> _Trial | None:
        trial = self._running.pop(name, None)
        if trial is not None:
            trial.deployment.runtime.outcomes.judge = None
        return trial
