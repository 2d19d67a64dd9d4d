"""Leases: who still works with a deployment, and what happens when nobody does."""

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar

from hayhooks.kernel.limits import Slot

Reason = Callable[[], Exception]

_INSIST_S = 5.0  # how long after it was told to end a request is told again: its wrapper may not listen

# The lease of the request that runs in this context.
current_lease: ContextVar["Lease | None"] = ContextVar("hayhooks_lease", default=None)


class Lease:
    """One hold on one deployment: a request's, from its dispatch to its last byte, or that of a thread that works.

    Attributes:
        since: when it was taken, of a monotonic clock.
        thread: the name of the method that a thread runs; "" for a request.
        task: that of the request, to be cancelled when it outlives its time; None for a thread.
        slot: of a request, its place among those that its deployment works on; None where there is no limit.
        expired: makes the error that says why it has been told to end; None as long as it has not.
    """

    __slots__ = ("_timer", "expired", "since", "slot", "task", "thread")

    def __init__(self, task: asyncio.Task[object] | None = None, thread: str = "") -> None:
        self.since = time.monotonic()
        self.thread = thread
        self.task = task
        self.slot: Slot | None = None
        self.expired: Reason | None = None
        self._timer: asyncio.TimerHandle | None = None

    def expire(self, reason: Reason) -> None:
        """Tell the request to end; on the event loop."""
        self.expired = self.expired or reason
        if self.task is not None:
            self.task.cancel()

    def raise_expired(self) -> None:
        """In the request's task, when that is cancelled: raise why, if it was told to end; the cancellation is over.

        From here, where no variable holds the error: one in a frame of its own traceback would be a cycle.
        """
        if self.expired is not None and self.task is not None:
            self.task.uncancel()
            raise self.expired() from None

    def expire_in(self, seconds: float, reason: Reason) -> None:
        """Tell the request to end after *seconds*, and again while it does not; on the event loop."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._insist, reason)

    def end(self) -> None:
        """The request has ended, and what it holds is free; on the event loop."""
        self.task = None  # the task's context holds the lease: they would keep each other
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # as above: a cancelled timer keeps its context
        if self.slot is not None:
            self.slot.give_back()

    def _insist(self, reason: Reason) -> None:
        self.expire_in(_INSIST_S, reason)
        self.expire(reason)


class Leases:
    """The holds on one deployment. Safe from any thread.

    Without a lock, which would cost a request half a microsecond: each step is one of a built-in type's own. Whoever
    gives the last lease back, and whoever wants to know of it, leaves a mark first and looks for the other's then.

    Leases may be taken after ``release_when_idle`` too, as long as one is held: a request that runs may start a
    thread, which takes a lease of its own.
    """

    def __init__(self) -> None:
        self._held: set[Lease] = set()
        self._on_idle: list[Callable[[], None]] = []  # one at most, and whoever pops it calls it

    @property
    def held(self) -> tuple[Lease, ...]:
        """The leases that are held now."""
        return tuple(self._held.copy())  # a set may not change while it is iterated

    def take(self, lease: Lease) -> None:
        """Keep the deployment from being retired until ``give_back``."""
        self._held.add(lease)

    def give_back(self, lease: Lease) -> None:
        """End a lease; the last one of a replaced deployment sets its retirement off."""
        self._held.discard(lease)
        if self._on_idle:
            self._call_if_idle()

    def release_when_idle(self, on_idle: Callable[[], None]) -> None:
        """Call *on_idle* once, as soon as no lease is held: at once, or when the last one is given back.

        To be called when no new request can reach the deployment any more.
        """
        self._on_idle.append(on_idle)
        self._call_if_idle()

    def _call_if_idle(self) -> None:
        if self._held:
            return
        try:
            on_idle = self._on_idle.pop()
        except IndexError:  # somebody else was faster
            return
        on_idle()
