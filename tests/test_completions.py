"""The adapters as what they are: functions from a stream of batches to pieces of bytes, one for each batch."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from haystack.dataclasses import ChatMessage, ToolCall

from hayhooks.completions import Completion
from hayhooks.invoke import Stream
from hayhooks.responses import Reply


class Source:
    """Batches, and whether they were closed."""

    def __init__(self, *batches: list[Any], error: Exception | None = None) -> None:
        self.closed = False
        self._batches = batches
        self._error = error

    async def __aiter__(self) -> AsyncGenerator[list[Any], None]:
        try:
            for batch in self._batches:
                yield batch
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True

    def stream(self) -> Stream:
        return Stream([], aiter(self))


def sent(answer: Any, source: Source) -> list[bytes]:
    async def read() -> list[bytes]:
        return [piece async for piece in answer.events(source.stream())]

    return asyncio.run(read())


def completion() -> Completion:
    return Completion("it")


def reply() -> Reply:
    return Reply("it", {})


@pytest.mark.parametrize("make", [completion, reply])
def test_what_is_ready_together_leaves_together_and_nothing_is_merged(make: Any):
    first, second, last = sent(make(), Source(["a", "b"], [""], ["c"]))

    deltas = (b'"a"', b'"b"', b'"c"')
    assert [[piece.count(delta) for delta in deltas] for piece in (first, second)] == [[1, 1, 0], [0, 0, 1]]
    assert last.endswith(b"\n\n")
    for piece in (first, second, last):
        for event in piece.decode().removesuffix("\n\n").split("\n\n"):
            data = event.splitlines()[-1].removeprefix("data: ")
            assert data == "[DONE]" or json.loads(data)


@pytest.mark.parametrize("make", [completion, reply])
def test_an_error_comes_after_all_that_came_before_it(make: Any):
    source = Source(["a", object()], error=ValueError("late"))
    (piece,) = sent(make(), source)
    assert piece.index(b'"a"') < piece.index(b"cannot be made of")

    source = Source(["a"], error=ValueError("late"))
    first, last = sent(make(), source)
    assert b'"a"' in first
    assert b"late" in last
    assert source.closed


@pytest.mark.parametrize("make", [completion, reply])
def test_a_reader_that_stops_closes_the_stream(make: Any):
    source = Source(["a"], ["b"])

    async def read_one() -> None:
        events = make().events(source.stream())
        await anext(events)
        await events.aclose()

    asyncio.run(read_one())
    assert source.closed


@pytest.mark.parametrize("make", [completion, reply])
def test_streamed_and_whole_answers_are_made_of_the_same(make: Any):
    items = ["a", ChatMessage.from_assistant("b", reasoning="hm", tool_calls=[ToolCall("add", {"x": 1}, "c1")])]
    whole = make().whole(items).decode()
    streamed = b"".join(sent(make(), Source(items))).decode()

    for text in ("hm", "c1", "add", json.dumps('{"x": 1}')):
        assert text in whole
        assert text in streamed
