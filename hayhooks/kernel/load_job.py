"""Load job: one load, from the plan to its publication."""

import time
from dataclasses import dataclass

from loguru import logger as log

from hayhooks.kernel.phases import Phases
from hayhooks.kernel.state import Deployment, Failure, Revision, Unfinished

HANGS_AFTER_S = 60.0  # a load that takes longer may hang for ever: others need not wait for it
_TELL_AT_S = (2.0, 10.0, HANGS_AFTER_S)  # ages at which a load is logged


@dataclass(slots=True, eq=False)
class LoadJob:
    """One load until it is published. The reconciler's thread writes to it, a loader thread only what is called its."""

    revision: Revision
    since: float  # Unix seconds
    is_retry: bool  # data changed during the load before
    is_reload: bool = False  # of a revision that serves, or has failed: somebody has asked for it
    is_cancelled: bool = False  # another revision is wanted by now, or none
    outcome: Deployment | Failure | None = None  # None: not finished
    begins_at: float = 0.0  # of a monotonic clock: it waits until then
    is_queued: bool = False  # that time has come
    began_at: float = 0.0  # Unix seconds; 0: it has not begun. The loader thread's.
    restores: bool = False  # a saved revision was looked for; also the loader thread's
    finished_at: float = 0.0  # of a monotonic clock
    told: int = 0  # how many of the ages have been logged

    def unfinished(self, phases: Phases, waits_for: str) -> Unfinished:
        """Return what of it runs; before anything does, what it *waits_for*."""
        why = phases.describe(self.revision) or f"waits {waits_for}"
        return Unfinished(self.revision.name, self.revision.id, self.since, why)

    def tell_if_slow(self, phases: Phases, waiting: int | None) -> None:
        """Log what it is at if it takes long, and how many are *waiting* until it has ended; None: nobody has to."""
        age = time.time() - self.began_at if self.began_at else 0.0
        due = sum(age > limit for limit in _TELL_AT_S)
        running = phases.describe(self.revision) if due > self.told and self.outcome is None else ""
        if not running:  # it waits for a thread
            return
        self.told = due
        level = "INFO" if due == 1 else "WARNING"
        if waiting is not None and due == len(_TELL_AT_S):
            running += "; another one may begin beside it"
        elif waiting and due > 1:
            count = "1 load waits for its" if waiting == 1 else f"{waiting} loads wait for their"
            running += f"; {count} turn (HAYHOOKS_LOADS_AT_A_TIME)"
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
