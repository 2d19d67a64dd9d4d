"""Reading ahead: what is ready together comes together, and nothing waits for what is not."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from hayhooks.errors import PipelineError
from hayhooks.http.stream import Stream, open_stream

NO_DEPLOYMENT: Any = None  # only a sync iterator needs one, for its thread

BURST = 40  # items that are ready one after the other: more than it takes to be sure


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(coroutine, 60)

    return asyncio.run(bounded())


async def burst(then: Callable[[], Awaitable[Any]] | None = None) -> AsyncGenerator[int, None]:
    for number in range(BURST):
        yield number
    if then is not None:
        await then()
        yield BURST


async def opened(items: AsyncIterator[Any]) -> Stream:
    return await open_stream(NO_DEPLOYMENT, items)


async def read_into(batches: list[list[Any]], reader: Stream) -> None:
    """Append what *reader* returns, and what it hands over while it waits, as the client gets it."""
    while batch := await reader.next(batches.append):
        batches.append(batch)


async def batches(reader: Stream) -> list[list[Any]]:
    found: list[list[Any]] = []
    await read_into(found, reader)
    return found


class Numbers:
    """An iterator that is no generator."""

    def __init__(self) -> None:
        self.number = -1

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        self.number += 1
        if self.number % 10 == 9:
            await asyncio.sleep(0)
        if self.number == BURST:
            raise StopAsyncIteration
        return self.number


@pytest.mark.parametrize("source", [burst, Numbers])
def test_all_items_come_in_order_and_some_of_them_together(source: Callable[[], Any]):
    async def work() -> list[list[int]]:
        return await batches(await opened(source()))

    found = run(work())

    assert [item for batch in found for item in batch] == list(range(BURST))
    assert len(found) < BURST


def test_nothing_is_held_back_while_the_next_item_is_waited_for():
    async def work() -> None:
        waiting, gate = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            waiting.set()
            await gate.wait()

        found: list[list[int]] = []
        reading = asyncio.create_task(read_into(found, await opened(burst(then=wait))))
        await waiting.wait()
        await asyncio.sleep(0)
        assert [item for batch in found for item in batch] == list(range(BURST))
        gate.set()
        await reading
        assert found[-1] == [BURST]

    run(work())


def test_a_generator_goes_on_only_when_its_first_items_have_been_taken():
    ran = []

    async def source() -> AsyncGenerator[str, None]:
        yield "searching"
        ran.append("a search that holds up the event loop")
        yield "found"

    async def work() -> None:
        reader = await opened(source())
        assert await reader.next() == ["searching"]
        assert not ran
        assert await batches(reader) == [["found"]]

    run(work())


def test_what_takes_time_without_waiting_is_given_one_by_one():
    async def source() -> AsyncGenerator[float, None]:
        loop = asyncio.get_running_loop()
        for number in range(3 * BURST):
            ends_at = loop.time() + (0.002 if number >= BURST else 0)
            while loop.time() < ends_at:
                pass
            yield number

    async def work() -> list[list[float]]:
        return await batches(await opened(source()))

    assert all(len(batch) == 1 for batch in run(work())[-BURST:])


def test_an_error_comes_after_what_came_before_it():
    async def fails() -> None:
        raise ValueError("late")

    async def work() -> None:
        found: list[list[int]] = []
        reader = await opened(burst(then=fails))
        with pytest.raises(PipelineError, match="late"):
            await read_into(found, reader)
        assert [item for batch in found for item in batch] == list(range(BURST))
        assert await reader.next() == []

    run(work())


async def cancelled_once(waiting: asyncio.Event, found: list[list[int]], reader: Stream) -> None:
    """Read until the generator waits, then cancel the reading."""
    reading = asyncio.create_task(read_into(found, reader))
    await waiting.wait()
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


def test_cancelling_ends_what_is_waited_for():
    ended = []
    waiting = asyncio.Event()

    async def waits() -> None:
        inner = asyncio.create_task(asyncio.Event().wait())
        waiting.set()
        try:
            await inner
        finally:
            ended.append("generator")
            await asyncio.sleep(0)
            ended.append("cleaned up")
            assert inner.cancelled()

    async def work() -> None:
        found: list[list[int]] = []
        reader = await opened(burst(then=waits))
        await cancelled_once(waiting, found, reader)
        assert ended == ["generator", "cleaned up"]
        assert [item for batch in found for item in batch] == list(range(BURST))
        await reader.aclose()

    run(work())


def test_a_generator_that_will_not_be_cancelled_is_closed_at_its_next_item():
    closed = []
    waiting = asyncio.Event()

    async def stubborn() -> AsyncGenerator[int, None]:
        try:
            async for item in burst():
                yield item
            waiting.set()
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    yield BURST
        finally:
            closed.append(True)

    async def work() -> None:
        found: list[list[int]] = []
        reader = await opened(stubborn())
        await cancelled_once(waiting, found, reader)
        assert not closed
        await reader.aclose()
        assert closed

    run(work())


def test_a_timeout_in_the_generator_is_its_own():
    async def source() -> AsyncGenerator[int | str, None]:
        for number in range(3):
            async for item in burst():
                yield item
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                yield f"timeout {number}"

    async def work() -> list[Any]:
        return [item for batch in await batches(await opened(source())) for item in batch]

    assert [item for item in run(work()) if isinstance(item, str)] == ["timeout 0", "timeout 1", "timeout 2"]


def test_others_have_their_turn():
    async def endless() -> AsyncGenerator[str, None]:
        while True:
            yield ""

    async def work() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        reader = await opened(endless())
        while turns < 10:
            await reader.next()
        counting.cancel()
        await reader.aclose()

    run(work())
