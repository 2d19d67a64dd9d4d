"""Encoder of OpenAI's Responses: a ``response`` object, or the events that build it.

The shapes are those of https://platform.openai.com/docs/api-reference/responses, the events those of -streaming there.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from hayhooks.errors import safe_str
from hayhooks.http.json import encode_part
from hayhooks.openai.delta import Delta, DeltaAccumulator
from hayhooks.openai.endpoint import AnswerEncoder
from hayhooks.openai.normalize import response_of, to_delta
from hayhooks.openai.recent_items import RecentItems

RECENT_ITEMS = RecentItems(max_bytes=16 * 2**20)

# The request's fields that the response repeats: name, type, and the value if the request's is of another type.
_REPEATED: tuple[tuple[str, type | tuple[type, ...], Any], ...] = (
    ("background", bool, False),
    ("instructions", str, None),
    ("max_output_tokens", int, None),
    ("max_tool_calls", int, None),
    ("metadata", dict, {}),
    ("parallel_tool_calls", bool, True),
    ("previous_response_id", str, None),
    ("prompt_cache_key", str, None),
    ("reasoning", dict, {"effort": None, "summary": None}),
    ("safety_identifier", str, None),
    ("service_tier", str, "default"),
    ("store", bool, False),
    ("temperature", (int, float), 1.0),
    ("text", dict, {"format": {"type": "text"}}),
    ("tool_choice", (str, dict), "auto"),
    ("tools", list, []),
    ("top_logprobs", int, 0),
    ("top_p", (int, float), 1.0),
    ("truncation", str, "disabled"),
    ("user", str, None),
)

# Why an answer is incomplete: chat completions' finish reason -> the reason in Responses.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


@dataclass(slots=True)
class _Item:
    """A message or a reasoning item to which text is still added."""

    kind: str
    id: str
    delta_head: bytes = b""  # of its delta events: the bytes before the sequence number
    texts: list[str] = field(default_factory=list)


class ResponsesEncoder(AnswerEncoder):
    """Encode one answer as a ``response`` object, or as the events that build it.

    Text and reasoning become items in their order; the client's tool calls follow at the end.
    """

    def __init__(self, model: str, body: Mapping[str, Any]) -> None:
        self._head = {"id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time())}
        self._model = model
        self._is_kept = body.get("store") is not False
        self._repeated = {name: _repeated(body.get(name), types, other) for name, types, other in _REPEATED}
        self._output: list[dict[str, Any]] = []  # the items that are complete
        self._events: list[Mapping[str, Any]] = []  # for the UI
        self._open: _Item | None = None
        self._accumulator = DeltaAccumulator()
        self._sequence_number = 0  # of the next event
        self.final: dict[str, Any] | None = None  # the streamed response, once all of it has come

    def unfinished_object(self, status: str) -> dict[str, Any]:
        """Return the ``response`` object of an answer that has not begun."""
        return self._response(status)

    def ready_object(self, item: Any) -> dict[str, Any] | None:
        """Return *item* if it is a whole response, with missing fields added."""
        response = response_of(item)
        if response is None:
            return None
        return {**self._response("completed"), **response, "usage": response.get("usage") or _usage({})}

    def answer_object(self, deltas: Iterable[Delta]) -> dict[str, Any]:
        """Return the ``response`` object that *deltas* add up to."""
        for delta in deltas:
            self._add(delta)
        self._finish_output()
        return self._response(self._status)

    def begin(self) -> bytes:
        """Return ``response.created`` and ``response.in_progress``."""
        response = self._response("in_progress")
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def write(self, batch: list[Any]) -> Iterable[bytes]:
        """Yield the events of *batch*, with those that begin and end items."""
        return chain.from_iterable(self._add(to_delta(item)) for item in batch)

    def finish(self) -> bytes:
        """Return the client's calls and ``response.completed`` or ``.incomplete``."""
        events = self._finish_output()
        self.final = self._response(self._status)
        return b"".join([*events, self._event(f"response.{self._status}", response=self.final)])

    def fail(self, error: Exception) -> bytes:
        """Return ``response.failed``."""
        events = list(self._close("incomplete"))
        failed = {**self._response("failed"), "error": {"code": "server_error", "message": safe_str(error)}}
        return b"".join([*events, self._event("response.failed", response=failed)])

    def _add(self, delta: Delta) -> list[bytes]:
        """Add *delta* to the response, and return its events."""
        self._accumulator.add(delta)
        events: list[bytes] = []
        if delta.reasoning:
            events += self._append("reasoning", delta.reasoning)
        if delta.content:
            events += self._append("message", delta.content)
        if delta.event is not None:
            self._events.append(delta.event)
            events.append(self._event("response.event", event=delta.event))
        return events

    def _append(self, kind: str, text: str) -> Iterator[bytes]:
        """Append *text* to the open item; one of another *kind* is closed first."""
        if self._open is None or self._open.kind != kind:
            yield from self._close("completed")
            yield from self._begin_item(kind)
        assert self._open is not None
        self._open.texts.append(text)
        number, self._sequence_number = self._sequence_number, self._sequence_number + 1
        # Deltas of one item differ in number and text alone: the rest is encoded once.
        yield b'%b%d,"delta":%b}\n\n' % (self._open.delta_head, number, encode_part(text))

    def _begin_item(self, kind: str) -> Iterator[bytes]:
        prefix, delta = ("msg", "response.output_text.delta")
        if kind == "reasoning":
            prefix, delta = ("rs", "response.reasoning_summary_text.delta")
        self._open = item = _Item(kind, f"{prefix}_{uuid.uuid4().hex}")
        fields = {"type": delta, **self._position(item), **({"logprobs": []} if kind == "message" else {})}
        item.delta_head = b'event: %b\ndata: %b,"sequence_number":' % (delta.encode(), encode_part(fields)[:-1])
        yield self._event(
            "response.output_item.added", item=_item_object(item, "in_progress", []), output_index=len(self._output)
        )
        name = "response.content_part.added" if kind == "message" else "response.reasoning_summary_part.added"
        yield self._event(name, **self._position(item), part=_part(kind, ""))

    def _close(self, status: str) -> Iterator[bytes]:
        item, self._open = self._open, None
        if item is None:
            return
        position, text = self._position(item), "".join(item.texts)
        part = _part(item.kind, text)
        if item.kind == "message":
            yield self._event("response.output_text.done", **position, text=text, logprobs=[])
            yield self._event("response.content_part.done", **position, part=part)
        else:
            yield self._event("response.reasoning_summary_text.done", **position, text=text)
            yield self._event("response.reasoning_summary_part.done", **position, part=part)
        yield self._item_done(_item_object(item, status, [part]))

    def _item_done(self, item: dict[str, Any]) -> bytes:
        event = self._event("response.output_item.done", item=item, output_index=len(self._output))
        self._output.append(item)
        return event

    def _finish_output(self) -> list[bytes]:
        """Add the client's calls; without calls and message, add an empty message."""
        events = list(self._close("completed" if self._status == "completed" else "incomplete"))
        calls = self._accumulator.calls
        for call in calls:
            item = {
                "id": f"fc_{uuid.uuid4().hex}",
                "type": "function_call",
                "status": "in_progress",
                "call_id": call.id,
                "name": call.name,
                "arguments": "",
            }
            position = {"item_id": item["id"], "output_index": len(self._output)}
            done = {"name": call.name, "arguments": call.arguments}
            events += [
                self._event("response.output_item.added", item=item, output_index=len(self._output)),
                self._event("response.function_call_arguments.delta", **position, delta=call.arguments),
                self._event("response.function_call_arguments.done", **position, **done),
                self._item_done({**item, "status": "completed", "arguments": call.arguments}),
            ]
        if not calls and not any(item["type"] == "message" for item in self._output):
            events += [*self._begin_item("message"), *self._close("completed")]
        if self._is_kept:
            RECENT_ITEMS.keep(self._output)
        return events

    def _position(self, item: _Item) -> dict[str, Any]:
        part = "content_index" if item.kind == "message" else "summary_index"
        return {"item_id": item.id, "output_index": len(self._output), part: 0}

    @property
    def _status(self) -> str:
        return "incomplete" if self._accumulator.finish_reason in _INCOMPLETE else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        reason = _INCOMPLETE.get(self._accumulator.finish_reason) if status == "incomplete" else None
        return {
            **self._head,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self._model,
            "output": self._output,
            **self._repeated,
            "usage": _usage(self._accumulator.usage) if status in ("completed", "incomplete") else None,
            **({"events": self._events} if self._events else {}),
        }

    def _event(self, name: str, /, **fields: Any) -> bytes:
        number, self._sequence_number = self._sequence_number, self._sequence_number + 1
        data = encode_part({"type": name, "sequence_number": number, **fields})
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _item_object(item: _Item, status: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    head = {"id": item.id, "type": item.kind, "status": status}
    return {**head, "role": "assistant", "content": parts} if item.kind == "message" else {**head, "summary": parts}


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "message":
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    return {"type": "summary_text", "text": text}


def _repeated(value: Any, types: type | tuple[type, ...], other: Any) -> Any:
    if isinstance(value, bool) and types is not bool:  # to Python True is an int
        return other
    return value if isinstance(value, types) else other


def _usage(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Name *counts* as Responses does; most providers name them as chat completions."""
    inputs = counts.get("input_tokens", counts.get("prompt_tokens", 0))
    outputs = counts.get("output_tokens", counts.get("completion_tokens", 0))
    input_details = counts.get("input_tokens_details") or counts.get("prompt_tokens_details") or {}
    output_details = counts.get("output_tokens_details") or counts.get("completion_tokens_details") or {}
    return {
        "input_tokens": inputs,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, **input_details},
        "output_tokens": outputs,
        "output_tokens_details": {"reasoning_tokens": 0, **output_details},
        "total_tokens": counts.get("total_tokens", inputs + outputs),
    }
