"""OpenAI chat completions: from what a wrapper gives to what a client reads. Pure functions on items and iterators.

See https://platform.openai.com/docs/api-reference/chat for the shapes.
"""

import time
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from hayhooks.errors import PipelineError
from hayhooks.invoke import Stream
from hayhooks.logger import log

DONE = b"data: [DONE]\n\n"

# Haystack's own reason "tool_call_results" means that an Agent goes on, and "tool_calls" are those it makes itself.
_FINISH_REASONS = frozenset({"stop", "length", "content_filter"})


@dataclass(frozen=True, slots=True)
class Piece:
    """What one item of a wrapper's stream adds to the answer."""

    content: str | None = None  # None: it adds no text
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What is the same in all chunks of one answer, and in the whole answer."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, pieces: Iterable[Piece]) -> dict[str, Any]:
        """The ``chat.completion`` object of an answer that consists of *pieces*."""
        pieces = list(pieces)
        content = "".join(piece.content or "" for piece in pieces)
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(pieces)}
        return {**self._head("chat.completion"), "choices": [choice], "usage": None}

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        """One ``chat.completion.chunk`` as an event."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice]})

    async def events(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """The events of *stream*: role, one chunk for each piece of text, finish reason, ``[DONE]``.

        When the wrapper raises in the middle the status has been sent: the error is an event of its own, which SDKs
        raise and UIs show, and no finish reason says that the answer was complete.
        """
        reasons: list[Piece] = []
        ready = self.chunk({"role": "assistant", "content": ""})
        async with aclosing(stream):
            try:
                async for batch in stream:
                    for piece in map(piece_of, batch):
                        if piece.content is not None:
                            ready += self.chunk({"content": piece.content})
                        if piece.finish_reason:
                            reasons.append(piece)
                    if ready:
                        yield ready
                        ready = b""
                yield ready + self.chunk({}, _finish_reason(reasons)) + DONE
            except Exception as error:
                log.opt(exception=error).error("{}: the answer failed in mid-stream: {}", self.model, error)
                body = {"message": str(error), "type": "server_error", "param": None, "code": None}
                yield ready + _event({"error": body}) + DONE

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def piece_of(item: Any) -> Piece:
    """What *item* of a wrapper adds: a string, or a StreamingChunk, ChatMessage or the like of Haystack's.

    Raises:
        PipelineError: it is none of these.
    """
    if isinstance(item, str):
        return Piece(item)
    kind = type(item).__name__
    if kind == "StreamingChunk":
        # An Agent's tool calls and their results are chunks too; they are its own, and no part of the answer.
        own = item.tool_calls or item.tool_call_result or item.reasoning
        return Piece(None if own else item.content, _known(item.finish_reason))
    if kind == "ChatMessage":
        return Piece(item.text or "", _known(item.meta.get("finish_reason")))
    raise PipelineError(
        f"a chat completion cannot be made of a {type(item).__module__}.{kind}: "
        "return or yield str, StreamingChunk or ChatMessage",
        traceback="",
    )


def _finish_reason(pieces: Iterable[Piece]) -> str:
    reasons = [piece.finish_reason for piece in pieces if piece.finish_reason]
    return reasons[-1] if reasons else "stop"


def _known(reason: Any) -> str | None:
    return reason if reason in _FINISH_REASONS else None


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + to_json(data) + b"\n\n"
