"""Load table: the loads that are not published yet, at most one of each name."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from random import SystemRandom

from hayhooks.kernel.load_job import LoadJob
from hayhooks.kernel.load_threads import LoadThreads
from hayhooks.kernel.phases import Phases
from hayhooks.kernel.preload import Preloader
from hayhooks.kernel.scan import Scanner
from hayhooks.kernel.state import Deployment, Failure, Loading, Revision, Unfinished

_MAX_NAMED = 5  # loads that run, in the reason why another one does not
_MAX_HOLD_S = 1.0  # a finished load waits no longer than this for its folder to be stable


class LoadTable:
    """The load jobs by name. Only the reconciler's thread writes to it."""

    def __init__(
        self,
        *,
        preloader: Preloader,
        threads: LoadThreads,
        scanner: Scanner,
        phases: Phases,
        jitter_s: float,
        retire: Callable[[Iterable[Deployment]], None],
    ) -> None:
        self.jobs: dict[str, LoadJob] = {}  # one that is superseded or cancelled leaves at once
        self._preloader = preloader
        self._threads = threads
        self._scanner = scanner
        self._phases = phases
        self._jitter_s = jitter_s
        self._random = SystemRandom()  # not the module's, for which wrappers of all servers may set the same seed
        self._retire = retire

    def start(
        self, revision: Revision, *, waits: bool = False, is_retry: bool = False, is_reload: bool = False
    ) -> None:
        """Load *revision* once the preload is done, in place of another load of its name.

        If it *waits*, then after a random time; but no later than the other would have begun.
        """
        before = self.cancel(revision.name)
        self.jobs[revision.name] = job = LoadJob(revision, time.time(), is_retry, is_reload)
        if waits and self._jitter_s and not revision.problem:
            job.begins_at = time.monotonic() + self._random.uniform(0, self._jitter_s)
            if before is not None and not before.is_queued:  # else nothing would load while somebody saves often
                job.begins_at = before.begins_at
        else:
            self._queue(job)

    def tick(self) -> float:
        """Queue the loads that have waited for long enough; return the seconds until the next one has."""
        now, next_at = time.monotonic(), math.inf
        for job in self.jobs.values():
            if not job.is_queued:
                if job.begins_at <= now:
                    self._queue(job)
                else:
                    next_at = min(next_at, job.begins_at)
        return next_at - now

    def _queue(self, job: LoadJob) -> None:
        job.is_queued = True
        self._preloader.when_done(partial(self._threads.start, job))

    def cancel(self, name: str) -> LoadJob | None:
        """Drop the load of *name*, if there is one, and return it; what it has made is retired."""
        job = self.jobs.pop(name, None)
        if job is not None:
            job.is_cancelled = True
            self._threads.make_room(job)
            if isinstance(job.outcome, Deployment):
                self._retire([job.outcome])
        return job

    def loading(self, without: Collection[str] = ()) -> dict[str, Loading]:
        """Return what is loading, but the names *without*, as a snapshot has it."""
        jobs = {name: job for name, job in self.jobs.items() if name not in without}
        return {name: Loading(job.revision, job.since) for name, job in jobs.items()}

    def publishable(self, revisions: Mapping[str, Revision]) -> dict[str, Deployment | Failure]:
        """Return the outcomes that can be published, by name; *revisions* are those on disk.

        A wrapper may have read data that changed during its load. So an outcome waits while its folder is changing,
        and the load is repeated once if data was changed and changed back.
        """
        outcomes = {}
        for name, job in list(self.jobs.items()):
            if job.outcome is None:
                continue
            if self._scanner.is_pending(name) and time.monotonic() - job.finished_at < _MAX_HOLD_S:
                continue
            latest = revisions[name]
            if not job.is_retry and any(
                file.source is None and latest.files[path].stamp != file.stamp
                for path, file in job.revision.files.items()
            ):
                self.start(latest, is_retry=True, is_reload=job.is_reload)
            else:
                outcomes[name] = job.outcome
        return outcomes

    def finished(self) -> set[str]:
        """Return the names whose loads have an outcome."""
        return {name for name, job in self.jobs.items() if job.outcome is not None}

    def unfinished(self) -> list[Unfinished]:
        """List the loads that have no outcome, with what runs of each; from any thread."""
        jobs = [job for job in self.jobs.copy().values() if job.outcome is None]
        turn = self._turn(sorted(job.revision.name for job in jobs if job.began_at))
        return [job.unfinished(self._phases, turn if job.is_queued else self._wait_of(job)) for job in jobs]

    def tell_slow(self) -> None:
        """Log the loads that take long."""
        waiting = None
        if self._threads.at_a_time:
            waiting = sum(job.is_queued and not job.began_at for job in self.jobs.values())
        for job in self.jobs.values():
            job.tell_if_slow(self._phases, waiting)

    def _turn(self, running: list[str]) -> str:
        """Return what a load waits for whose time has come; the names of others are *running*."""
        if self._preloader.is_running:
            return "for the import of Haystack"
        count = self._threads.at_a_time
        if not count:
            return "for other loads"
        loads, more = "load" if count == 1 else "loads", len(running) - _MAX_NAMED
        names = ", ".join(running[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"for its turn: {count} {loads} at a time (HAYHOOKS_LOADS_AT_A_TIME)" + (names and f", now {names}")

    def _wait_of(self, job: LoadJob) -> str:
        left_s = max(job.begins_at - time.monotonic(), 0.0)
        return f"{left_s:.0f} s more, a random time of up to {self._jitter_s:g} s (HAYHOOKS_LOAD_JITTER_MS)"
