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

    # No threading.local: its attributes cost benchmark row run-async 2 %.

    def __init__(self, delay_s: float, on_timeout: Callable[[T], None]) -> None:
        self.delay_s = delay_s
        self._on_timeout = on_timeout
        self._loops: set[asyncio.AbstractEventLoop] = set()  # that have a timer
        self._added_at: dict[T, tuple[asyncio.AbstractEventLoop, float]] = {}  # by the clock of the loop, oldest first

    def add(self, item: T) -> None:
        """Start the timeout of *item*."""
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._forget_closed()
            self._loops.add(loop)
            loop.call_later(self.delay_s, self._expire_due, loop)
        self._added_at[item] = loop, loop.time()

    def discard(self, item: T) -> None:
        """End the timeout of *item*, if it has one."""
        self._added_at.pop(item, None)

    def _expire_due(self, loop: asyncio.AbstractEventLoop) -> None:
        for item, (owner, since) in self._added_at.copy().items():
            if owner is not loop:
                continue
            if since + self.delay_s > loop.time():
                loop.call_at(since + self.delay_s, self._expire_due, loop)
                return
            if self._added_at.pop(item, None) is not None:
                self._on_timeout(item)
        self._loops.discard(loop)

    def _forget_closed(self) -> None:
        for item, (owner, _) in self._added_at.copy().items():
            if owner.is_closed():
                self._added_at.pop(item, None)
        for loop in self._loops.copy():
            if loop.is_closed():
                self._loops.discard(loop)
