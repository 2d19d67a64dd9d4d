"""Steps: what is awaited is begun in the task that awaits it, and where it does not wait nothing more is prepared."""

import asyncio
from collections.abc import Generator
from contextlib import suppress
from typing import Any


class StartedAwaitable:
    """The rest of an awaitable that has begun to wait: to be awaited, once, or given up.

    Between, its task may do something else: send what is ready, and be held up by a slow reader. A timeout of the
    wrapper's own that ends then hits the sending; it needs a reader that stalls for longer than that at the first batch
    that it does not take at once.
    """

    def __init__(self, step: Generator[Any, Any, Any], waits_for: Any) -> None:
        self._step = step
        self._waits_for = waits_for  # as the event loop's tasks take it: a future, or None

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:  # the waiting has failed or is cancelled: the wrapper is to know
                    waits_for = self._step.throw(error)
                else:
                    waits_for = self._step.send(sent)
        except StopIteration as item:
            return item.value

    async def give_up(self) -> None:
        """Cancel it as a task is cancelled, and wait until it has ended."""
        task = asyncio.current_task()
        cancelled = task.cancelling() if task else 0
        if self._waits_for is not None:
            self._waits_for.cancel()
        try:
            with suppress(StopAsyncIteration):
                await self
        except asyncio.CancelledError:
            if task is not None and task.cancelling() > cancelled:  # that was meant for us
                raise
