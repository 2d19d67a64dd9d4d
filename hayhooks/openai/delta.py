"""Deltas: the items of a wrapper's answer in one form for both APIs.

    item ── normalize.to_delta ──> Delta ── DeltaAccumulator.add ──> tool calls, finish reason, usage

Text and reasoning go to the encoder at once.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

FINISH_REASONS = frozenset({"stop", "length", "content_filter", "tool_calls"})  # those that OpenAI's clients know


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A tool call or a part of one."""

    index: int  # tells calls of one message apart
    id: str | None
    name: str | None
    arguments: str  # JSON, or a part of it
    is_complete: bool = False  # no later item adds to it


class Delta(NamedTuple):
    """The part of an answer that one item adds."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    results: tuple[tuple[str | None, str], ...] = ()  # id and name of each call that an Agent has answered itself
    event: Mapping[str, Any] | None = None  # for the UI
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None  # token counts, as the model's provider names them
    source: tuple[Any, Any] | None = None  # type and name of the component that produced it, where known


@dataclass(slots=True)
class PendingCall:
    """A tool call that the client is to make."""

    id: str | None
    name: str
    arguments: str
    source: tuple[Any, Any] | None
    index: int
    has_ended: bool  # the model's message with the call has ended


class DeltaAccumulator:
    """Collect the calls, finish reason and usage, which are only known at the end."""

    def __init__(self) -> None:
        self._calls: list[PendingCall] = []
        self._reason: str | None = None
        self._usages: dict[Any, Mapping[str, Any]] = {}  # the last one of each model and step
        self._step = 0  # of an Agent, which asks its model again when it has the results of its tools

    def add(self, delta: Delta) -> None:
        """Add *delta*, in the order of the items."""
        for id_, name in delta.results:
            by_id = (call for call in self._calls if id_ is not None and call.id == id_)
            by_name = (call for call in self._calls if call.name == name)
            answered = next(by_id, None) or next(by_name, None)
            self._calls = [call for call in self._calls if call is not answered]
            self._step += 1
        if self._calls or delta.calls:
            if delta.source and (delta.content or delta.reasoning or delta.calls):
                self._calls = [call for call in self._calls if not (call.has_ended and call.source == delta.source)]
            for call_delta in delta.calls:
                self._extend(call_delta, delta.source)
            if delta.finish_reason:
                for call in self._calls:
                    call.has_ended = call.has_ended or call.source == delta.source
        if delta.usage:
            self._usages[self._step, delta.source] = delta.usage
        if delta.finish_reason:
            self._reason = delta.finish_reason

    @property
    def has_calls(self) -> bool:
        """Whether calls are pending, the client's or an Agent's own."""
        return bool(self._calls)

    @property
    def calls(self) -> list[PendingCall]:
        """The client's calls, with ids and arguments; complete after the last delta.

        An Agent's own calls are left out: a call is its own if its result follows, or if the same model goes on
        after the message with the call, because no model does that before it has the results.
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
    def usage(self) -> dict[str, Any]:
        """Sum of the token counts of all models and steps; empty if nobody has counted."""
        total: dict[str, Any] = {}
        for usage in self._usages.values():
            total = _sum(total, usage)
        return total

    def _extend(self, delta: CallDelta, source: tuple[Any, Any] | None) -> None:
        # Some models repeat id and name in every delta, and some give all calls the index 0. So another id or name
        # makes it another call.
        for call in reversed(self._calls):
            if not call.has_ended and (call.source, call.index) == (source, delta.index):
                if delta.id in (None, call.id) and delta.name in (None, "", call.name):
                    call.arguments += delta.arguments
                    return
                break
        self._calls.append(
            PendingCall(delta.id, delta.name or "", delta.arguments, source, delta.index, delta.is_complete)
        )


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    total = dict(one)
    for name, value in other.items():
        before = total.get(name)
        if isinstance(value, Mapping):
            total[name] = _sum(before if isinstance(before, Mapping) else {}, value)
        else:
            total[name] = value + (before if isinstance(before, int) else 0)
    return total
