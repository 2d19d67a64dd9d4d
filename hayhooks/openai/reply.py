"""OpenAI Responses: from what a wrapper gives to what a client reads. No IO, and no waiting.

See https://platform.openai.com/docs/api-reference/responses for the shapes, and -streaming there for the events.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from hayhooks.errors import safe_str
from hayhooks.http.json import encode_part
from hayhooks.openai.delta import Delta, DeltaAccumulator, PendingCall
from hayhooks.openai.normalize import response_of, to_delta

# What a response repeats of its request: the field, the type that it must have to be repeated, and what stands there
# else. Only model and input mean something to us; the wrapper gets them all.
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

# Why an answer ends early, in the words of chat completions and of Responses.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


@dataclass(slots=True)
class _Item:
    """A message or a reasoning item that is being written."""

    kind: str
    id: str
    before: bytes = b""  # of a delta event, up to its sequence number
    texts: list[str] = field(default_factory=list)


class ResponsesEncoder:
    """One response: its output items as they are written, and the events that tell of it.

    Text and reasoning become an item each, in the order in which they come; tool calls follow at the end, when it is
    known whose they are.
    """

    def __init__(self, model: str, body: Mapping[str, Any]) -> None:
        self._head = {"id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time())}
        self._model = model
        self._repeated = {name: _repeated(body.get(name), types, other) for name, types, other in _REPEATED}
        self._output: list[dict[str, Any]] = []  # the items that are complete
        self._open: _Item | None = None
        self._tally = DeltaAccumulator()
        self._sequence_number = 0  # of the next event

    def whole(self, items: Iterable[Any]) -> bytes:
        """The ``response`` object of an answer that consists of *items*.

        Raises:
            PipelineError: one of them is of no use.
        """
        items = list(items)
        given = response_of(items[0]) if len(items) == 1 else None
        if given is not None:
            return encode_part({**self._response("completed"), **given})
        for item in items:
            self._take(to_delta(item))
        self._finish()
        return encode_part(self._response(self._status))

    def begin(self) -> bytes:
        """``response.created`` and ``response.in_progress``."""
        begun = self._response("in_progress")
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def write(self, batch: list[Any]) -> Iterable[bytes]:
        """The deltas of *batch*, and what begins and ends around them."""
        return chain.from_iterable(self._take(to_delta(item)) for item in batch)

    def finish(self) -> bytes:
        """The client's calls and ``response.completed``, or ``response.incomplete`` when the model was stopped."""
        events = self._finish()
        return b"".join([*events, self._event(f"response.{self._status}", response=self._response(self._status))])

    def fail(self, error: Exception) -> bytes:
        """``response.failed``."""
        return b"".join(self._fail(error))

    def _take(self, piece: Delta) -> Iterable[bytes]:
        """Write *piece* down, and give the events that tell of it."""
        self._tally.take(piece)
        events: list[bytes] = []
        if piece.reasoning:
            events += self._write("reasoning", piece.reasoning)
        if piece.content:
            events += self._write("message", piece.content)
        if piece.event is not None:
            events.append(self._event("response.event", event=piece.event))
        return events

    def _write(self, kind: str, text: str) -> Iterator[bytes]:
        if self._open is None or self._open.kind != kind:
            yield from self._close("completed")
            yield from self._begin(kind)
        assert self._open is not None
        self._open.texts.append(text)
        # Two deltas differ in number and text alone: what stands around them is encoded once.
        number, self._sequence_number = self._sequence_number, self._sequence_number + 1
        yield b'%b%d,"delta":%b}\n\n' % (self._open.before, number, encode_part(text))

    def _begin(self, kind: str) -> Iterator[bytes]:
        prefix, delta = ("msg", "response.output_text.delta")
        if kind == "reasoning":
            prefix, delta = ("rs", "response.reasoning_summary_text.delta")
        self._open = item = _Item(kind, f"{prefix}_{uuid.uuid4().hex}")
        fields = {"type": delta, **self._place(item), **({"logprobs": []} if kind == "message" else {})}
        item.before = b'event: %b\ndata: %b,"sequence_number":' % (delta.encode(), encode_part(fields)[:-1])
        yield self._event("response.output_item.added", item=_item(item, "in_progress", []), output_index=self._index)
        name = "response.content_part.added" if kind == "message" else "response.reasoning_summary_part.added"
        yield self._event(name, **self._place(item), part=_part(kind, ""))

    def _close(self, status: str) -> Iterator[bytes]:
        """End the item that is being written, if there is one."""
        item, self._open = self._open, None
        if item is None:
            return
        place, text = self._place(item), "".join(item.texts)
        part = _part(item.kind, text)
        if item.kind == "message":
            yield self._event("response.output_text.done", **place, text=text, logprobs=[])
            yield self._event("response.content_part.done", **place, part=part)
        else:
            yield self._event("response.reasoning_summary_text.done", **place, text=text)
            yield self._event("response.reasoning_summary_part.done", **place, part=part)
        yield from self._done(_item(item, status, [part]))

    def _done(self, item: dict[str, Any]) -> Iterator[bytes]:
        yield self._event("response.output_item.done", item=item, output_index=self._index)
        self._output.append(item)

    def _finish(self) -> list[bytes]:
        """Write what is only known at the end: the client's tool calls, or that there is no text at all."""
        events = list(self._close("completed" if self._status == "completed" else "incomplete"))
        calls = self._tally.calls
        for call in calls:
            events += self._call(call)
        if not calls and not any(item["type"] == "message" for item in self._output):
            events += [*self._begin("message"), *self._close("completed")]
        return events

    def _call(self, call: PendingCall) -> Iterator[bytes]:
        item = {
            "id": f"fc_{uuid.uuid4().hex}",
            "type": "function_call",
            "status": "in_progress",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
        }
        place = {"item_id": item["id"], "output_index": self._index}
        yield self._event("response.output_item.added", item=item, output_index=self._index)
        yield self._event("response.function_call_arguments.delta", **place, delta=call.arguments)
        yield self._event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        yield from self._done({**item, "status": "completed", "arguments": call.arguments})

    def _fail(self, error: Exception) -> Iterator[bytes]:
        yield from self._close("incomplete")
        failed = {**self._response("failed"), "error": {"code": "server_error", "message": safe_str(error)}}
        yield self._event("response.failed", response=failed)

    @property
    def _index(self) -> int:
        """Of the item that is being written."""
        return len(self._output)

    def _place(self, item: _Item) -> dict[str, Any]:
        part = "content_index" if item.kind == "message" else "summary_index"
        return {"item_id": item.id, "output_index": self._index, part: 0}

    @property
    def _status(self) -> str:
        """Of the response when all is written."""
        return "incomplete" if self._tally.finish_reason in _INCOMPLETE else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        reason = _INCOMPLETE.get(self._tally.finish_reason) if status == "incomplete" else None
        return {
            **self._head,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self._model,
            "output": self._output,
            **self._repeated,
            "usage": _usage(self._tally.usage),
        }

    def _event(self, name: str, /, **fields: Any) -> bytes:
        number, self._sequence_number = self._sequence_number, self._sequence_number + 1
        data = encode_part({"type": name, "sequence_number": number, **fields})
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _item(item: _Item, status: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
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


def _usage(counts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """*counts* by the names that Responses have for them; most providers use those of chat completions."""
    if counts is None:
        return None
    given = counts.get("input_tokens", counts.get("prompt_tokens", 0))
    made = counts.get("output_tokens", counts.get("completion_tokens", 0))
    of_input = counts.get("input_tokens_details") or counts.get("prompt_tokens_details") or {}
    of_output = counts.get("output_tokens_details") or counts.get("completion_tokens_details") or {}
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, **of_input},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0, **of_output},
        "total_tokens": counts.get("total_tokens", given + made),
    }
