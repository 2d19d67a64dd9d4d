"""Streams: read a wrapper's iterator in batches of items that are ready together."""

import asyncio
from collections.abc import AsyncIterable, Callable, Iterator
from functools import partial
from time import perf_counter
from types import CodeType
from typing import Any, NoReturn

from hayhooks.http.user_code import is_control_flow, raise_pipeline_error, run_in_thread
from hayhooks.kernel.admission import current_lease
from hayhooks.kernel.state import Deployment
from hayhooks.kernel.threads import Outcome
from hayhooks.toolkit.channel import BoundedChannel
from hayhooks.toolkit.streaming import PipelineStream

OnWait = Callable[[list[Any]], None]

_MAX_UNREAD = 64  # items that a thread may be ahead of the reader, and so the largest batch
_BURST = 8  # so many items in a row came at once: the next ones are read together
_BURST_GAP_S = 0.0001  # an item that took less came at once
_MAX_HOLD_S = 0.001  # how long a burst may keep the event loop from its turn


class Stream:
    """Reader of a method's stream; always call ``aclose``, which stops the work.

    ``open_stream`` has read the ``first`` batch, so an early error is still an error response.
    """

    code: CodeType | None = None  # of the wrapper's generator, if it is one
    method: Callable[..., Any] | None = None  # of the wrapper that has returned it

    def __init__(self, first: list[Any]) -> None:
        self.first = first

    async def next(self, _on_wait: OnWait | None = None) -> list[Any]:
        """Return the next batch, empty at the end; raise PipelineError or ExpiredError.

        Where the wrapper waits in a burst of items, *on_wait* gets those that are ready.
        """
        batch, self.first = self.first, []
        return batch

    async def aclose(self) -> None:
        """Stop the work: an async iterator has ended on return, a thread ends at its next item."""

    async def _raise(self, error: BaseException) -> NoReturn:
        # As in invoke.
        if not is_control_flow(error):
            raise_pipeline_error(error)
        lease = current_lease.get()
        if lease is not None and lease.expired is not None and isinstance(error, asyncio.CancelledError):
            await self.aclose()
            lease.raise_expired()  # here and not when all is unwound: the reader can still tell its client
        raise error


async def open_stream(deployment: Deployment, items: Iterator[Any] | AsyncIterable[Any]) -> Stream:
    """Begin to read *items*, and wait for the first one."""
    stream = _TaskStream(items) if isinstance(items, AsyncIterable) else _ThreadStream(deployment, items)
    stream.code = getattr(items, "gi_code", None) or getattr(items, "ag_code", None)
    try:
        stream.first = await stream.next()
    except BaseException:
        await stream.aclose()
        raise
    return stream


class _TaskStream(Stream):
    """Reads an async iterator in the reader's task: a lone item at once, the items of a burst together."""

    def __init__(self, items: AsyncIterable[Any]) -> None:
        super().__init__([])
        self._items = aiter(items)
        self._begun = False
        self._end: Outcome | None = None  # until the iterator has ended
        self._in_a_row = 0  # items that came at once
        self._ready: list[Any] = []  # items of a burst
        self._handing_over: asyncio.Handle | None = None  # after this turn of the loop, so while the iterator waits

    async def next(self, on_wait: OnWait | None = None) -> list[Any]:
        if self.first:
            return await super().next()
        try:
            if self._end is not None:
                return self._end.unwrap() or []
            if self._begun:
                # What was read before leaves first: the wrapper's code may hold the event loop.
                await asyncio.sleep(0)
            self._begun = True
            await self._read(on_wait)
        except BaseException as error:
            if not self._ready or is_control_flow(error):
                await self._raise(error)
            self._end = Outcome(error=error)
        if self._handing_over is not None:
            self._handing_over.cancel()
            self._handing_over = None
        batch, self._ready = self._ready, []
        return batch

    async def _read(self, on_wait: OnWait | None) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        began_at = asked_at = perf_counter()
        async for item in self._items:
            if task is not None and task.cancelling():  # the wrapper has suppressed it
                raise asyncio.CancelledError
            now = perf_counter()
            self._in_a_row = self._in_a_row + 1 if now - asked_at < _BURST_GAP_S else 0
            self._ready.append(item)
            if self._in_a_row < _BURST or len(self._ready) == _MAX_UNREAD or now - began_at > _MAX_HOLD_S:
                break
            if self._handing_over is None and on_wait is not None:
                self._handing_over = loop.call_soon(self._hand_over, on_wait)
            asked_at = now
        else:
            self._end = Outcome()

    async def aclose(self) -> None:
        self._end = Outcome()  # an error and the frames that it refers to are a cycle
        if not hasattr(self._items, "aclose"):
            return
        try:
            await self._items.aclose()
        except BaseException as error:  # of the wrapper's clean-up
            if is_control_flow(error):
                raise
            raise_pipeline_error(error)

    def _hand_over(self, on_wait: OnWait) -> None:
        self._handing_over = None
        batch, self._ready = self._ready, []
        on_wait(batch)


class _ThreadStream(Stream):
    """Reads an iterator in a thread, ahead of the reader; what has come since is one batch."""

    def __init__(self, deployment: Deployment, items: Iterator[Any]) -> None:
        super().__init__([])
        self._channel = channel = BoundedChannel(_MAX_UNREAD)
        self._end = Outcome()  # of the thread
        run_in_thread(deployment, "a generator", partial(_read_all, items, channel), self._finish)

    async def next(self, _on_wait: OnWait | None = None) -> list[Any]:
        if self.first:
            return await super().next()
        try:
            batch = await self._channel.take_all()
            if not batch:
                self._end.unwrap()
        except BaseException as error:
            await self._raise(error)
        return batch

    async def aclose(self) -> None:
        self._channel.close()

    def _finish(self, outcome: Outcome) -> None:
        if not self._channel.closed:  # else nobody would take it: an error and the frames it refers to are a cycle
            self._end = outcome
        self._channel.finish()


def _read_all(items: Iterator[Any], channel: BoundedChannel) -> None:
    read = Outcome.of(partial(_put_all, items, channel))
    closed = Outcome.of(getattr(items, "close", Outcome))
    (read if read.error is not None else closed).unwrap()


def _put_all(items: Iterator[Any], channel: BoundedChannel) -> None:
    if isinstance(items, PipelineStream):
        items.feed(channel.put)
        return
    for item in items:
        if not channel.put(item):
            return
