"""Invoke: call a wrapper's method, whatever kind it is, and give its result or its stream.

Sync code runs in the deployment's own threads, async code on the event loop. A stream gives, for both, one batch after
the other: lists of the items that were ready together.
"""

import asyncio
import contextvars
import threading
import traceback as tracebacks
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

from hayhooks.errors import PipelineError, safe_str, sendable
from hayhooks.http.batches import CoalescingIterator
from hayhooks.kernel.admission import Lease, Slots, current_lease
from hayhooks.kernel.isolation import enter_package, with_public_names
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.state import Deployment
from hayhooks.kernel.threads import Outcome
from hayhooks.toolkit.streaming import PipelineStream

_NOT_RAISABLE = (
    StopIteration,
    StopAsyncIteration,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    asyncio.CancelledError,
)

_PLAIN = frozenset({str, bytes, int, float, bool, dict, list, type(None)})  # neither awaited nor streamed

_UNREAD = 64  # items that a sync generator may be ahead of its reader


class BatchIterator(Protocol):
    """What gives batches one after the other, as an asynchronous iterator does, and can be closed."""

    def __anext__(self) -> Awaitable[list[Any]]: ...

    def aclose(self) -> Awaitable[None]:
        """Stop whatever makes them."""


class Stream:
    """What a method streams, with its first batch already taken, so that an early error is still an error response.

    Ask for the ``next`` batch until there is none, and close it (``aclose``) whatever happens: this stops the wrapper's
    work. Neither this nor what writes its items is a generator: each would cost a lone chunk a microsecond or two.

    Attributes:
        first: the first batch, until it has been asked for; empty if there are no items at all.
    """

    def __init__(self, first: list[Any], rest: BatchIterator | None = None) -> None:
        self.first = first
        self._rest = rest
        self._ended = rest is None

    @classmethod
    async def of(cls, deployment: Deployment, items: Iterator[Any] | AsyncIterable[Any]) -> "Stream":
        """Begin to read *items*, and wait for the first one.

        Raises:
            PipelineError: the wrapper raised before there was an item.
        """
        stream = cls(
            [], CoalescingIterator(items) if isinstance(items, AsyncIterable) else _from_thread(deployment, items)
        )
        try:
            stream.first = await stream.next()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def next(self) -> list[Any]:
        """The next batch; empty at the end.

        Raises:
            PipelineError: the wrapper raised.
            ExpiredError: the request was told to end meanwhile.
        """
        batch, self.first = self.first, []
        if batch or self._ended:
            return batch
        assert self._rest is not None
        try:
            return await self._rest.__anext__()
        except StopAsyncIteration:
            self._ended = True  # an iterator that is no generator may wait for ever when it is asked again
            return []
        # As in invoke.
        except BaseException as error:
            if not _passes(error):
                raise _pipeline_error(error) from error
            lease = current_lease.get()
            if lease is not None and isinstance(error, asyncio.CancelledError):
                lease.raise_expired()  # here and not when all is unwound: the reader can still tell its client
            raise

    async def aclose(self) -> None:
        """Stop the work, if it still goes on."""
        if self._rest is not None:
            await self._rest.aclose()


async def invoke(deployment: Deployment, operation: Operation, arguments: dict[str, Any]) -> Any:
    """Call *operation* of *deployment* with keyword *arguments*.

    Returns:
        What the method returned, awaited; a ``Stream`` if that is an iterator, or can be iterated asynchronously.

    Raises:
        PipelineError: the wrapper's code raised; the cause is what it raised.
        UnavailableError: the deployment works on as many requests as it may, and as many wait.
        Exception: a Starlette ``HTTPException`` is raised as it is.
    """
    if deployment.runtime.slots is not None:
        await _take_slot(deployment.runtime.slots)
    enter_package(deployment.package)
    try:
        if operation.on_loop:
            result = operation.method(**arguments)
        else:
            result = await _in_thread(deployment, partial(operation.method, **arguments))
        if type(result) not in _PLAIN and hasattr(result, "__await__"):
            result = await result
    # The user's code may raise anything, SystemExit included; none of it may end the server.
    except BaseException as error:
        if _passes(error):
            raise
        raise _pipeline_error(error) from error
    if type(result) in _PLAIN:
        return result
    if hasattr(result, "body_iterator"):  # a response that the wrapper made itself
        result.body_iterator = _without_exits(result.body_iterator)
    return await Stream.of(deployment, result) if _is_stream(result) else result


async def _without_exits(items: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    """*items*, which are iterated in a task that is not ours: raised there, these would end the server."""
    try:
        async for item in items:
            yield item
    except (SystemExit, KeyboardInterrupt) as error:
        raise _pipeline_error(error) from error


async def _take_slot(slots: Slots) -> None:
    """Wait for the turn of the request that runs in this context; it has it to its last byte."""
    lease = current_lease.get()
    if lease is not None and lease.slot is None:
        lease.slot = await slots.take()


def _is_stream(result: Any) -> bool:
    # By attribute, as above: the checks of collections.abc cost more than the rest of a short call.
    return hasattr(result, "__next__") or hasattr(result, "__aiter__")


async def collect(stream: Stream) -> list[Any]:
    """Every item of *stream*."""
    items: list[Any] = []
    async with aclosing(stream):
        while batch := await stream.next():
            items += batch
    return items


async def _in_thread(deployment: Deployment, call: partial[Any]) -> Any:
    """Run *call* in a thread of *deployment*, in this context.

    When this is cancelled the thread runs on, with a lease of its own: its revision is not retired under it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Outcome] = loop.create_future()
    context = contextvars.copy_context()
    let_go = _hold(deployment, getattr(call.func, "__name__", "a method"), loop)

    def job() -> None:
        outcome = Outcome.of(partial(context.run, call))
        let_go()
        _tell(loop, partial(_settle, future, outcome))

    deployment.runtime.threads.submit(job)
    outcome = await future
    if outcome.error is not None:
        outcome.error = _raisable(outcome.error)
    return outcome.unwrap()  # an error that a future, or a frame of its traceback, refers to would be a cycle


def _hold(deployment: Deployment, method: str, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Keep *deployment*, and the slot of the request, for a thread that runs *method*.

    Returns:
        What lets go of both; to be called once, in the thread.
    """
    lease, request = Lease(thread=method), current_lease.get()
    deployment.runtime.leases.take(lease)
    slot = request.slot if request is not None else None
    if slot is None:
        return partial(deployment.runtime.leases.give_back, lease)
    slot.share()

    def let_go() -> None:
        deployment.runtime.leases.give_back(lease)
        _tell(loop, slot.give_back)

    return let_go


def _settle(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():  # cancelled meanwhile
        future.set_result(outcome)


def _raisable(error: BaseException) -> BaseException:
    """*error* as a coroutine can raise it: these would end the loop, or a generator, or look like our own."""
    if not isinstance(error, _NOT_RAISABLE):
        return error
    carrier = RuntimeError(f"{type(error).__name__}: {error}".removesuffix(": "))
    carrier.__cause__ = error
    return carrier


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # the loop has ended, and nobody waits any more
        return


def _from_thread(deployment: Deployment, items: Iterator[Any]) -> "_Pump":
    """Read a sync iterator in one thread for its whole life; what comes while we are busy comes as one batch."""
    loop = asyncio.get_running_loop()
    pump = _Pump(items, loop)
    context = contextvars.copy_context()
    let_go = _hold(deployment, "a generator", loop)

    def job() -> None:
        try:
            context.run(pump.run)
        finally:
            let_go()

    deployment.runtime.threads.submit(job)
    return pump


class _Pump:
    """Moves the items of a sync generator from its thread to the loop, at most ``_UNREAD`` ahead of the reader.

    No lock is taken for an item: threads append, and the loop alone takes away. The loop is only woken where it waits,
    and the thread where it has had to. So a chunk costs a third of what it did with a condition.
    """

    def __init__(self, items: Iterator[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._items = items
        self._loop = loop
        self._unread: deque[Any] = deque()
        self._room = threading.Condition()
        self._is_full = False  # a thread waits for room, or did
        self._awaited = False  # the loop waits for an item
        self._arrival: asyncio.Future[None] | None = None
        self._end: Outcome | None = None  # set after the last item
        self._abandoned = False

    def run(self) -> None:
        """In the thread: read all items, as fast as the reader takes them; close the generator in the end."""
        self._end = _end_of(Outcome.of(self._read), Outcome.of(self._close))
        _tell(self._loop, self._arrive)

    def _read(self) -> None:
        if isinstance(self._items, PipelineStream):
            self._items.feed(self._hand_over)
            return
        for item in self._items:
            if not self._hand_over(item):
                return

    def _close(self) -> None:
        if hasattr(self._items, "close"):
            self._items.close()

    def _hand_over(self, item: Any) -> bool:
        """Whether to go on."""
        if self._abandoned:
            return False
        self._unread.append(item)
        if self._awaited:
            self._awaited = False
            _tell(self._loop, self._arrive)
        if len(self._unread) >= _UNREAD:
            with self._room:
                self._room.wait_for(self._has_room)
        return True

    def _has_room(self) -> bool:
        self._is_full = True  # each time, and before looking: who takes away looks at this afterwards
        return self._abandoned or len(self._unread) < _UNREAD

    def _arrive(self) -> None:
        """On the loop: let it look again."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def __anext__(self) -> list[Any]:
        """On the loop: what has arrived, waiting for the first item."""
        while True:
            end = self._end
            if self._unread:
                batch = [self._unread.popleft() for _ in range(len(self._unread))]
                if self._is_full:
                    self._make_room()
                return batch
            if end is not None:
                end.unwrap()
                raise StopAsyncIteration
            self._arrival = self._loop.create_future()
            self._awaited = True
            if not self._unread and self._end is None:  # nor has come before the line above
                await self._arrival

    async def aclose(self) -> None:
        """On the loop: read no more; the generator is closed when it gives its next item."""
        self._abandoned = True
        self._make_room()

    def _make_room(self) -> None:
        with self._room:
            self._is_full = False
            self._room.notify_all()


def _end_of(read: Outcome, closed: Outcome) -> Outcome:
    error = read.error or closed.error
    return Outcome(error=None if error is None else _raisable(error))


def _passes(error: BaseException) -> bool:
    """Whether *error* is no fault of the wrapper: this task is cancelled, or the response is what it says."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0  # else the wrapper itself raised it
    return any(cls.__module__ == "starlette.exceptions" for cls in type(error).__mro__)


def _pipeline_error(error: BaseException) -> PipelineError:
    try:
        traceback = "".join(tracebacks.format_exception(error))
    except BaseException:  # it is of the user's own making, down to its attributes
        traceback = "".join(tracebacks.format_tb(error.__traceback__))
    return PipelineError(
        with_public_names(safe_str(error)) or type(error).__name__, traceback=sendable(with_public_names(traceback))
    )
