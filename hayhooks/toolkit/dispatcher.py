"""Callbacks on a stream: tool calls that start and end, reasoning, components that end, the result."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from hayhooks.toolkit.conversations import parsed_arguments
from hayhooks.toolkit.events import PipelineEvent
from hayhooks.toolkit.observe import ComponentEnd

if TYPE_CHECKING:
    from haystack.dataclasses import StreamingChunk, ToolCallDelta

ToolCallbackReturn = PipelineEvent | str | list[PipelineEvent | str] | None

OnToolCallStart = Callable[[str, dict[str, Any], str | None], Any]
OnToolCallEnd = Callable[[str, dict[str, Any], Any, bool], Any]
OnReasoning = Callable[[str, dict[str, Any]], Any]
OnPipelineEnd = Callable[[Any], Any]
OnComponentEnd = Mapping[str, Callable[[Any], Any]]


class CallbackCall(partial[Any]):
    """A call of the user's callback *name*, which is due."""

    name: str

    @classmethod
    def of(cls, name: str, function: Callable[..., Any], *arguments: Any) -> "CallbackCall":
        """Make the call of *function* with *arguments*."""
        call = cls(function, *arguments)
        call.name = name
        return call


@dataclass(slots=True)
class CallbackDispatcher:
    """The user's callbacks, with the state of one stream that decides when they are due.

    It calls nothing: it yields calls without arguments, for a reader that may have to await them.
    """

    on_tool_call_start: "OnToolCallStart | None" = None
    on_tool_call_end: "OnToolCallEnd | None" = None
    on_reasoning: "OnReasoning | None" = None
    on_pipeline_end: "OnPipelineEnd | None" = None
    on_component_end: "OnComponentEnd" = field(default_factory=dict)
    _started: dict[tuple[str | None, int], str | None] = field(default_factory=dict)  # component, index -> id

    @property
    def need_await(self) -> bool:
        """Whether a callback is a coroutine function."""
        callbacks = (self.on_tool_call_start, self.on_tool_call_end, self.on_reasoning, self.on_pipeline_end)
        return any(map(inspect.iscoroutinefunction, (*callbacks, *self.on_component_end.values())))

    @property
    def need_items(self) -> bool:
        """Whether a callback depends on chunks, or on the end of a component."""
        return bool(self.on_tool_call_start or self.on_tool_call_end or self.on_reasoning or self.on_component_end)

    def before(self, item: Any) -> Iterator[CallbackCall]:
        """Yield the calls that are due before *item* is passed on; a ``ComponentEnd`` is not passed on."""
        if isinstance(item, ComponentEnd):
            yield CallbackCall.of(f"on_component_end of {item.name!r}", self.on_component_end[item.name], item.outputs)
        if not isinstance(item, _chunk_class()):
            return
        for delta in self._newly_started(item):
            if self.on_tool_call_start:
                started = (delta.tool_name or "", parsed_arguments(delta.arguments), delta.id)
                yield CallbackCall.of("on_tool_call_start", self.on_tool_call_start, *started)
        if self.on_tool_call_end and (ended := item.tool_call_result):
            call = ended.origin
            told = (call.tool_name, call.arguments, ended.result, bool(ended.error))
            yield CallbackCall.of("on_tool_call_end", self.on_tool_call_end, *told)
        if self.on_reasoning and item.reasoning:
            reasoning = item.reasoning
            yield CallbackCall.of("on_reasoning", self.on_reasoning, reasoning.reasoning_text, reasoning.extra)

    def at_end(self, result: Any) -> Iterator[CallbackCall]:
        """Yield the calls that are due when the pipeline has returned *result*."""
        if self.on_pipeline_end:
            yield CallbackCall.of("on_pipeline_end", self.on_pipeline_end, result)

    def _newly_started(self, chunk: "StreamingChunk") -> "Iterator[ToolCallDelta]":
        """Yield the deltas that name a call for the first time.

        Some models repeat the name in every delta, some give all calls the index 0, and an Agent counts from 0
        again in its next step. So a call is new when its index is, or when it brings an id of its own.
        """
        for delta in chunk.tool_calls or ():
            place = (chunk.component_info.name if chunk.component_info else None, delta.index)
            if delta.tool_name and (place not in self._started or delta.id not in (None, self._started[place])):
                self._started[place] = delta.id
                yield delta
        if chunk.finish_reason or chunk.tool_call_result:
            self._started.clear()


def outputs(returned: Any) -> list[Any]:
    """Turn what a callback returned or yielded into items: strings become chunks; None and "" are dropped."""
    items = returned if isinstance(returned, list | tuple | GeneratorType) else [returned]
    return [
        _chunk_class()(content=item) if isinstance(item, str) else item
        for item in items
        if item is not None and item != ""
    ]


@cache
def _chunk_class() -> "type[StreamingChunk]":
    # Haystack takes a second to import, and the command line imports this module.
    from haystack.dataclasses.streaming_chunk import StreamingChunk  # noqa: PLC0415

    return StreamingChunk
