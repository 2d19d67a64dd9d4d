"""Limits: how long a deployment's requests may take, how many it works on at a time, and how many wait."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hayhooks.errors import LoadError, UnavailableError


@dataclass(frozen=True, slots=True)
class Limits:
    """What the requests of one deployment may take."""

    timeout_s: float = 0.0  # to the last byte; 0: no limit
    concurrency: int = 0  # that it works on at the same time; 0: no limit
    queue: int = 0  # that wait where there is one

    def of(self, wrapper: Any) -> "Limits":
        """Those that *wrapper* names, and these where it names none.

        Raises:
            LoadError: what it names is no limit.
        """
        timeout_s = _given(wrapper, "request_timeout", float, "seconds, or 0 for no limit")
        concurrency = _given(wrapper, "concurrency", int, "a number of requests, or 0 for no limit")
        queue = _given(wrapper, "queue_size", int, "a number of requests")
        return Limits(
            self.timeout_s if timeout_s is None else float(timeout_s),
            self.concurrency if concurrency is None else concurrency,
            self.queue if queue is None else queue,
        )


NO_LIMITS = Limits()


def _given(wrapper: Any, name: str, kind: type, accepted: str) -> Any:
    value = getattr(wrapper, name)
    if value is None:
        return None
    fits = isinstance(value, int) or (kind is float and isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not fits or value < 0:
        raise LoadError(f"{name} of the wrapper is {value!r}: it must be {accepted}, or None for what the settings say")
    return value


class Slot:
    """One of a deployment's slots: free again when the request and every thread that works for it have ended.

    To be used on the event loop.
    """

    __slots__ = ("_free", "_holders")

    def __init__(self, free: Callable[[], None]) -> None:
        self._free = free
        self._holders = 1

    def share(self) -> None:
        """Keep it for one holder more."""
        self._holders += 1

    def give_back(self) -> None:
        """One holder has ended."""
        self._holders -= 1
        if not self._holders:
            self._free()


class Slots:
    """How many requests a deployment works on, and who waits, in the order of arrival. To be used on the event loop.

    Args:
        name: the deployment's.
        limit: how many it works on at the same time.
        queue: how many wait.
    """

    def __init__(self, name: str, limit: int, queue: int) -> None:
        self._name = name
        self._limit = limit
        self._queue = queue
        self._waiting = 0
        self._semaphore = asyncio.Semaphore(limit)  # it is fair, and knows what to do when who waits is cancelled

    def refuse_if_full(self) -> None:
        """Let nobody in where all would wait in vain.

        Raises:
            UnavailableError: all slots are taken, and as many wait as may.
        """
        if self._waiting >= self._queue and self._semaphore.locked():
            raise UnavailableError(
                f"pipeline {self._name!r} is busy: it works on {self._limit} requests at a time, "
                f"and {self._waiting} wait, which is all that may (HAYHOOKS_CONCURRENCY, HAYHOOKS_QUEUE_SIZE)"
            )

    async def take(self) -> Slot:
        """Wait for a slot.

        Raises:
            UnavailableError: as ``refuse_if_full``.
        """
        self.refuse_if_full()
        self._waiting += 1
        try:
            await self._semaphore.acquire()
        finally:
            self._waiting -= 1
        return Slot(self._semaphore.release)
