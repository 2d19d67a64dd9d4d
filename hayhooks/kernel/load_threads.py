"""Load threads: run load jobs, and restore what served before where a job fails."""

import time
import traceback as tracebacks
from collections.abc import Callable, Iterable
from functools import partial
from threading import Event

from loguru import logger as log

from hayhooks.errors import safe_str, sendable
from hayhooks.kernel.canary import Canaries
from hayhooks.kernel.load_job import HANGS_AFTER_S, Finished, LoadJob
from hayhooks.kernel.quarantine import Quarantine
from hayhooks.kernel.restore import Restored, Restorer
from hayhooks.kernel.state import Deployment, Failure
from hayhooks.kernel.threads import DaemonThreadPool, Job

_CONCURRENT_LOADS = 4  # unless a setting says how many
_STUCK_AFTER_S = 1.0  # a load that takes longer no longer counts as one of them; with the setting, if nobody wants it
_SUSPECT_STUCK_AFTER_S = 10.0  # the same, where the process has died of one of those that were loading


class LoadThreads:
    """Threads that run load jobs and *send* their outcomes; a revision that may end the process is loaded alone.

    *at_a_time* of them, until one hangs; 0: a few, and others begin beside those that are slow.
    """

    def __init__(
        self,
        load: Callable[..., Deployment | Failure],
        *,
        at_a_time: int,
        quarantine: Quarantine,
        restorer: Restorer,
        canaries: Canaries,
        retire: Callable[[Iterable[Deployment]], None],
        send: Callable[[Finished | Restored], None],
        stopped: Event,
    ) -> None:
        self._load = load
        self._quarantine = quarantine
        self._restorer = restorer
        self._canaries = canaries
        self._retire = retire
        self._send = send
        self._stopped = stopped
        self.at_a_time = at_a_time
        limit, stuck_after_s = at_a_time or _CONCURRENT_LOADS, HANGS_AFTER_S if at_a_time else _STUCK_AFTER_S
        self._threads = DaemonThreadPool("load", limit, stuck_after_s=stuck_after_s)
        self._jobs: dict[LoadJob, Job] = {}  # of those that run, what the threads call
        # What is restored does not wait for the loads, one of which hangs.
        self._restore_threads = DaemonThreadPool("restore", limit, stuck_after_s=_STUCK_AFTER_S)
        self._suspect_threads = DaemonThreadPool("load alone", 1, stuck_after_s=_SUSPECT_STUCK_AFTER_S)
        self.pools = (self._threads, self._suspect_threads, self._restore_threads)

    def start(self, job: LoadJob) -> None:
        """Queue *job*."""
        threads = self._suspect_threads if self._quarantine.is_suspect(job.revision) else self._threads
        run = self._jobs[job] = partial(self._run_unless_cancelled, job)
        threads.submit(run)

    def make_room(self, job: LoadJob) -> None:
        """Let others begin beside *job* soon, if it runs: it is cancelled, but its thread cannot be stopped."""
        run = self._jobs.get(job)
        if run is not None:
            self._threads.make_room(run, _STUCK_AFTER_S)

    def restore(self, job: LoadJob) -> None:
        """Queue the restoring of what served before *job*, which hangs."""
        self._restore_threads.submit(partial(self._restorer.restore, job, self._send))

    def _run_unless_cancelled(self, job: LoadJob) -> None:
        try:
            if not (job.is_cancelled or self._stopped.is_set()):
                job.began_at = time.time()
                self._run(job)
        finally:
            del self._jobs[job]

    def _run(self, job: LoadJob) -> None:
        revision = job.revision
        leases = self._quarantine.leases_of(revision)
        outcome: Deployment | Failure | None
        try:
            outcome = self._restorer.refused(job, self._send)
            if outcome is None:
                with self._quarantine.loading(leases):
                    outcome = self._load(revision, leases=leases)
            if isinstance(outcome, Deployment):
                share, is_asked = self._canaries.share_of(outcome)
                is_beside = self._restorer.is_served(revision.name)
                if share and not (is_beside or job.restores):  # the process has just begun
                    is_beside = self._restorer.restore(job, self._send)
                outcome = self._canaries.prepare(outcome, share if is_beside or is_asked else 0.0)
        except BaseException as error:  # a fault of ours: the name must not be loading for ever
            reason = f"hayhooks failed to load it ({type(error).__name__}: {safe_str(error)})"
            traceback = sendable("".join(tracebacks.format_tb(error.__traceback__)))
            outcome = Failure(revision, reason, traceback, None, "", time.time())
        if isinstance(outcome, Failure):
            self._quarantine.forget(leases)
            if not (job.restores or job.is_cancelled):
                with log.catch():  # a fault of ours: the name must not be loading for ever
                    self._restorer.restore(job, self._send)
        self._send(Finished(job, outcome))
        if self._stopped.is_set() and isinstance(outcome, Deployment):  # nobody reads the inbox any more
            self._retire([outcome])
