"""OpenAI chat completions: from what a wrapper gives to what a client reads. Pure functions on items and iterators.

See https://platform.openai.com/docs/api-reference/chat for the shapes.
"""

import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import cached_property
from typing import Any

from hayhooks.encode import encode_part, encode_texts
from hayhooks.errors import OpenAIError
from hayhooks.exchange import failed
from hayhooks.invoke import Stream
from hayhooks.items import completion_of, piece_of, texts_of
from hayhooks.logger import log
from hayhooks.pieces import Call, Piece, Tally

DONE = b"data: [DONE]\n\n"


class Completion:
    """One answer: what is the same in all of its chunks, and how they are made.

    Args:
        model: the deployment's name.
        include_usage: a stream ends with a chunk that tells the token counts, or that they are not known.
    """

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        self._model = model
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._include_usage = include_usage

    def whole(self, items: Iterable[Any]) -> bytes:
        """The ``chat.completion`` object of an answer that consists of *items*.

        Raises:
            PipelineError: one of them is of no use.
        """
        items = list(items)
        given = completion_of(items[0]) if len(items) == 1 else None
        if given is not None:
            return encode_part({**self._head("chat.completion"), "usage": None, **given})
        content, reasoning, tally = [], [], Tally()
        for piece in map(piece_of, items):
            content.append(piece.content)
            reasoning.append(piece.reasoning)
            tally.take(piece)
        calls = [_call(call) for call in tally.calls]
        message: dict[str, Any] = {"role": "assistant", "content": "".join(content) or (None if calls else "")}
        if any(reasoning):
            message["reasoning_content"] = "".join(reasoning)
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": tally.finish_reason}
        return encode_part({**self._head("chat.completion"), "choices": [choice], "usage": _usage(tally.usage)})

    async def events(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """The events of *stream*, those of one batch together: role, one for each item, finish reason, ``[DONE]``.

        When the wrapper raises in the middle the status has been sent: the error is an event of its own, which SDKs
        raise and UIs show, and no finish reason says that the answer was complete.
        """
        tally = Tally()
        ready = [self._chunk({"role": "assistant", "content": ""})]
        async with aclosing(stream):
            try:
                async for batch in stream:
                    if (texts := texts_of(batch)) is not None and not tally.pending:
                        ready += self._of_texts(texts)
                    else:
                        for chunks in self._chunks(batch, tally):  # one by one: those before a failure are sent too
                            ready.append(chunks)
                    if ready:
                        yield b"".join(ready)
                        ready = []
                yield b"".join([*ready, *self._end(tally)])
            except Exception as error:
                failed(error)
                log.opt(exception=error).error("{}: the answer failed in mid-stream: {}", self._model, error)
                body = OpenAIError(500, str(error), type="server_error").body()["error"]
                yield b"".join([*ready, b"data: ", encode_part({"error": body}), b"\n\n", DONE])

    def _chunks(self, batch: list[Any], tally: Tally) -> Iterator[bytes]:
        """The chunks of *batch*; calls wait for the end, when it is known whose they are."""
        for item in batch:
            piece = piece_of(item)
            tally.take(piece)
            yield from self._of(piece)

    def _of_texts(self, texts: list[str]) -> list[bytes]:
        return [encode_texts(texts, *self._around_texts)] if texts else []

    def _of(self, piece: Piece) -> Iterator[bytes]:
        if piece.content:
            yield from self._of_texts([piece.content])
        if piece.reasoning:
            yield self._chunk({"reasoning_content": piece.reasoning})
        if piece.event is not None:
            yield self._without_choice({"event": piece.event})

    def _end(self, tally: Tally) -> Iterable[bytes]:
        for index, call in enumerate(tally.calls):
            yield self._chunk({"tool_calls": [{"index": index, **_call(call)}]})
        yield self._chunk({}, tally.finish_reason)
        if self._include_usage:
            yield self._without_choice({"usage": _usage(tally.usage)})
        yield DONE

    # A chunk of text differs from the next in its text alone: what stands around that is encoded once for each answer.

    @cached_property
    def _before_choices(self) -> bytes:
        return b"data: " + encode_part(self._head("chat.completion.chunk"))[:-1] + b',"choices":['

    @cached_property
    def _around_texts(self) -> tuple[bytes, bytes, bytes]:
        """What stands before the first, between two, and after the last."""
        before, _, after = self._chunk({"content": ""}).rpartition(b'""')
        return before, after + before, after

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._before_choices + encode_part(choice) + b"]}\n\n"

    def _without_choice(self, extra: dict[str, Any]) -> bytes:
        return self._before_choices + b"]," + encode_part(extra)[1:] + b"\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _usage(counts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """*counts* by the names that chat completions have for them; some providers use those of Responses."""
    if counts is None:
        return None
    prompt = counts.get("prompt_tokens", counts.get("input_tokens", 0))
    completion = counts.get("completion_tokens", counts.get("output_tokens", 0))
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": counts.get("total_tokens", prompt + completion),
    }
    for name, other in (
        ("prompt_tokens_details", "input_tokens_details"),
        ("completion_tokens_details", "output_tokens_details"),
    ):
        if details := counts.get(name) or counts.get(other):
            usage[name] = details
    return usage
