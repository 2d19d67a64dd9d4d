"""A bounded channel between producers and one reader, each in a thread or in a task.

The server reads wrappers' streams from a ``BoundedChannel``. ``ThreadChunkReader`` and ``TaskChunkReader`` read a
pipeline's chunks from one, merged with the user's own event queue.
"""

import asyncio
import inspect
import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self

MAX_UNREAD_CHUNKS = 16  # enough that neither side waits at every chunk, few enough to stop soon after the reader


class ConsumerGoneError(BaseException):
    """Raised by the streaming callback in a pipeline whose reader has left.

    Not an ``Exception``: components catch those, and a FallbackChatGenerator would try its next model.
    """


class BoundedChannel:
    """Pass items to one reader, in order; writers wait while *limit* of them are unread.

    ``put`` waits in a thread; ``room``, ``readable`` and ``take_all`` wait in a task; the others never wait.
    """

    def __init__(self, limit: int) -> None:
        self.closed = False
        self._limit = limit
        # Reentrant: the garbage collector may call `close` in a thread that holds it. Nobody is woken under it.
        self._lock = threading.RLock()
        self._unread: deque[Any] = deque()
        self._finished = False
        self._wake_reader: Callable[[], None] | None = None  # where it waits
        self._wake_writers: list[Callable[[], None]] = []  # one for each that waits

    def append(self, *items: Any) -> bool:
        """Add *items* even to a full channel; False where the reader has left."""
        with self._lock:
            wake = self._add(items)
        if wake is not None:
            wake()
        return not self.closed

    def put(self, item: Any) -> bool:
        """Add *item* as soon as there is room; False where the reader has left."""
        while True:
            with self._lock:
                if not self.is_full():
                    wake = self._add((item,))
                    break
                waiter = threading.Lock()
                waiter.acquire()
                self._wake_writers.append(waiter.release)
            waiter.acquire()
        if wake is not None:
            wake()
        return not self.closed

    async def room(self) -> None:
        """Wait until there is room, or the reader has left."""
        while self.is_full():
            waiter = _TaskWaiter()
            with self._lock:
                if not self.is_full():
                    return
                self._wake_writers.append(waiter.wake)
            await waiter.future

    def is_full(self) -> bool:
        """Whether writers have to wait."""
        return len(self._unread) >= self._limit and not self.closed

    def finish(self) -> None:
        """End the iteration after the items that are unread now."""
        self._finished = True
        self.append()

    def close(self) -> None:
        """Tell the writers, also those that wait, that the reader has left."""
        self.closed = True
        self._resume_writers()

    def get_nowait(self) -> Any:
        """Return the next item; IndexError if none is unread."""
        item = self._unread.popleft()
        if self._wake_writers:
            self._resume_writers()
        return item

    async def take_all(self) -> list[Any]:
        """Return all unread items, after waiting for the first; an empty list at the end."""
        if not self._unread:
            await self.readable()
        items = [self._unread.popleft() for _ in range(len(self._unread))]
        if self._wake_writers:
            self._resume_writers()
        return items

    async def readable(self) -> bool:
        """Wait for an unread item; False at the end."""
        while not (self._unread or self._finished):
            waiter = _TaskWaiter()
            if self.on_readable(waiter.wake):
                await waiter.future
        return bool(self._unread)

    def is_readable(self) -> bool:
        """Whether an item, or the end, can be read without waiting."""
        return bool(self._unread) or self._finished

    def on_readable(self, wake: Callable[[], None]) -> bool:
        """Have *wake* called once there is an item or the end; False where it is there already."""
        with self._lock:
            if self.is_readable():
                return False
            self._wake_reader = wake
            return True

    def __len__(self) -> int:
        return len(self._unread)

    def _add(self, items: tuple[Any, ...]) -> Callable[[], None] | None:
        if not self.closed:
            self._unread.extend(items)
        wake, self._wake_reader = self._wake_reader, None
        return wake

    def _resume_writers(self) -> None:
        with self._lock:
            wakes, self._wake_writers = self._wake_writers, []
        for wake in wakes:
            wake()


class _TaskWaiter:
    """A future that any thread may resolve."""

    __slots__ = ("_loop", "_thread", "future")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.future: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> None:
        if threading.get_ident() == self._thread:  # to write to the loop's own pipe would cost a system call
            self._resolve()
            return
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if not self.future.done():  # cancelled meanwhile
            self.future.set_result(None)


class ThreadChunkReader:
    """Iterate over the chunks of a pipeline in another thread; the user's events precede the next chunk."""

    def __init__(self, events: queue.Queue[Any] | None) -> None:
        self._channel = BoundedChannel(MAX_UNREAD_CHUNKS)
        self._has_events = events is not None
        self._events: queue.Queue[Any] = queue.Queue() if events is None else events
        # The queue's own condition: several streams may share the queue, and each waits for it and for its pipeline.
        # A thread that forwarded events would have taken one, and not passed it on yet, when the next chunk comes.
        self._changed = self._events.not_empty
        self._order = threading.Lock()  # held while events move, lest a later one overtakes them
        self._next_events: deque[Any] = deque()  # to be read before the channel's items
        self.close = self._channel.close

    def callback(self, user: Callable[[Any], Any] | None) -> Callable[[Any], None]:
        """Make the streaming callback for a component: *user*'s, if there is one, then ``put``."""

        # A function: Haystack deep-copies run arguments, and copying a bound method copies what it is bound to.
        def forward(chunk: Any) -> None:
            if user is not None:
                user(chunk)
            self.put(chunk)

        return forward

    def put(self, chunk: Any) -> None:
        """Add *chunk* as soon as there is room; ConsumerGoneError if the reader has left."""
        if self._has_events:
            with self._order:
                self._channel.append(*self._take_events())
        if not self._channel.put(chunk):
            raise ConsumerGoneError

    def finish(self, _pipeline: object) -> None:
        """Let the iteration end after what has been put so far."""
        self._channel.finish()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while True:
            if self._next_events:
                return self._next_events.popleft()
            if self._channel:
                return self._channel.get_nowait()
            self._wait()

    def _wait(self) -> None:
        """Wait for items or events, and take events; StopIteration at the end."""
        with self._changed:
            if not self._events.queue and self._channel.on_readable(self._notify):
                self._changed.wait_for(lambda: self._channel.is_readable() or self._events.queue)
            if self._channel.is_readable() and not self._channel and not self._events.queue:
                raise StopIteration
        with self._order:
            count = len(self._events.queue)  # before the look at the channel: a chunk that came before them is seen
            if not self._channel:
                self._next_events.extend(self._take_events(count))

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _take_events(self, count: int | None = None) -> list[Any]:
        events: list[Any] = []
        with suppress(queue.Empty):
            while count is None or len(events) < count:
                events.append(self._events.get_nowait())
        return events


class TaskChunkReader:
    """Iterate over the chunks of a pipeline in a task, and the user's events between them.

    With *shield*, ``put`` drops chunks after ``close`` instead of raising, so that the pipeline can go on.
    """

    def __init__(self, events: asyncio.Queue[Any] | None, *, shield: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._channel = BoundedChannel(MAX_UNREAD_CHUNKS)
        self._shield = shield
        self._events = events
        self._forwarder = None if events is None else asyncio.create_task(self._forward(events))

    def callback(self, user: Callable[[Any], Any] | None) -> Callable[[Any], Awaitable[None]]:
        """Make the streaming callback for a component's ``run_async``: *user*'s, sync or async, then ``put``."""

        async def forward(chunk: Any) -> None:
            if user is not None:
                await settled(user(chunk))
            await self.put(chunk)

        return forward

    def thread_callback(self, user: Callable[[Any], Any] | None) -> Callable[[Any], Awaitable[None] | None]:
        """Make the streaming callback for a component without ``run_async``, which Haystack runs in a thread."""
        # An Agent calls it on the event loop too, for its tools' results, and awaits the returned coroutine.

        def forward(chunk: Any) -> Awaitable[None] | None:
            if user is not None:
                user(chunk)
            if threading.get_ident() == self._thread:
                return self.put(chunk)
            asyncio.run_coroutine_threadsafe(self.put(chunk), self._loop).result()
            return None

        return forward

    async def put(self, chunk: Any) -> None:
        """Add *chunk* as soon as there is room; ConsumerGoneError if the reader has left, unless shielded."""
        await self._channel.room()
        if not self._channel.append(*self._take_events(), chunk) and not self._shield:
            raise ConsumerGoneError

    def finish(self, _pipeline: object) -> None:
        """Let the iteration end after what has been put so far."""
        self._channel.append(*self._take_events())
        self._channel.finish()

    def close(self) -> None:
        """Make every ``put`` raise, or drop its chunk, from now on and where one waits."""
        self._channel.close()
        if self._forwarder is not None:
            self._forwarder.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if await self._channel.readable():
            return self._channel.get_nowait()
        raise StopAsyncIteration

    def _take_events(self) -> list[Any]:
        events: list[Any] = []
        while self._events is not None and not self._events.empty():
            events.append(self._events.get_nowait())
        return events

    async def _forward(self, events: asyncio.Queue[Any]) -> None:
        with suppress(Exception):  # a queue that is shut down raises; the pipeline goes on without it
            while True:
                self._channel.append(await events.get())
                await self._channel.room()


async def settled(value: Any) -> Any:
    """Return *value*, awaited where it is awaitable."""
    return await value if inspect.isawaitable(value) else value
