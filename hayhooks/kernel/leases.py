"""Leases: who still works with a deployment, and what happens when nobody does."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar

# The lease of the request that runs in this context: its stream says through it which task to cancel.
current_lease: ContextVar["Lease | None"] = ContextVar("hayhooks_lease", default=None)


class Lease:
    """One hold on one deployment: a request's, from its dispatch to its last byte, or that of a thread that works.

    Attributes:
        since: when it was taken, of a monotonic clock.
        thread: the name of the method that a thread runs; "" for a request.
        task: the task to cancel when the request outlives its time; None where nothing can be cancelled.
        host: the task that began the request.
        expired: it has been told to end, because the deployment was replaced too long ago.
    """

    __slots__ = ("expired", "host", "since", "task", "thread")

    def __init__(self, task: asyncio.Task[object] | None = None, thread: str = "") -> None:
        self.since = time.monotonic()
        self.thread = thread
        self.task = self.host = task
        self.expired = False

    def expire(self) -> None:
        """Tell the request to end; on the event loop. The second call cancels the task that began it."""
        task = self.host if self.expired else self.task
        self.expired = True
        if task is not None:
            task.cancel()


class Leases:
    """The holds on one deployment. Safe from any thread.

    Leases may be taken after ``release_when_idle`` too, as long as one is held: a request that runs may start a
    thread, which takes a lease of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[Lease] = set()
        self._on_idle: Callable[[], None] | None = None

    @property
    def held(self) -> tuple[Lease, ...]:
        """The leases that are held now."""
        with self._lock:
            return tuple(self._held)

    def take(self, lease: Lease) -> None:
        """Keep the deployment from being retired until ``give_back``."""
        with self._lock:
            self._held.add(lease)

    def give_back(self, lease: Lease) -> None:
        """End a lease; the last one of a replaced deployment sets its retirement off."""
        with self._lock:
            self._held.discard(lease)
            on_idle = self._take_callback()
        if on_idle is not None:
            on_idle()

    def release_when_idle(self, on_idle: Callable[[], None]) -> None:
        """Call *on_idle* once, as soon as no lease is held: at once, or when the last one is given back.

        To be called when no new request can reach the deployment any more.
        """
        with self._lock:
            self._on_idle = on_idle
            idle = self._take_callback()
        if idle is not None:
            idle()

    def _take_callback(self) -> Callable[[], None] | None:
        if self._held:
            return None
        on_idle, self._on_idle = self._on_idle, None
        return on_idle
