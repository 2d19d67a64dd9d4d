"""From a pipeline to the reader of its stream: hand-overs that hold few chunks, and that the reader may close.

The streaming callbacks of the pipeline's components ``put`` chunks in, and wait while LIMIT of them are unread. The
reader iterates, and gets the chunks and what the user's code puts into a queue of its own, in the order in which
they came; iteration ends when all is read and the pipeline has finished. ``ChunkChannel`` is for a pipeline in a
thread, ``AsyncChunkChannel`` for one in a task.

Unread chunks and events lie in one line; the events that were in the user's queue when a chunk came stand before it.
"""

import asyncio
import inspect
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self

LIMIT = 16  # unread chunks: enough that neither side waits at every chunk, few enough to stop soon after the reader


class ConsumerGoneError(BaseException):
    """Raised in the pipeline, by its streaming callback: nobody reads the stream any more.

    No ``Exception``, because components catch those: a FallbackChatGenerator would go on with its next model.
    """


class _Events(deque[Any]):
    """Events that came one after the other; a type of their own, for any object may be a chunk."""


class ChunkChannel:
    """Hands over between two threads, by blocking.

    A chunk takes no lock where no events are about and the reader does not wait: a third of the CPU that it took with.

    ``close`` takes no lock. It runs when a generator is finalized, and the garbage collector may do that in any
    thread at any moment, also in one that holds a lock of this.
    """

    def __init__(self, events: queue.Queue[Any] | None) -> None:
        self._events: queue.Queue[Any] = queue.Queue() if events is None else events
        self._changed = self._events.not_empty  # the user's own condition, so that one wait is for both sources
        self._order = threading.Lock()  # held while events move, lest a later one overtakes them
        self._unread: deque[Any] = deque()  # chunks, and ``_Events``
        self._given: deque[Any] = _Events()  # of which the reader is being given one by one
        self._waiting = False  # the reader is
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()  # one item for each chunk that may still be put
        for _ in range(LIMIT):
            self._room.put(None)
        self._finished = False
        self._closed = False

    def callback(self, user: Callable[[Any], Any] | None) -> Callable[[Any], None]:
        """The streaming callback for a component: *user*'s, if there is one, then ``put``."""

        # A function: Haystack deep-copies run arguments, and copying a bound method copies what it is bound to.
        def forward(chunk: Any) -> None:
            if user is not None:
                user(chunk)
            self.put(chunk)

        return forward

    def put(self, chunk: Any) -> None:
        """Hand *chunk* over; wait while LIMIT chunks are unread.

        Raises:
            Abandoned: the reader has left, before or while this waited.
        """
        self._room.get()
        if self._closed:
            self._room.put(None)  # passed on to the next that waits
            raise ConsumerGoneError
        if self._events.queue:
            with self._order:
                if events := self._take_events():
                    self._unread.append(events)
                self._unread.append(chunk)
        else:
            self._unread.append(chunk)
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def finish(self, _pipeline: object) -> None:
        """Let the iteration end after what has been put so far."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """The reader leaves: make every ``put`` raise, from now on and where one waits."""
        self._closed = True
        self._room.put(None)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while not self._given:
            if not self._unread:
                self._wait()
                continue
            item = self._unread.popleft()
            if type(item) is not _Events:
                self._room.put(None)
                return item
            self._given = item
        return self._given.popleft()

    def _wait(self) -> None:
        """Wait until something is unread; where that is events alone, take them.

        Raises:
            StopIteration: the pipeline has finished, and all is read.
        """
        with self._changed:
            self._waiting = True  # before the look at what is unread: who puts something looks at this afterwards
            self._changed.wait_for(lambda: self._finished or self._unread or self._events.queue)
            self._waiting = False
            if self._finished and not self._unread and not self._events.queue:
                raise StopIteration
        with self._order:
            # In this order: a chunk that was put before one of these events is seen.
            count = len(self._events.queue)
            if not self._unread:
                self._given = self._take_events(count)

    def _take_events(self, count: int | None = None) -> _Events:
        events = _Events()
        with suppress(queue.Empty):
            while count is None or len(events) < count:
                events.append(self._events.get_nowait())
        return events


class AsyncChunkChannel:
    """Hands over between tasks of the running event loop; ``thread_callback`` is for threads.

    Args:
        events: the user's queue.
        shield: after ``close``, ``put`` drops chunks where it would raise, so that the pipeline can go on.
    """

    def __init__(self, events: asyncio.Queue[Any] | None, *, shield: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._changed = asyncio.Event()
        self._events: asyncio.Queue[Any] = asyncio.Queue() if events is None else events
        self._event = self._listen()
        self._batches: deque[deque[Any]] = deque()
        self._batch: deque[Any] = deque()  # the reader's
        self._room = asyncio.Semaphore(LIMIT)
        self._shield = shield
        self._finished = False
        self._closed = False

    def callback(self, user: Callable[[Any], Any] | None) -> Callable[[Any], Awaitable[None]]:
        """The streaming callback for a component's ``run_async``: *user*'s, sync or async, then ``put``."""

        async def forward(chunk: Any) -> None:
            if user is not None:
                await settled(user(chunk))
            await self.put(chunk)

        return forward

    def thread_callback(self, user: Callable[[Any], Any] | None) -> Callable[[Any], Awaitable[None] | None]:
        """The streaming callback for a component that Haystack runs in a thread, as it has no ``run_async``.

        Called on the event loop it must not wait. An Agent does that, for the results of its tools, and awaits what
        it gets back.
        """

        def forward(chunk: Any) -> Awaitable[None] | None:
            if user is not None:
                user(chunk)
            if threading.get_ident() == self._thread:
                return self.put(chunk)
            asyncio.run_coroutine_threadsafe(self.put(chunk), self._loop).result()
            return None

        return forward

    async def put(self, chunk: Any) -> None:
        """Hand *chunk* over; wait while LIMIT chunks are unread.

        Raises:
            Abandoned: the reader has left, before or while this waited, and the pipeline is not shielded.
        """
        await self._room.acquire()
        if self._closed:
            self._room.release()  # passed on to the next that waits
            if self._shield:
                return
            raise ConsumerGoneError
        self._batches.append(self._take_events())
        self._batches[-1].append(chunk)
        self._changed.set()

    def finish(self, _pipeline: object) -> None:
        """Let the iteration end after what has been put so far."""
        self._finished = True
        self._changed.set()

    def close(self) -> None:
        """The reader leaves: make every ``put`` raise, or drop its chunk, from now on and where one waits."""
        self._closed = True
        self._room.release()
        self._event.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while not self._batch:
            self._changed.clear()
            if self._batches:
                self._room.release()
                self._batch = self._batches.popleft()
            elif events := self._take_events():
                self._batch = events
            elif self._finished:
                raise StopAsyncIteration
            else:
                await self._changed.wait()
        return self._batch.popleft()

    def _take_events(self) -> deque[Any]:
        events: deque[Any] = deque()
        if self._event.done() and self._event.exception() is None:  # what a queue that was shut down raises is none
            events.append(self._event.result())
            self._event = self._listen()
        while not self._events.empty():  # put so lately that the listening task has not run yet
            events.append(self._events.get_nowait())
        return events

    def _listen(self) -> asyncio.Task[Any]:
        """A task that takes the user's next event, for an ``asyncio.Queue`` tells of it in no other way."""
        listening = asyncio.create_task(self._events.get())
        listening.add_done_callback(lambda _: self._changed.set())
        return listening


async def settled(value: Any) -> Any:
    """What *value* is, or comes to when awaited."""
    return await value if inspect.isawaitable(value) else value
