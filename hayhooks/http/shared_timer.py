"""One timer for many timeouts, nearly all of which are discarded early.

A timer for each body and each watched client would cost a short request 7 % more CPU.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedTimer(threading.local, Generic[T]):
    """Call *on_timeout* with each item *delay_s* after it was added, unless discarded.

    It is called on the loop that added the item. Each thread has its own state, because each runs one loop.
    """

    def __init__(self, delay_s: float, on_timeout: Callable[[T], None]) -> None:
        self.delay_s = delay_s
        self._on_timeout = on_timeout
        self._loop: asyncio.AbstractEventLoop | None = None  # while its timer runs
        self._added_at: dict[T, float] = {}  # oldest first

    def add(self, item: T) -> None:
        """Start the timeout of *item*."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._added_at = loop, {}
            loop.call_later(self.delay_s, self._expire_due)
        self._added_at[item] = loop.time()

    def discard(self, item: T) -> None:
        """End the timeout of *item*, if it has one."""
        self._added_at.pop(item, None)

    def _expire_due(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        while self._added_at:
            item, added_at = next(iter(self._added_at.items()))
            if added_at + self.delay_s > now:
                self._loop.call_at(added_at + self.delay_s, self._expire_due)
                return
            del self._added_at[item]
            self._on_timeout(item)
        self._loop = None
