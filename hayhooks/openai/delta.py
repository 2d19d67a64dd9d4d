"""Pieces: what an answer is made of, whichever API asks for it.

item ── items.piece_of ──> Piece ── Tally.take ──> what is only known at the end: tool calls, finish reason, usage
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

FINISH_REASONS = frozenset({"stop", "length", "content_filter", "tool_calls"})  # those that OpenAI's clients know


class CallDelta(NamedTuple):
    """A tool call, or what one item adds to it."""

    place: int  # tells calls of one message apart
    id: str | None
    name: str | None
    arguments: str  # JSON, or a part of it
    whole: bool = False  # nothing will be added to it


class Delta(NamedTuple):
    """What one item adds to an answer."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    results: tuple[tuple[str | None, str], ...] = ()  # id and name of each call that an Agent has answered itself
    event: Mapping[str, Any] | None = None  # for the UI
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None  # token counts, as the model's provider names them
    source: tuple[Any, Any] | None = None  # the component that it comes from, where that is known


@dataclass(slots=True)
class PendingCall:
    """A tool call that the client is to make."""

    id: str | None
    name: str
    arguments: str
    source: tuple[Any, Any] | None
    place: int
    ended: bool  # the model's message that it stands in has ended


class DeltaAccumulator:
    """What an answer comes to beside its text, from all of its pieces."""

    def __init__(self) -> None:
        self._calls: list[PendingCall] = []
        self._reason: str | None = None
        self._usages: dict[Any, Mapping[str, Any]] = {}  # the last one of each model and step
        self._step = 0  # of an Agent, which asks its model again when it has the results of its tools

    def take(self, piece: Delta) -> None:
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
    def pending(self) -> bool:
        """Whether there are calls that may still turn out to be an Agent's own: then every item counts."""
        return bool(self._calls)

    @property
    def calls(self) -> list[PendingCall]:
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

    def _follow_calls(self, piece: Delta) -> None:
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
        self._calls.append(PendingCall(delta.id, delta.name or "", delta.arguments, source, delta.place, delta.whole))

    def _answered(self, id_: str | None, name: str) -> None:
        for call in self._calls:
            if id_ is not None and call.id == id_:
                break
        else:
            call = next((call for call in self._calls if call.name == name), None)  # type: ignore[assignment]
        self._calls = [other for other in self._calls if other is not call]


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    total = dict(one)
    for name, value in other.items():
        before = total.get(name)
        if isinstance(value, Mapping):
            total[name] = _added(before if isinstance(before, Mapping) else {}, value)
        else:
            total[name] = value + (before if isinstance(before, int) else 0)
    return total
