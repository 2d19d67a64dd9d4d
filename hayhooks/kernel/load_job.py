"""Load job: one load, from the plan to its publication."""

import time
from dataclasses import dataclass

from loguru import logger as log

from hayhooks.kernel.phases import Phases
from hayhooks.kernel.state import Deployment, Failure, Revision, Unfinished

_TELL_AT_S = (2.0, 10.0, 60.0)  # ages at which a load is logged


@dataclass(slots=True, eq=False)
class LoadJob:
    """One load until it is published. Only the reconciler's thread writes to it."""

    revision: Revision
    since: float  # Unix seconds
    is_retry: bool  # data changed during the load before
    is_reload: bool = False  # of a revision that serves, or has failed: somebody has asked for it
    is_cancelled: bool = False  # another revision is wanted by now, or none
    outcome: Deployment | Failure | None = None  # None: not finished
    restores: bool = False  # a saved revision was looked for
    finished_at: float = 0.0  # of a monotonic clock
    told: int = 0  # how many of the ages have been logged

    def unfinished(self, phases: Phases, waits_for: str) -> Unfinished:
        """Return what of it runs; before anything does, what it *waits_for*."""
        why = phases.describe(self.revision) or f"waits for {waits_for}"
        return Unfinished(self.revision.name, self.revision.id, self.since, why)

    def tell_if_slow(self, phases: Phases) -> None:
        """Log what it is at if it takes long."""
        age = time.time() - self.since
        due = sum(age > limit for limit in _TELL_AT_S)
        running = phases.describe(self.revision) if due > self.told and self.outcome is None else ""
        if not running:  # it waits for the preload, or for a thread
            return
        self.told = due
        level = "INFO" if due == 1 else "WARNING"
        log.log(level, "{} {} has been loading for {:.1f} s: {}", self.revision.name, self.revision.id, age, running)


@dataclass(frozen=True, slots=True)
class Finished:
    """A loader thread's message."""

    job: LoadJob
    outcome: Deployment | Failure


@dataclass(frozen=True, slots=True)
class Reload:
    """A person's message: load the pipeline *name* again, though nothing has changed."""

    name: str
