"""OpenAI chat completions: from what a wrapper gives to what a client reads. No IO, and no waiting.

See https://platform.openai.com/docs/api-reference/chat for the shapes.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from typing import Any

from hayhooks.errors import OpenAIError, safe_str
from hayhooks.http.json import encode_part, encode_texts
from hayhooks.openai.delta import Delta, DeltaAccumulator, PendingCall
from hayhooks.openai.normalize import completion_of, plain_texts, to_delta

DONE = b"data: [DONE]\n\n"


class ChatCompletionEncoder:
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
        self._tally = DeltaAccumulator()

    def whole(self, items: Iterable[Any]) -> bytes:
        """The ``chat.completion`` object of an answer that consists of *items*.

        Raises:
            PipelineError: one of them is of no use.
        """
        items = list(items)
        given = completion_of(items[0]) if len(items) == 1 else None
        if given is not None:
            return encode_part({**self._head("chat.completion"), "usage": None, **given})
        content, reasoning, tally = [], [], self._tally
        for piece in map(to_delta, items):
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

    def begin(self) -> bytes:
        """The chunk with the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def write(self, batch: list[Any]) -> Iterable[bytes]:
        """A chunk for each item of *batch*, but for calls: they wait for the end, when it is known whose they are."""
        texts = None if self._tally.pending else plain_texts(batch)
        if texts is None:
            return chain.from_iterable(map(self._of_item, batch))
        return (encode_texts(texts, *self._around_texts),) if texts else ()

    def finish(self) -> bytes:
        """The client's calls, the finish reason, and ``[DONE]``."""
        return b"".join(self._end())

    def fail(self, error: Exception) -> bytes:
        """An event of its own, which SDKs raise and UIs show; no finish reason says that the answer was complete."""
        body = OpenAIError(500, safe_str(error), type="server_error").body()["error"]
        return b"".join([b"data: ", encode_part({"error": body}), b"\n\n", DONE])

    def _of_item(self, item: Any) -> Iterator[bytes]:
        piece = to_delta(item)
        self._tally.take(piece)
        return self._of(piece)

    def _of(self, piece: Delta) -> Iterator[bytes]:
        if piece.content:
            yield encode_texts([piece.content], *self._around_texts)
        if piece.reasoning:
            yield self._chunk({"reasoning_content": piece.reasoning})
        if piece.event is not None:
            yield self._without_choice({"event": piece.event})

    def _end(self) -> Iterable[bytes]:
        for index, call in enumerate(self._tally.calls):
            yield self._chunk({"tool_calls": [{"index": index, **_call(call)}]})
        yield self._chunk({}, self._tally.finish_reason)
        if self._include_usage:
            yield self._without_choice({"usage": _usage(self._tally.usage)})
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


def _call(call: PendingCall) -> dict[str, Any]:
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
