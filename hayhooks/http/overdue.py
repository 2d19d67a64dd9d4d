"""What takes longer than it should, found by one timer for all of it.

A timer for each would cost a short request 1.5 microseconds, which nearly always is done before.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class TimeoutQueue(threading.local, Generic[T]):
    """Calls *tell* with what was added *after_s* seconds ago and is still here; on the event loop that added it.

    Each thread has its own, for each runs one loop.
    """

    def __init__(self, after_s: float, tell: Callable[[T], None]) -> None:
        self._after_s = after_s
        self._tell = tell
        self._loop: asyncio.AbstractEventLoop | None = None  # while its timer runs
        self._since: dict[T, float] = {}  # the longest first

    def add(self, item: T) -> None:
        """Begin to wait for *item*."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._since = loop, {}
            loop.call_later(self._after_s, self._look)
        self._since[item] = loop.time()

    def discard(self, item: T) -> None:
        """It is done, or has been told."""
        self._since.pop(item, None)

    def _look(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        while self._since:
            item, since = next(iter(self._since.items()))
            if since + self._after_s > now:
                self._loop.call_at(since + self._after_s, self._look)
                return
            del self._since[item]
            self._tell(item)
        self._loop = None
