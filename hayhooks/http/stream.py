"""Streams: read a wrapper's iterator in batches of items that are ready together.

A producer, a thread or a task, puts the items into a bounded channel.
``Stream`` takes all that it holds: a lone item is sent at once, fast items share one send.
"""

import asyncio
from collections.abc import AsyncIterable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

from hayhooks.http.user_code import is_control_flow, pipeline_error, run_in_thread
from hayhooks.kernel.admission import current_lease
from hayhooks.kernel.state import Deployment
from hayhooks.kernel.threads import Outcome
from hayhooks.toolkit.channel import BoundedChannel
from hayhooks.toolkit.streaming import PipelineStream

_MAX_UNREAD = 64  # items that a producer may be ahead of the reader, and so the largest batch
_BURST = 8  # so many items in a row came at once: the reader is only given its turn when the channel is full
_BURST_GAP_S = 0.0001  # an item that took less came at once
_MAX_HOLD_S = 0.001  # how long a burst may keep the reader from its turn


class Stream:
    """Reader of a method's stream; always call ``aclose``, which stops the work.

    ``of`` takes the ``first`` batch, so an early error is still an error response.
    """

    def __init__(self, first: list[Any]) -> None:
        self.first = first
        self._channel: BoundedChannel | None = None  # None: there is no producer, or all is read
        self._end = Outcome()  # of the producer
        self._task: asyncio.Task[None] | None = None  # the producer, unless it is a thread

    @classmethod
    async def of(cls, deployment: Deployment, items: Iterator[Any] | AsyncIterable[Any]) -> "Stream":
        """Begin to read *items*, and wait for the first one."""
        stream = cls([])
        stream.start(deployment, items)
        try:
            stream.first = await stream.next()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    def start(self, deployment: Deployment, items: Iterator[Any] | AsyncIterable[Any]) -> None:
        """Start the producer."""
        self._channel = channel = BoundedChannel(_MAX_UNREAD)
        if isinstance(items, AsyncIterable):
            self._task = asyncio.create_task(self._produce(items, channel))
        else:
            run_in_thread(deployment, "a generator", partial(_read, items, channel), partial(self._finish, channel))

    async def next(self) -> list[Any]:
        """Return the next batch, empty at the end; raise PipelineError or ExpiredError."""
        batch, self.first = self.first, []
        if batch or self._channel is None:
            return batch
        try:
            batch = await self._channel.take_all()
            if not batch:
                self._channel = None
                self._end.unwrap()
        # As in invoke.
        except BaseException as error:
            if not is_control_flow(error):
                raise pipeline_error(error) from error
            lease = current_lease.get()
            if lease is not None and lease.expired is not None and isinstance(error, asyncio.CancelledError):
                await self.aclose()
                lease.raise_expired()  # here and not when all is unwound: the reader can still tell its client
            raise
        return batch

    async def aclose(self) -> None:
        """Stop the work: a task has ended on return, a thread ends at its next item."""
        if self._channel is not None:
            self._channel.close()
        task, self._task = self._task, None
        if task is None or task.done():
            return
        interrupted = False
        task.cancel()
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                interrupted = True
                task.cancel()
        if interrupted:
            raise asyncio.CancelledError

    async def _produce(self, items: AsyncIterable[Any], channel: BoundedChannel) -> None:
        self._finish(channel, await Outcome.awaited(_read_async(items, channel)))

    def _finish(self, channel: BoundedChannel, outcome: Outcome) -> None:
        if not channel.closed:  # else nobody would take it: an error and the frames that it refers to are a cycle
            self._end = outcome
        channel.finish()


def _read(items: Iterator[Any], channel: BoundedChannel) -> None:
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


async def _read_async(items: AsyncIterable[Any], channel: BoundedChannel) -> None:
    """Read *items* into *channel*.

    Nothing is sent while the wrapper's code runs: the reader gets a turn before each item,
    except in a burst.
    """
    iterator = aiter(items)
    try:
        in_a_row = 0
        turn_at = asked_at = perf_counter()
        async for item in iterator:
            now = perf_counter()
            in_a_row = in_a_row + 1 if now - asked_at < _BURST_GAP_S else 0
            if not channel.append(item):
                return
            if in_a_row < _BURST or now - turn_at > _MAX_HOLD_S:
                await asyncio.sleep(0)
                now = turn_at = perf_counter()
            if channel.is_full():
                await channel.room()
                now = turn_at = perf_counter()
            asked_at = now
    finally:
        if hasattr(iterator, "aclose"):
            await iterator.aclose()
