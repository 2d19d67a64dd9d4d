"""The side loop: an event loop in a thread, for the engine alone; and calls from one loop to another.

DBOS takes over the loop that it runs on: it replaces its default executor, which is of no use once DBOS has stopped.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LoopCall(Generic[T]):
    """A coroutine that runs on *loop*, another one, in *context* (default: an empty one)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[[], Coroutine[Any, Any, T]],
        context: contextvars.Context | None = None,
    ) -> None:
        self.future: Future[T] = Future()  # done once the coroutine has ended, cancelled or not
        self._loop = loop
        self._context = context or contextvars.Context()
        self._task: asyncio.Task[T] | None = None
        self._is_cancelled = False
        loop.call_soon_threadsafe(self._begin, function)

    async def result(self) -> T:
        """Wait for the end, even if this is cancelled meanwhile: only ``cancel`` reaches the coroutine."""
        return await asyncio.shield(asyncio.wrap_future(self.future))

    def cancel(self) -> None:
        """Cancel the coroutine; from any thread."""
        self._is_cancelled = True
        self._loop.call_soon_threadsafe(self._cancel)

    def _begin(self, function: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._task = self._loop.create_task(function(), context=self._context)
        self._task.add_done_callback(self._settle)
        if self._is_cancelled:
            self._task.cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.future.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())


class SideLoop:
    """A running event loop in a daemon thread; ``close`` ends both."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(
        self, function: Callable[[], Coroutine[Any, Any, T]], context: contextvars.Context | None = None
    ) -> T:
        """Await the coroutine that *function* makes; it runs to its end."""
        return await LoopCall(self.loop, function, context).result()

    def close(self) -> None:
        """Cancel what runs and end the thread; from another thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
