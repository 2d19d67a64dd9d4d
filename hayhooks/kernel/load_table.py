"""Load table: the loads that are not published yet, at most one of each name."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from hayhooks.kernel.load_job import LoadJob
from hayhooks.kernel.load_threads import LoadThreads
from hayhooks.kernel.phases import Phases
from hayhooks.kernel.preload import Preloader
from hayhooks.kernel.scan import Scanner
from hayhooks.kernel.state import Deployment, Failure, Loading, Revision, Unfinished

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
        retire: Callable[[Iterable[Deployment]], None],
    ) -> None:
        self.jobs: dict[str, LoadJob] = {}  # one that is superseded or cancelled leaves at once
        self._preloader = preloader
        self._threads = threads
        self._scanner = scanner
        self._phases = phases
        self._retire = retire

    def start(self, revision: Revision, *, is_retry: bool = False, is_reload: bool = False) -> None:
        """Load *revision* once the preload is done, in place of another load of its name."""
        self.cancel(revision.name)
        self.jobs[revision.name] = job = LoadJob(revision, time.time(), is_retry, is_reload)
        self._preloader.when_done(partial(self._threads.start, job))

    def cancel(self, name: str) -> LoadJob | None:
        """Drop the load of *name*, if there is one, and return it; what it has made is retired."""
        job = self.jobs.pop(name, None)
        if job is not None:
            job.is_cancelled = True
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
        waits_for = "the import of Haystack" if self._preloader.is_running else "other loads"
        jobs = self.jobs.copy().values()
        return [job.unfinished(self._phases, waits_for) for job in jobs if job.outcome is None]
