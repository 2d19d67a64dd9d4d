"""Traces: what the last requests did, span by span, kept in memory for ``/traces``."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from itertools import islice
from typing import Any

from hayhooks.errors import safe_str, sendable, shortened
from hayhooks.observability.request_record import RequestRecord

_MAX_SPANS = 500  # of one request
_MAX_SOCKETS = 50  # of one span
_MAX_SHAPE = 200  # characters
_MAX_ITEMS = 100  # of a list, whose types are told
_MAX_CONTENT = 2_000  # characters

_KINDS = {  # by the beginning of Haystack's name of the operation; the first that fits
    "haystack.pipeline.run": "pipeline",
    "haystack.async_pipeline.run": "pipeline",
    "haystack.agent.step.tool": "tool",
    "haystack.agent.step.llm": "component",
    "haystack.agent": "agent",
    "haystack.component.run": "component",
    "haystack.chat_generator": "component",
}


class Span:
    """One step of a request. It refers to nothing of the user's."""

    __slots__ = ("error", "inputs", "kind", "name", "outputs", "parent", "start_ms", "took_ms", "type")

    def __init__(self, name: str, kind: str, type_: str, parent: "Span | None", start_ms: float) -> None:
        self.name = name
        self.kind = kind  # request, pipeline, component, agent, tool or other
        self.type = type_  # the class of a component
        self.parent = parent  # the span around it
        self.start_ms = start_ms  # since the request's headers
        self.took_ms: float | None = None  # until it has ended
        self.error = ""
        self.inputs: dict[str, str] = {}
        self.outputs: dict[str, str] = {}


class Trace:
    """The spans of one request; the first is the request itself."""

    def __init__(self) -> None:
        self._began_at = time.perf_counter()
        self.spans = [Span("request", "request", "", None, 0.0)]
        self.facts: dict[str, Any] = {}  # of the request, once it has ended

    def now_ms(self) -> float:
        """Return the time since the request's headers."""
        return round((time.perf_counter() - self._began_at) * 1000, 3)

    def start(self, operation: str, tags: Mapping[str, Any], parent: Span | None) -> Span | None:
        """Begin a span within *parent*, or the request; None if there are too many."""
        if len(self.spans) >= _MAX_SPANS:
            return None
        kind = next((kind for begin, kind in _KINDS.items() if operation.startswith(begin)), "other")
        name = tags.get("haystack.component.name") or tags.get("haystack.tool.name") or operation.rpartition(".")[2]
        if (number := tags.get("haystack.agent.step")) is not None:
            name = f"step {number}"
        type_ = str(tags.get("haystack.component.type") or "")
        around = parent or self.spans[0]
        span = Span(sendable(shortened(str(name), _MAX_SHAPE)), kind, sendable(type_), around, self.now_ms())
        self.spans.append(span)
        return span

    def summary(self) -> dict[str, Any]:
        """Return the facts of the request, and how many spans there are."""
        return {**self.facts, "spans": len(self.spans)}

    def as_dict(self) -> dict[str, Any]:
        """Return the facts of the request, and its spans, each with the position of the one around it."""
        spans = self.spans.copy()  # other threads may add to them
        positions = {id(span): position for position, span in enumerate(spans)}
        return {
            **self.facts,
            "spans": [
                {name: getattr(span, name) for name in Span.__slots__}
                | {"parent": positions.get(id(span.parent), 0) if span.parent else None}
                for span in spans
            ],
        }


current_trace: ContextVar[Trace | None] = ContextVar("hayhooks_trace", default=None)


class Traces:
    """The traces of the last requests to pipelines, at most *limit*; on the event loop."""

    def __init__(self, limit: int) -> None:
        self._traces: deque[Trace] = deque(maxlen=limit)

    def begin(self, record: RequestRecord, scope: Mapping[str, Any]) -> None:
        """Trace what runs in this context, and in the threads and tasks that it begins."""
        current_trace.set(Trace())

    def end(self, record: RequestRecord) -> None:
        """Keep the trace of a request to a pipeline."""
        trace = current_trace.get()
        if trace is None or not record.pipeline:
            return
        current_trace.set(None)
        request = trace.spans[0]
        request.name, request.error = f"{record.method} {record.path}", record.error
        request.took_ms = round(record.took_s * 1000, 3)
        trace.facts = {
            "id": record.id,
            "trace_id": record.trace_id,
            "at": record.ended_at - record.took_s,
            "method": record.method,
            "path": record.path,
            "pipeline": record.pipeline,
            "revision": record.revision,
            "status": record.status,
            "took_ms": request.took_ms,
            "chunks": record.chunks,
            "cancelled": record.cancelled,
            "error": record.error,
        }
        self._traces.append(trace)

    def find(self, request_id: str) -> Trace | None:
        """Return the newest trace with that id."""
        return next((trace for trace in reversed(self._traces) if trace.facts["id"] == request_id), None)

    def newest_first(self) -> Iterator[Trace]:
        """Yield the traces."""
        return reversed(self._traces)


def describe(values: Any, *, with_content: bool) -> dict[str, str]:
    """Return the shape of each of *values*, or their content."""
    items = values.items() if type(values) is dict else [("value", values)]
    described = {}
    for name, value in islice(items, _MAX_SOCKETS):
        text = shortened(safe_str(value), _MAX_CONTENT) if with_content else shape(value)
        described[sendable(shortened(str(name), _MAX_SHAPE))] = sendable(text)
    return described


def shape(value: Any) -> str:
    """Describe *value* without its content: ``list[Document] of 5``, ``str of 812 characters``.

    Of the user's own classes only the name is told: what they do when they are asked may fail or take long.
    """
    kind = type(value)
    if kind is str:
        return f"str of {len(value):,} characters"
    if kind is bytes:
        return f"bytes of {len(value):,}"
    if kind is dict:
        return f"dict of {len(value):,}"
    if kind in (list, tuple, set):
        kinds = sorted({type(item).__name__ for item in islice(value, _MAX_ITEMS)})
        return shortened(f"{kind.__name__}[{' | '.join(kinds)}] of {len(value):,}", _MAX_SHAPE)
    return shortened(kind.__name__, _MAX_SHAPE)
