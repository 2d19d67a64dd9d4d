"""Retire: tear replaced deployments down after their last request, and give their memory back."""

import asyncio
import gc
import threading
import time
import typing
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType, MethodType, ModuleType

from loguru import logger as log

from hayhooks.errors import DrainedError
from hayhooks.kernel.state import Deployment, Retired
from hayhooks.kernel.threads import DaemonThreadPool

# One gc.collect takes up to 70 ms with Haystack loaded, in which nothing else runs: one for all that retire together,
# and not while somebody waits for the answer to a save.
_QUIET_S = 0.5
_PATIENCE_S = 2.0  # but memory is given back after this long, however busy it gets

_INSIST_S = 5.0  # how long after it was cancelled what still runs is cancelled again
_REST = 10  # times as long as a collection took nothing is collected after it
_HOLDERS = 5  # that are named of those that refer to what should be gone


@dataclass(slots=True, eq=False)
class _Drain:
    """A deployment that is being let go of."""

    deployment: Deployment
    since: float  # Unix seconds
    expires_at: float  # of a monotonic clock: when what still runs is cancelled, and cancelled again
    expired: bool = False
    tearing_down: bool = False


@dataclass(slots=True, eq=False)
class _Remains:
    """A deployment that was torn down, and whether its wrapper still lives."""

    wrapper: "weakref.ref[typing.Any]"
    told: Retired  # why: "" until a collection has not freed it


class Retirement:
    """Where deployments go that no new request can reach.

    Args:
        unload: tears one down; runs in a thread of the retirement's own.
        loop: where requests run, and are cancelled.
        drain_s: how long requests may go on; what outlives that is cancelled. Threads cannot be: a deployment is
            not torn down while one of its methods runs in one.
    """

    def __init__(
        self, unload: Callable[[Deployment], None], *, loop: asyncio.AbstractEventLoop, drain_s: float
    ) -> None:
        self._unload = unload
        self._loop = loop
        self._drain_s = drain_s
        self._crew = DaemonThreadPool("retire", limit=2, patience_s=1.0)
        self._changed = threading.Condition()  # guards all below
        self._drains: list[_Drain] = []
        self._remains: list[_Remains] = []
        self._ending = False
        self._collect_at = 0.0
        self._rested_at = 0.0  # not before: a collection holds the interpreter, with 1,000 deployments for 0.2 s
        self._collect_by: float | None = None  # None: nothing is to be collected

    @property
    def pending(self) -> int:
        """How many deployments still have requests, or are being torn down."""
        return len(self._drains)

    def living(self) -> list[Retired]:
        """Every retired deployment that still lives, and why; the oldest first."""
        with self._changed:
            draining = [_told(drain) for drain in self._drains]
            kept = [remains.told for remains in self._remains if remains.told.why and remains.wrapper() is not None]
        return sorted((*kept, *draining), key=lambda retired: retired.since)

    def add(self, deployment: Deployment) -> None:
        """Tear *deployment* down when its last lease is given back. To be called when it is out of every router."""
        drain = _Drain(deployment, time.time(), time.monotonic() + self._drain_s)
        with self._changed:
            self._drains.append(drain)
        deployment.runtime.leases.release_when_idle(lambda: self._crew.submit(lambda: self._retire(drain)))

    def tick(self) -> None:
        """Cancel what has drained for too long, and go on with the others when some teardowns hang.

        To be called now and then.
        """
        now = time.monotonic()
        with self._changed:
            expired = [drain for drain in self._drains if drain.expires_at <= now and not drain.tearing_down]
        for drain in expired:
            self._cancel(drain)
            drain.expired, drain.expires_at = True, now + _INSIST_S
        self._crew.tick()

    def wait(self, timeout_s: float) -> bool:
        """The last that is asked of it: wait until nothing is pending; False if that did not happen in time."""
        self._ending = True
        with self._changed:
            return self._changed.wait_for(lambda: not self._drains, timeout_s)

    def _cancel(self, drain: _Drain) -> None:
        """Cancel the requests that *drain* still waits for."""
        leases = drain.deployment.runtime.leases.held
        if leases and not drain.expired:
            told = _told(drain)
            log.warning("{}: revision {} still has {} after {:g} s: cancelling", *_id(drain), told.why, self._drain_s)
        for lease in leases:
            self._loop.call_soon_threadsafe(lease.expire, DrainedError)

    def _retire(self, drain: _Drain) -> None:
        drain.tearing_down = True
        try:
            self._unload(drain.deployment)
        except Exception:  # a fault of ours; it must not keep the server from stopping
            log.exception("Retiring {} {} failed", *_id(drain))
        name, revision = _id(drain)
        remains = _Remains(weakref.ref(drain.deployment.wrapper), Retired(name, revision, drain.since, ""))
        with self._changed:
            self._drains.remove(drain)
            self._remains.append(remains)
            self._changed.notify_all()
        self.collect_soon()

    def collect_soon(self) -> None:
        """Give the memory back of what was let go of, here or by a load that failed, when it has become quiet."""
        with self._changed:
            now = time.monotonic()
            self._collect_at = max(now + _QUIET_S, self._rested_at)
            begin = self._collect_by is None
            self._collect_by = self._collect_by or max(now + _PATIENCE_S, self._rested_at)
        if begin:
            threading.Thread(target=self._collect, name="hayhooks collect", daemon=True).start()

    def _collect(self) -> None:
        """Collect the cycles of what was retired, once the batch is complete: classes and modules are made of them."""
        while True:
            with self._changed:
                assert self._collect_by is not None
                wait_s = min(self._collect_at, self._collect_by) - time.monotonic()
                if wait_s <= 0:
                    self._collect_by = None
                    retired = list(self._remains)
                    break
            time.sleep(wait_s)
        for forget in typing._cleanups:  # type: ignore[attr-defined]  # Optional[Model] is cached, and Model with it
            forget()
        began = time.monotonic()
        gc.collect()
        self._rested_at = time.monotonic() + _REST * (time.monotonic() - began)
        for remains in retired:
            self._explain(remains)
        with self._changed:
            self._remains = [remains for remains in self._remains if remains.wrapper() is not None]

    def _explain(self, remains: _Remains) -> None:
        """Say what keeps a wrapper alive that a collection has not freed."""
        wrapper, told = remains.wrapper(), remains.told
        if wrapper is None or told.why or self._ending:
            return
        holders = Counter(_holder(referrer) for referrer in gc.get_referrers(wrapper))
        del wrapper
        holders.pop("", None)
        why = "still referred to by " + (", ".join(sorted(holders)[:_HOLDERS]) or "something that cannot be seen")
        remains.told = replace(told, why=why)
        log.warning("{}: revision {} was torn down, but its memory is {}", told.name, told.revision, why)


def _id(drain: _Drain) -> tuple[str, str]:
    return drain.deployment.name, drain.deployment.revision.id


def _told(drain: _Drain) -> Retired:
    """What /status tells of a deployment that drains."""
    if drain.tearing_down:
        return Retired(*_id(drain), drain.since, "teardown")
    leases = drain.deployment.runtime.leases.held
    threads = [lease.thread for lease in leases if lease.thread]
    requests = len(leases) - len(threads)
    parts = [f"{requests} request{'s' * (requests != 1)}"] if requests else []
    parts += [f"{method} in {count} thread{'s' * (count != 1)}" for method, count in sorted(Counter(threads).items())]
    return Retired(*_id(drain), drain.since, ", ".join(parts) or "teardown")


def _holder(referrer: typing.Any) -> str:
    """A name for what refers to a wrapper; "" for what is of no interest."""
    match referrer:
        case FrameType():
            mine = referrer.f_code.co_filename == __file__
            return "" if mine else f"{referrer.f_code.co_qualname} at {referrer.f_code.co_filename}:{referrer.f_lineno}"
        case dict():
            name = referrer.get("__name__")
            return f"module {name}" if isinstance(name, str) and "__spec__" in referrer else "a dict"
        case ModuleType():
            return f"module {referrer.__name__}"
        case MethodType():
            return f"its method {referrer.__name__}"
        case _:
            return f"a {type(referrer).__qualname__}"
