"""One timer for many timeouts, nearly all of which are discarded early.

A timer for each body and each watched client would cost a short request 7 % more CPU.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedTimer(Generic[T]):
    """Call *on_timeout* with each item *delay_s* after it was added, unless discarded.

    It is called on the loop that added the item; several may run, in threads.
    """

    def __init__(self, delay_s: float, on_timeout: Callable[[T], None]) -> None:
        self.delay_s = delay_s
        self._on_timeout = on_timeout
        # By loop, while its timer runs, oldest first. Not a threading.local, whose attributes cost row run-async 2 %.
        self._added_at: dict[asyncio.AbstractEventLoop, dict[T, float]] = {}

    def add(self, item: T) -> None:
        """Start the timeout of *item*."""
        loop = asyncio.get_running_loop()
        added_at = self._added_at.get(loop)
        if added_at is None:
            for ended in [other for other in tuple(self._added_at) if other.is_closed()]:
                self._added_at.pop(ended, None)
            added_at = self._added_at[loop] = {}
            loop.call_later(self.delay_s, self._expire_due, loop, added_at)
        added_at[item] = loop.time()

    def discard(self, item: T) -> None:
        """End the timeout of *item*, if it has one."""
        for added_at in tuple(self._added_at.values()):  # nearly always of one loop
            added_at.pop(item, None)

    def _expire_due(self, loop: asyncio.AbstractEventLoop, added_at: dict[T, float]) -> None:
        while added_at:
            item, since = next(iter(added_at.items()))
            if since + self.delay_s > loop.time():
                loop.call_at(since + self.delay_s, self._expire_due, loop, added_at)
                return
            del added_at[item]
            self._on_timeout(item)
        del self._added_at[loop]
