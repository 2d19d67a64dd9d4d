"""Admission: the limits, slots, leases and outcomes of a deployment's requests."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from hayhooks.errors import LoadError, UnavailableError
from hayhooks.setting_types import parse_share

Reason = Callable[[], Exception]

_RECENT = 20  # requests that tell how a deployment does
_TIMED = 1_000  # requests whose durations tell how fast one is, at most
_RECANCEL_S = 5.0  # an expired request is cancelled again after this time: its wrapper may ignore a cancellation

# The lease of the request that runs in this context.
current_lease: ContextVar["Lease | None"] = ContextVar("hayhooks_lease", default=None)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the requests of one deployment."""

    timeout_s: float = 0.0  # to the last byte; 0: no limit
    concurrency: int = 0  # requests that run at a time; 0: no limit
    queue_size: int = 0  # requests that may wait for a slot
    trial_s: float = 0.0  # for which the revision that it replaces stays loaded; 0: there is no trial
    canary: float = 0.0  # share of the requests that it gets at first, beside the one that it replaces; 0: all

    def of(self, wrapper: Any) -> "Limits":
        """Return the limits that *wrapper* sets, and these where it sets none."""
        timeout_s = _limit_of(wrapper, "request_timeout", float, "seconds, or 0 for no limit")
        concurrency = _limit_of(wrapper, "concurrency", int, "a number of requests, or 0 for no limit")
        queue_size = _limit_of(wrapper, "queue_size", int, "a number of requests")
        trial_s = _limit_of(wrapper, "trial_seconds", float, "seconds, or 0 for no trial")
        canary = _share_of(wrapper)
        return Limits(
            self.timeout_s if timeout_s is None else float(timeout_s),
            self.concurrency if concurrency is None else concurrency,
            self.queue_size if queue_size is None else queue_size,
            self.trial_s if trial_s is None else float(trial_s),
            self.canary if canary is None else canary,
        )


NO_LIMITS = Limits()
LIMITS = ("request_timeout", "concurrency", "queue_size", "trial_seconds", "canary")  # attributes of wrappers


def _share_of(wrapper: Any) -> float | None:
    try:
        return None if wrapper.canary is None else parse_share(wrapper.canary)
    except ValueError as error:
        message = f"canary of the wrapper is {wrapper.canary!r}: it must be a share of the requests, {error}"
        raise LoadError(f"{message}, or None to use HAYHOOKS_CANARY") from None


def _limit_of(wrapper: Any, name: str, kind: type, accepted: str) -> Any:
    value = getattr(wrapper, name)
    if value is None:
        return None
    if not is_number(value, kind, 0):
        setting = f"HAYHOOKS_{name.upper()}"
        raise LoadError(f"{name} of the wrapper is {value!r}: it must be {accepted}, or None to use {setting}")
    return value


def is_number(value: Any, kind: type, least: int) -> bool:
    """Whether *value* is an int, or for *kind* float a finite float too, and at least *least*; a bool is neither."""
    fits = isinstance(value, int) or (kind is float and isinstance(value, float) and math.isfinite(value))
    return fits and not isinstance(value, bool) and value >= least


class Slot:
    """A running request and the threads that work for it. For the event loop only."""

    __slots__ = ("_free", "_holders")

    def __init__(self, free: Callable[[], None]) -> None:
        self._free = free
        self._holders = 1

    def share(self) -> None:
        """Add a holder."""
        self._holders += 1

    def give_back(self) -> None:
        """Remove a holder; the last one frees the slot."""
        self._holders -= 1
        if not self._holders:
            self._free()


class Slots:
    """The slots and the queue of the deployment *name*. For the event loop only."""

    def __init__(self, name: str, limit: int, queue_size: int) -> None:
        self._name = name
        self._limit = limit
        self._queue_size = queue_size
        self._waiting = 0
        self._semaphore = asyncio.Semaphore(limit)  # safe when a waiting request is cancelled
        self._next = asyncio.Lock()  # held by the waiting request that gets the next slot

    def refuse_if_full(self) -> None:
        """Refuse a request that could neither run nor wait."""
        if self._waiting >= self._queue_size and self._semaphore.locked():
            raise UnavailableError(
                f"pipeline {self._name!r} is at capacity: {self._limit} requests running, {self._waiting} queued "
                "(HAYHOOKS_CONCURRENCY, HAYHOOKS_QUEUE_SIZE)"
            )

    async def take(self) -> Slot:
        """Wait for a slot; raise as ``refuse_if_full`` does."""
        self.refuse_if_full()
        if not self._waiting and not self._semaphore.locked():
            await self._semaphore.acquire()  # which does not wait
            return Slot(self._semaphore.release)
        self._waiting += 1
        try:
            async with self._next:
                await asyncio.sleep(0)  # the task of a stream that got a slot before starts before this request does
                await self._semaphore.acquire()
        finally:
            self._waiting -= 1
        return Slot(self._semaphore.release)


class Lease:
    """A hold on a deployment, of a request until its last byte or of a thread."""

    __slots__ = ("_timer", "expired", "ident", "is_attempt", "request", "since", "slot", "task", "thread")

    def __init__(
        self,
        task: asyncio.Task[object] | None = None,
        thread: str = "",
        request: "Lease | None" = None,
        *,
        is_attempt: bool = False,
    ) -> None:
        self.since = time.monotonic()
        self.thread = thread  # name of the method that a thread runs; "" for a request
        self.ident = 0  # of that thread, once it has begun
        self.request = request  # whose thread it is
        self.is_attempt = is_attempt  # of an execution, which counts for itself how often it ends its process
        self.task = task  # of the request, cancelled when the lease expires; None for a thread
        self.slot: Slot | None = None  # of the request; None without a limit
        self.expired: Reason | None = None  # makes the error that says why the lease expired; None until then
        self._timer: asyncio.TimerHandle | None = None

    def expire(self, reason: Reason) -> None:
        """Cancel the request; on the event loop."""
        self.expired = self.expired or reason
        if self.task is not None:
            self.task.cancel()

    def raise_expired(self) -> None:
        """Raise the reason if the lease has expired; in the cancelled task of the request."""
        if self.expired is not None and self.task is not None:
            self.task.uncancel()  # as asyncio.timeout does: the error is an answer, the task is not cancelled
            raise self.expired() from None  # no variable holds it: with its traceback that would be a reference cycle

    def expire_in(self, seconds: float, reason: Reason) -> None:
        """Cancel the request after *seconds*, repeatedly if it goes on; on the event loop."""

        def expire() -> None:
            self.expire_in(_RECANCEL_S, reason)
            self.expire(reason)

        self._timer = asyncio.get_running_loop().call_later(seconds, expire)

    def end(self) -> None:
        """Release the timer and the slot of a request that has ended; on the event loop."""
        self.task = None  # the task's context holds the lease: a reference cycle
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # a cancelled timer keeps its context alive
        if self.slot is not None:
            self.slot.give_back()


class Leases:
    """The leases of one deployment. Safe from any thread.

    Leases may be taken after ``release_when_idle`` as long as one is held: a running request may start a thread.
    """

    def __init__(self) -> None:
        # There is no lock: each step is one atomic operation of a built-in type. give_back and release_when_idle write
        # first and read the other's mark after that, so one of them always sees that the deployment is idle.
        self._held: set[Lease] = set()
        self._on_idle: list[Callable[[], None]] = []  # at most one; the thread that pops it calls it

    @property
    def held(self) -> tuple[Lease, ...]:
        """The leases held now."""
        return tuple(self._held.copy())  # a set may not change while it is iterated

    def take(self, lease: Lease) -> None:
        """Delay the deployment's retirement until ``give_back``."""
        self._held.add(lease)

    def give_back(self, lease: Lease) -> None:
        """End a lease; the last one of a replaced deployment starts its retirement."""
        self._held.discard(lease)
        if self._on_idle:
            self._call_if_idle()

    def release_when_idle(self, on_idle: Callable[[], None]) -> None:
        """Call *on_idle* once no lease is held; new requests must not arrive any more."""
        self._on_idle.append(on_idle)
        self._call_if_idle()

    def _call_if_idle(self) -> None:
        if self._held:
            return
        try:
            on_idle = self._on_idle.pop()
        except IndexError:  # another thread was faster
            return
        on_idle()


class OutcomeJudge(Protocol):
    """Looks at the failed requests of a deployment while its trial runs."""

    def note(self, outcomes: "Outcomes", error: BaseException) -> None:
        """Note *error*, which fails a request."""

    def judge(self, outcomes: "Outcomes", problem: str) -> None:
        """Judge the deployment after a request that has failed by *problem*."""


class Outcomes:
    """How the requests of one deployment ended. For the event loop only, except for the judge.

    Those that were refused, or that their client has left, do not count.
    """

    __slots__ = ("_failed_at", "durations_s", "ended", "failed", "judge")

    def __init__(self) -> None:
        self.durations_s: deque[float] | None = None  # of the last that were answered; only where a canary runs
        self.ended = 0
        self.failed = 0  # of them, by the pipeline's fault
        self.judge: OutcomeJudge | None = None  # while a trial runs; the conductor sets it
        self._failed_at: deque[int] = deque(maxlen=_RECENT)  # the number of each request that failed

    @property
    def recent_share(self) -> float:
        """The share of the last requests that failed, from 0 to 1."""
        recent = min(self.ended, _RECENT)
        return sum(number > self.ended - recent for number in tuple(self._failed_at)) / recent if recent else 0.0

    @property
    def counted(self) -> tuple[int, int]:
        """How many have ended, and how many of them have failed."""
        return self.ended, self.failed

    def measure(self) -> None:
        """Note how long requests take, from now on."""
        self.durations_s = deque(maxlen=_TIMED)

    def fail(self, problem: str) -> None:
        """Count a request that has failed by *problem*."""
        self.ended += 1
        self.failed += 1
        self._failed_at.append(self.ended)
        judge = self.judge  # the conductor may take it away
        if judge is not None:
            judge.judge(self, problem)
