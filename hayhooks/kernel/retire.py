"""Retire: tear down replaced deployments after their last request; free memory."""

import asyncio
import ctypes
import gc
import sys
import threading
import time
import typing
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType

from loguru import logger as log

from hayhooks.errors import DrainedError, UnavailableError
from hayhooks.kernel.phases import Phases
from hayhooks.kernel.state import Deployment, Unfinished
from hayhooks.kernel.threads import DaemonThreadPool

_RECANCEL_AFTER_S = 5.0  # a request that goes on after it was cancelled is cancelled again
_MIN_TEARDOWN_S = 1.0  # for teardowns at the server's stop, however long its last requests took

# One gc.collect takes up to 70 ms with Haystack loaded, and 200 ms with 1,000 deployments; nothing else runs meanwhile.
# So there is one for all that retire together, and none while somebody waits for the result of a save.
_COLLECT_WHEN_QUIET_FOR_S = 0.5
_COLLECT_AFTER_AT_MOST_S = 2.0  # however busy it gets
_MAX_COLLECT_SHARE = 1 / 10  # of the time may be collections

# What still refers to a torn-down wrapper may let go of it: a request's context, a timer, a thread.
_LOOK_AGAIN_AFTER_S = 1.0  # and twice as long after each collection in vain
_LOOK_AGAIN_AFTER_AT_MOST_S = 300.0

_MAX_REFERRERS = 5  # named of those that keep a torn-down wrapper alive


@dataclass(slots=True, eq=False)
class _Drain:
    """A deployment that waits for its last request, or is being torn down."""

    deployment: Deployment
    since: float  # Unix seconds
    expires_at: float  # of a monotonic clock: when its requests are cancelled, or cancelled again
    is_expired: bool = False
    is_tearing_down: bool = False
    is_held: bool = False  # it may serve again: it is not torn down, though it may have no requests

    def retired(self, phases: Phases) -> Unfinished:
        revision = self.deployment.revision
        if self.is_tearing_down:
            why = phases.describe(revision) or "teardown"
            return Unfinished(revision.name, revision.id, self.since, why, has_served=True)
        leases = self.deployment.runtime.leases.held
        threads = [lease.thread for lease in leases if lease.thread]
        requests = len(leases) - len(threads)
        parts = [f"{requests} request{'s' * (requests != 1)}"] if requests else []
        parts += ["the trial of its successor"] if self.is_held else []
        parts += [f"{method} in {n} thread{'s' * (n != 1)}" for method, n in sorted(Counter(threads).items())]
        return Unfinished(revision.name, revision.id, self.since, ", ".join(parts) or "teardown", has_served=True)


@dataclass(slots=True, eq=False)
class _TornDown:
    wrapper: "weakref.ref[typing.Any]"
    retired: Unfinished  # why: "" until a collection has not freed the wrapper


class Retirement:
    """Retires deployments; their last requests are cancelled after *drain_s*.

    Threads cannot be cancelled: a deployment is not torn down while one of its methods runs in a thread.
    """

    def __init__(
        self,
        unload: Callable[[Deployment], None],
        *,
        loop: asyncio.AbstractEventLoop,
        drain_s: float,
        phases: Phases,
        trim: bool,
    ) -> None:
        self._unload = unload
        self._loop = loop
        self._drain_s = drain_s
        self._phases = phases
        # glibc keeps freed blocks in its heap, which stays large as long as anything above them lives: 100 reloads of
        # 5 MB left 75 MB. This looks through the heap, in milliseconds. Other C libraries have no such function.
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if trim and sys.platform == "linux" else None
        self._threads = DaemonThreadPool("retire", limit=2, stuck_after_s=1.0)
        self._collector = DaemonThreadPool("collect", limit=1, stuck_after_s=10.0)
        self._changed = threading.Condition()  # guards all below
        self._drains: list[_Drain] = []
        self._torn_down: list[_TornDown] = []
        self._is_stopping = False
        self._collect_at = 0.0
        self._collect_not_before = 0.0
        self._collect_by: float | None = None  # None: no collection is due
        self._look_again_at = float("inf")
        self._look_again_after_s = _LOOK_AGAIN_AFTER_S

    def start(self) -> None:
        """Take the threads that it needs: later there may be none. Raises UnavailableError."""
        self._threads.keep_thread()
        self._collector.keep_thread()

    @property
    def pending(self) -> int:
        """How many deployments still have requests, or are being torn down."""
        return len(self._drains)

    def living(self) -> list[Unfinished]:
        """List the retired deployments that are still in memory, the oldest first."""
        with self._changed:
            draining = [drain.retired(self._phases) for drain in self._drains]
            kept = [torn.retired for torn in self._torn_down if torn.retired.why and torn.wrapper() is not None]
        return sorted((*kept, *draining), key=lambda retired: retired.since)

    def draining(self) -> list[Deployment]:
        """List the deployments that still have requests, or are being torn down."""
        with self._changed:
            return [drain.deployment for drain in self._drains]

    def add(self, deployments: Iterable[Deployment]) -> None:
        """Tear each of *deployments*, which no router has, down when its last lease ends."""
        for deployment in deployments:
            self._retire_when_idle(self._begin(deployment))

    def hold(self, deployment: Deployment) -> None:
        """Keep *deployment*, which is replaced, until ``release`` or ``take_back``."""
        self._begin(deployment, is_held=True)

    def release(self, deployment: Deployment) -> None:
        """Tear down *deployment*, which is held, when its last lease ends."""
        with self._changed:
            drain = next(drain for drain in self._drains if drain.deployment is deployment)
            drain.is_held = False
        self._retire_when_idle(drain)

    def take_back(self, deployment: Deployment) -> None:
        """Forget *deployment*, which is held: it serves again."""
        with self._changed:
            self._drains = [drain for drain in self._drains if drain.deployment is not deployment]

    def tick(self) -> None:
        """Cancel requests that drain for too long, replace stuck threads, collect again what could not be freed."""
        now = time.monotonic()
        with self._changed:
            expired = [drain for drain in self._drains if drain.expires_at <= now and not drain.is_tearing_down]
        for drain in expired:
            leases = drain.deployment.runtime.leases.held
            if leases and not drain.is_expired:
                retired = drain.retired(self._phases)
                message = "{}: revision {} still has {} after {:g} s: cancelling"
                log.warning(message, retired.name, retired.revision, retired.why, self._drain_s)
            for lease in leases:
                self._loop.call_soon_threadsafe(lease.expire, DrainedError)
            drain.is_expired, drain.expires_at = True, now + _RECANCEL_AFTER_S
        self._threads.tick()
        self._collector.tick()
        if now >= self._look_again_at:
            self._look_again_at = float("inf")
            self.collect_soon()

    def stop(self, timeout_s: float) -> bool:
        """Wait until nothing is pending; False if that took longer than *timeout_s*.

        A teardown gets a second in any case, but nobody waits longer for a method that goes on in its thread.
        """
        self._is_stopping = True
        end = time.monotonic() + timeout_s
        with self._changed:
            held = [drain.deployment for drain in self._drains if drain.is_held]
        for deployment in held:
            self.release(deployment)
        with self._changed:
            while self._drains:
                is_tearing_down = any(not drain.deployment.runtime.leases.held for drain in self._drains)
                left_s = end + _MIN_TEARDOWN_S * is_tearing_down - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(min(left_s, 1.0))
                self._threads.tick()
        self._threads.close()
        self._collector.close()
        return not self._drains

    def _begin(self, deployment: Deployment, *, is_held: bool = False) -> _Drain:
        drain = _Drain(deployment, time.time(), time.monotonic() + self._drain_s, is_held=is_held)
        with self._changed:
            self._drains.append(drain)
        return drain

    def _retire_when_idle(self, drain: _Drain) -> None:
        retire = partial(self._threads.submit, partial(self._retire, drain))
        drain.deployment.runtime.leases.release_when_idle(retire)

    def _retire(self, drain: _Drain) -> None:
        drain.is_tearing_down = True
        retired = replace(drain.retired(self._phases), why="")
        try:
            self._unload(drain.deployment)
        except Exception:  # a fault of ours; it must not keep the server from stopping
            log.exception("Retiring {} {} failed", retired.name, retired.revision)
        with self._changed:
            self._drains.remove(drain)
            self._torn_down.append(_TornDown(weakref.ref(drain.deployment.wrapper), retired))
            self._changed.notify_all()
        self.collect_soon()

    def collect_soon(self) -> None:
        """Free the memory of retired deployments and failed loads when it is quiet."""
        with self._changed:
            now = time.monotonic()
            self._collect_at = max(now + _COLLECT_WHEN_QUIET_FOR_S, self._collect_not_before)
            is_first = self._collect_by is None
            self._collect_by = self._collect_by or max(now + _COLLECT_AFTER_AT_MOST_S, self._collect_not_before)
        if is_first:
            with suppress(UnavailableError):  # only after the stop
                self._collector.submit(self._collect)

    def _collect(self) -> None:
        # Classes and modules are cycles, which nothing else frees.
        while True:
            with self._changed:
                assert self._collect_by is not None
                wait_s = min(self._collect_at, self._collect_by) - time.monotonic()
                if wait_s <= 0:
                    self._collect_by = None
                    torn_down = list(self._torn_down)
                    break
            time.sleep(wait_s)
        for clear_cache in getattr(typing, "_cleanups", ()):  # Optional[Model] is cached there, and Model with it
            clear_cache()
        began = time.monotonic()
        gc.collect()
        if self._trim is not None:
            self._trim(0)
        self._collect_not_before = time.monotonic() + (time.monotonic() - began) / _MAX_COLLECT_SHARE
        self._look_again_after_s = min(2 * self._look_again_after_s, _LOOK_AGAIN_AFTER_AT_MOST_S)
        for torn in torn_down:
            if torn.wrapper() is None or self._is_stopping:
                continue
            referrers = {_described(referrer) for referrer in gc.get_referrers(torn.wrapper())}
            names = ", ".join(sorted(referrers)[:_MAX_REFERRERS]) or "something that cannot be seen"
            retired = replace(torn.retired, why=f"still referred to by {names}")
            if not torn.retired.why:
                self._look_again_after_s = _LOOK_AGAIN_AFTER_S
                message = "{}: revision {} was torn down, but its memory is {}"
                log.warning(message, retired.name, retired.revision, retired.why)
            torn.retired = retired
        with self._changed:
            self._torn_down = [torn for torn in self._torn_down if torn.wrapper() is not None]
        if any(torn.retired.why for torn in self._torn_down):
            self._look_again_at = time.monotonic() + self._look_again_after_s


def _described(referrer: object) -> str:
    if isinstance(referrer, FrameType):
        return f"{referrer.f_code.co_qualname} at {referrer.f_code.co_filename}:{referrer.f_lineno}"
    if isinstance(referrer, dict) and "__spec__" in referrer:
        return f"module {referrer.get('__name__')}"
    return f"a {type(referrer).__qualname__}"
