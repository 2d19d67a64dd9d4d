"""Disconnects: cancel the work for a client that goes away."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.types import Receive

from hayhooks.errors import DisconnectedError, PipelineError
from hayhooks.http.shared_timer import SharedTimer

T = TypeVar("T")

_UNWATCHED_S = 0.02  # shorter work is not worth the watching: a task more for each request

CLIENT_LEFT = "the client went away"


async def cancel_on_disconnect(receive: Receive, work: Awaitable[T]) -> T:
    """Await *work*; raise DisconnectedError if the client leaves, PipelineError if the wrapper cancelled it.

    Read the body first.
    """
    task = asyncio.current_task()
    assert task is not None
    watcher = _DisconnectWatcher(receive, task)
    _timer.add(watcher)
    try:
        return await work
    except asyncio.CancelledError:
        if watcher.disconnected and task.cancelling() == 1:  # else somebody else cancels us too
            raise DisconnectedError(CLIENT_LEFT) from None
        if not task.cancelling():
            raise PipelineError("the wrapper cancelled its own request", traceback="") from None
        raise
    finally:
        _timer.discard(watcher)
        watcher.stop()


class _DisconnectWatcher:
    __slots__ = ("_receive", "_task", "_watching", "disconnected")

    def __init__(self, receive: Receive, task: asyncio.Task[Any]) -> None:
        self.disconnected = False
        self._receive = receive
        self._task = task
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self.watch())

    def stop(self) -> None:
        watching, self._watching = self._watching, None  # its frame refers to this: together they would be a cycle
        if watching is not None:
            watching.cancel()
            if self.disconnected:
                self._task.uncancel()

    async def watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.disconnected = True
        self._task.cancel()


_timer = SharedTimer(_UNWATCHED_S, _DisconnectWatcher.start)
