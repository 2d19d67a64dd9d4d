"""Pieces: what the items that a wrapper gives add to an answer, whichever API asks for it.

    item ── piece_of ──> Piece ── Tally.take ──> what is only known at the end: tool calls, finish reason, usage

Pure functions on items. Haystack's classes are known by name and OpenAI's by shape, for neither is imported here.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hayhooks.errors import PipelineError

# Haystack's own reason "tool_call_results" means that an Agent goes on.
_FINISH_REASONS = frozenset({"stop", "length", "content_filter", "tool_calls"})
_TEXT_PARTS = frozenset({"text", "output_text", "refusal", None})  # types of the parts of a content array


class CallDelta(NamedTuple):
    """A tool call, or what one item adds to it."""

    place: int  # tells calls of one message apart
    id: str | None
    name: str | None
    arguments: str  # JSON, or a part of it
    whole: bool = False  # nothing will be added to it


class Piece(NamedTuple):
    """What one item adds to an answer."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    results: tuple[tuple[str | None, str], ...] = ()  # id and name of each call that an Agent has answered itself
    event: Mapping[str, Any] | None = None  # for the UI
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None  # token counts, as the model's provider names them
    source: tuple[Any, Any] | None = None  # the component that it comes from, where that is known


def piece_of(item: Any) -> Piece:
    """What *item* of a wrapper adds.

    Args:
        item: a string; a ``StreamingChunk`` or ``ChatMessage`` of Haystack's; an event for the UI, ``PipelineEvent`` or
            ``{"type": str, "data": ...}``; a chunk, completion or message of OpenAI's, as object or as dict.

    Raises:
        PipelineError: it is none of these.
    """
    if isinstance(item, str):
        return Piece(item)
    kind = type(item).__name__
    if kind == "StreamingChunk":
        return _of_chunk(item)
    if kind == "ChatMessage":
        return _of_message(item)
    if (event := _event(item)) is not None:
        return Piece(event=event)
    piece = _of_openai(plain) if (plain := _plain(item)) is not None else None
    if piece is None:
        raise PipelineError(
            f"an answer cannot be made of a {type(item).__module__}.{kind}: return or yield str, StreamingChunk, "
            "ChatMessage, PipelineEvent or what has the shape of an OpenAI message or chunk",
            traceback="",
        )
    return piece


def completion_of(item: Any) -> dict[str, Any] | None:
    """*item* as a dict, if it is a whole chat completion of OpenAI's: a wrapper may make all of the answer itself."""
    plain = None if isinstance(item, str) else _plain(item)
    choices = plain.get("choices") if plain else None
    whole = (
        isinstance(choices, list) and choices and all(isinstance(_get(choice, "message"), dict) for choice in choices)
    )
    return plain if whole else None


def response_of(item: Any) -> dict[str, Any] | None:
    """*item* as a dict, if it is a whole response of OpenAI's; as ``completion_of``."""
    plain = None if isinstance(item, str) else _plain(item)
    return plain if plain and plain.get("object") == "response" and isinstance(plain.get("output"), list) else None


@dataclass(slots=True)
class Call:
    """A tool call that the client is to make."""

    id: str | None
    name: str
    arguments: str
    source: tuple[Any, Any] | None
    place: int
    ended: bool  # the model's message that it stands in has ended


class Tally:
    """What an answer comes to beside its text, from all of its pieces."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._reason: str | None = None
        self._usages: dict[Any, Mapping[str, Any]] = {}  # the last one of each model and step
        self._step = 0  # of an Agent, which asks its model again when it has the results of its tools

    def take(self, piece: Piece) -> None:
        """Count *piece* in."""
        for id_, name in piece.results:
            self._answered(id_, name)
            self._step += 1
        if self._calls or piece.calls:
            self._follow_calls(piece)
        if piece.usage:
            self._usages[self._step, piece.source] = piece.usage
        if piece.finish_reason:
            self._reason = piece.finish_reason

    @property
    def calls(self) -> list[Call]:
        """The calls that are the client's, complete with ids and arguments; to be asked for when all is counted in.

        An Agent's own are not among them: a call is its own when its result follows, or when the same model speaks
        again after the message with the call, for no model does that before it has the results.
        """
        for call in self._calls:
            call.id = call.id or f"call_{uuid.uuid4().hex}"
            call.arguments = call.arguments or "{}"
        return self._calls

    @property
    def finish_reason(self) -> str:
        """The pipeline's own, else ``tool_calls`` if calls are pending, else ``stop``."""
        if self._reason in ("length", "content_filter"):
            return self._reason
        return "tool_calls" if self._calls else "stop"

    @property
    def usage(self) -> dict[str, Any] | None:
        """The sum over all models and steps; None if nobody told."""
        total: dict[str, Any] = {}
        for usage in self._usages.values():
            total = _added(total, usage)
        return total or None

    def _follow_calls(self, piece: Piece) -> None:
        if piece.source and (piece.content or piece.reasoning or piece.calls):
            self._calls = [call for call in self._calls if not (call.ended and call.source == piece.source)]
        for delta in piece.calls:
            self._extend(delta, piece.source)
        if piece.finish_reason:
            for call in self._calls:
                call.ended = call.ended or call.source == piece.source

    def _extend(self, delta: CallDelta, source: tuple[Any, Any] | None) -> None:
        """Add *delta* to the call that it continues.

        Some models repeat id and name in every delta, and some give all calls the index 0: another id or name makes it
        another call.
        """
        for call in reversed(self._calls):
            if not call.ended and (call.source, call.place) == (source, delta.place):
                if delta.id in (None, call.id) and delta.name in (None, "", call.name):
                    call.arguments += delta.arguments
                    return
                break
        self._calls.append(Call(delta.id, delta.name or "", delta.arguments, source, delta.place, delta.whole))

    def _answered(self, id_: str | None, name: str) -> None:
        for call in self._calls:
            if id_ is not None and call.id == id_:
                break
        else:
            call = next((call for call in self._calls if call.name == name), None)  # type: ignore[assignment]
        self._calls = [other for other in self._calls if other is not call]


def _of_chunk(chunk: Any) -> Piece:
    """Of Haystack's ``StreamingChunk``: content, tool calls, tool result or reasoning, and what comes with it."""
    meta, info, reasoning, result = chunk.meta, chunk.component_info, chunk.reasoning, chunk.tool_call_result
    return Piece(
        chunk.content,
        reasoning.reasoning_text if reasoning else "",
        tuple(CallDelta(c.index, c.id, c.tool_name, c.arguments or "") for c in chunk.tool_calls or ()),
        ((result.origin.id, result.origin.tool_name),) if result else (),
        None,
        chunk.finish_reason if chunk.finish_reason in _FINISH_REASONS else None,
        _usage(meta) if meta else None,
        (info.type, info.name) if info else None,
    )


def _of_message(message: Any) -> Piece:
    calls = (
        CallDelta(index, call.id, call.tool_name, json.dumps(call.arguments, ensure_ascii=False), whole=True)
        for index, call in enumerate(message.tool_calls)
    )
    return Piece(
        content="".join(message.texts),
        reasoning="".join(reasoning.reasoning_text for reasoning in message.reasonings),
        calls=tuple(calls),
        results=tuple((result.origin.id, result.origin.tool_name) for result in message.tool_call_results),
        finish_reason=_known(message.meta.get("finish_reason")),
        usage=_usage(message.meta),
    )


def _event(item: Any) -> Mapping[str, Any] | None:
    """*item* as an event for the UI, if it is one: it has a type and data."""
    if isinstance(item, Mapping):
        return item if isinstance(item.get("type"), str) and "data" in item else None
    if isinstance(getattr(item, "type", None), str) and hasattr(item, "data"):
        return {"type": item.type, "data": item.data}
    return None


def _plain(item: Any) -> dict[str, Any] | None:
    """*item* as a dict: it is one, or an object of OpenAI's client."""
    if isinstance(item, Mapping):
        return dict(item)
    dump = getattr(item, "model_dump", None)
    return dump(exclude_unset=True) if callable(dump) and not isinstance(item, type) else None


def _of_openai(item: dict[str, Any]) -> Piece | None:
    """Of a chunk, a completion or a message; None if it is none of them. Of several choices the first is the answer."""
    choices = item.get("choices")
    if not isinstance(choices, list):
        return _of_delta(item) if item.keys() & {"content", "tool_calls", "reasoning_content"} else None
    event = item.get("event")
    piece = Piece(event=event if isinstance(event, Mapping) else None, usage=_usage(item))
    choice = next((choice for choice in choices if isinstance(choice, Mapping)), None)
    if choice is None:
        return piece
    delta = choice.get("delta") or choice.get("message") or {}
    added = _of_delta(delta) if isinstance(delta, Mapping) else Piece()
    return added._replace(event=piece.event, usage=piece.usage, finish_reason=_known(choice.get("finish_reason")))


def _of_delta(delta: Mapping[str, Any]) -> Piece:
    calls = delta.get("tool_calls")
    whole = "role" in delta and not any("index" in call for call in calls or () if isinstance(call, Mapping))
    reasoning = delta.get("reasoning_content") or delta.get("reasoning")
    return Piece(
        content=_text(delta.get("content")) or _text(delta.get("refusal")),
        reasoning=reasoning if isinstance(reasoning, str) else "",
        calls=tuple(_openai_calls(calls, whole=whole)) if isinstance(calls, list | tuple) else (),
    )


def _openai_calls(calls: Iterable[Any], *, whole: bool) -> Iterator[CallDelta]:
    for position, call in enumerate(calls):
        function = _get(call, "function")
        index, arguments = _get(call, "index"), _get(function, "arguments")
        yield CallDelta(
            index if isinstance(index, int) else position,
            _string(_get(call, "id")),
            _string(_get(function, "name")),
            arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else "",
            whole,
        )


def _text(content: Any) -> str:
    """The text of a message's content: a string, or parts of which some are text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = (_get(part, "text") or _get(part, "refusal") for part in parts if _get(part, "type") in _TEXT_PARTS)
    return "".join(text for text in texts if isinstance(text, str))


def _usage(meta: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The token counts in a chunk's meta; Haystack's OpenAI Responses generator has them in the response there."""
    usage = meta.get("usage") or _get(meta.get("response"), "usage")
    usage = _plain(usage) if usage else None
    return _counts(usage) if usage else None


def _counts(usage: Mapping[str, Any]) -> dict[str, Any]:
    """*usage* without what is no count."""
    counts: dict[str, Any] = {}
    for name, value in usage.items():
        if isinstance(value, Mapping):
            counts[name] = _counts(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            counts[name] = value
    return counts


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    total = dict(one)
    for name, value in other.items():
        before = total.get(name)
        if isinstance(value, Mapping):
            total[name] = _added(before if isinstance(before, Mapping) else {}, value)
        else:
            total[name] = value + (before if isinstance(before, int) else 0)
    return total


def _known(reason: Any) -> str | None:
    return reason if isinstance(reason, str) and reason in _FINISH_REASONS else None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None
