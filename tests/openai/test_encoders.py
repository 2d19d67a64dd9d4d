"""The adapters as what they are: writers, from batches of items to pieces of bytes."""

import json
from typing import Any

import pytest
from haystack.dataclasses import ChatMessage, ToolCall

from hayhooks.openai.chat import ChatCompletionEncoder
from hayhooks.openai.response_encoder import ResponsesEncoder


def sent(answer: Any, *batches: list[Any], error: Exception | None = None) -> list[bytes]:
    """What leaves for each batch, as sse.py asks for it."""
    pieces = [answer.begin()]
    try:
        for batch in batches:
            pieces.append(b"")
            for piece in answer.write(batch):
                pieces[-1] += piece
        if error is not None:
            raise error
        pieces.append(answer.finish())
    except Exception as error:
        pieces.append(answer.fail(error))
    return pieces


def completion() -> ChatCompletionEncoder:
    return ChatCompletionEncoder("it")


def reply() -> ResponsesEncoder:
    return ResponsesEncoder("it", {})


@pytest.mark.parametrize("make", [completion, reply])
def test_what_is_ready_together_leaves_together_and_nothing_is_merged(make: Any):
    _, first, second, third, last = sent(make(), ["a", "b"], [""], ["c"])

    deltas = (b'"a"', b'"b"', b'"c"')
    assert [[piece.count(delta) for delta in deltas] for piece in (first, third)] == [[1, 1, 0], [0, 0, 1]]
    assert second == b""
    for piece in (first, third, last):
        assert piece.endswith(b"\n\n")
        for event in piece.decode().removesuffix("\n\n").split("\n\n"):
            data = event.splitlines()[-1].removeprefix("data: ")
            assert data == "[DONE]" or json.loads(data)


@pytest.mark.parametrize("make", [completion, reply])
def test_an_error_comes_after_all_that_came_before_it(make: Any):
    _, first, last = sent(make(), ["a", object()])
    assert b'"a"' in first
    assert b"cannot be made of" in last

    _, first, last = sent(make(), ["a"], error=ValueError("late"))
    assert b'"a"' in first
    assert b'"a"' not in last or b"response.failed" in last  # which repeats all of the response
    assert b"late" in last


@pytest.mark.parametrize("make", [completion, reply])
def test_streamed_and_whole_answers_are_made_of_the_same(make: Any):
    items = ["a", ChatMessage.from_assistant("b", reasoning="hm", tool_calls=[ToolCall("add", {"x": 1}, "c1")])]
    whole = make().whole(items).decode()
    streamed = b"".join(sent(make(), items)).decode()

    for text in ("hm", "c1", "add", json.dumps('{"x": 1}')):
        assert text in whole
        assert text in streamed
