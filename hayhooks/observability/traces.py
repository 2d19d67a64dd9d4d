"""Traces: what the last requests did, span by span, kept in memory for ``/traces``."""

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from itertools import islice
from operator import itemgetter
from typing import Any

from hayhooks.errors import Place, safe_str, sendable, shortened, type_and_message
from hayhooks.kernel.places import OpenFiles
from hayhooks.observability.request_record import POLLED, RequestRecord
from hayhooks.observability.worker_state import WorkerStateDir

_KIND = "traces"
_MAX_SPANS = 500  # of one request
_MAX_TEXT = 250_000  # characters of all inputs and outputs of one request
_MAX_SOCKETS = 50  # of one span
_MAX_SHAPE = 200  # characters
_MAX_ITEMS = 100  # of a list, whose types are told
_MAX_CONTENT = 2_000  # characters
_MAX_ERROR = 500  # characters
_WRAPPERS = ("PipelineRuntimeError", "ToolInvocationError")  # their messages have the inputs

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
    """One step of a request. It refers to nothing of the user's. What readers get is made when they ask."""

    __slots__ = ("error", "inputs", "name", "operation", "outputs", "parent", "started_at", "took_s", "type")

    def __init__(self, operation: str, name: str, type_: str, parent: "Span | None") -> None:
        self.operation = operation  # Haystack's name of it
        self.name = name
        self.type = type_  # the class of a component
        self.parent = parent  # the span around it
        self.started_at = time.perf_counter()
        self.took_s: float | None = None  # until it has ended
        self.error = ""
        self.inputs: dict[str, str] = {}
        self.outputs: dict[str, str] = {}

    def end(self) -> None:
        """Note how long it took."""
        self.took_s = time.perf_counter() - self.started_at

    def fail(self, error: BaseException) -> None:
        """Note the user's own exception within those that Haystack puts around it."""
        while type(error).__name__ in _WRAPPERS and error.__cause__ is not None:
            error = error.__cause__
        self.error = shortened(type_and_message(error), _MAX_ERROR)

    def as_dict(self, began_at: float, parent: int | None) -> dict[str, Any]:
        """Return what readers get; *parent* is the position of the span around it."""
        kind = next((kind for begin, kind in _KINDS.items() if self.operation.startswith(begin)), "other")
        return {
            "name": sendable(self.name),
            "kind": "request" if parent is None else kind,
            "type": sendable(self.type),
            "parent": parent,
            "start_ms": round((self.started_at - began_at) * 1000, 3),
            "took_ms": None if self.took_s is None else round(self.took_s * 1000, 3),
            "error": sendable(self.error),
            "inputs": {sendable(name): sendable(text) for name, text in self.inputs.items()},
            "outputs": {sendable(name): sendable(text) for name, text in self.outputs.items()},
        }


class Trace:
    """The spans of one request; the first is the request itself."""

    def __init__(self) -> None:
        self.spans = [Span("request", "request", "", None)]
        self.facts: dict[str, Any] = {}  # of the request, once it has ended
        self.is_cut = False  # it had more spans or text than is kept
        self.place: dict[str, Any] | None = None  # in the user's code, where it failed
        self.text = ""  # as JSON, once it has been posted
        self._room = _MAX_TEXT

    def start(self, operation: str, tags: Mapping[str, Any], parent: Span | None) -> Span | None:
        """Begin a span within *parent*, or the request; None if there are too many."""
        if len(self.spans) >= _MAX_SPANS:
            self.is_cut = True
            return None
        name = tags.get("haystack.component.name") or tags.get("haystack.tool.name") or operation.rpartition(".")[2]
        if (number := tags.get("haystack.agent.step")) is not None:
            name = f"step {number}"
        type_ = str(tags.get("haystack.component.type") or "")
        around = parent or self.spans[0]
        name = name if type(name) is str else safe_str(name)
        span = Span(operation, shortened(name, _MAX_SHAPE), shortened(type_, _MAX_SHAPE), around)
        self.spans.append(span)
        return span

    def describe(self, values: Any, *, with_content: bool, by_component: bool = False) -> dict[str, str]:
        """Return the shape of each of *values*, or their content; as many as this trace has room for.

        Those of a pipeline are *by_component*: dictionaries of sockets, which become ``component.socket``.
        """
        items = _first_items(values) if type(values) is dict else [("value", values)]
        if by_component:
            items = [
                (f"{component}.{name}", value)
                for component, sockets in items
                for name, value in (_first_items(sockets) if type(sockets) is dict else [("value", sockets)])
            ][:_MAX_SOCKETS]
        described = {}
        for name, value in items:
            key = shortened(name if type(name) is str else safe_str(name), _MAX_SHAPE)
            text = shortened(safe_str(value), _MAX_CONTENT) if with_content else shape(value)
            if len(key) + len(text) > self._room:
                self.is_cut = True
                break
            self._room -= len(key) + len(text)
            described[key] = text
        return described

    def locate(self, place: Place | None) -> None:
        """Note the *place* of its failure, with the lines around it as they are now."""
        if place is not None:
            self.place = {"file": place.file, "line": place.line, "source": OpenFiles().around(place)}

    def summary(self) -> dict[str, Any]:
        """Return the facts of the request, and how many spans there are."""
        return {**self.facts, "spans": len(self.spans), "cut": self.is_cut}

    def as_dict(self) -> dict[str, Any]:
        """Return the facts of the request, and its spans."""
        spans = self.spans.copy()  # other threads may add to them
        positions = {id(span): position for position, span in enumerate(spans)}
        began_at = spans[0].started_at
        return {
            **self.summary(),
            "place": self.place,
            "spans": [
                span.as_dict(began_at, positions.get(id(span.parent), 0) if span.parent else None) for span in spans
            ],
        }


current_trace: ContextVar[Trace | None] = ContextVar("hayhooks_trace", default=None)


class Traces:
    """The traces of the last requests to pipelines, at most *limit* of each worker."""

    def __init__(self, limit: int, worker_dir: WorkerStateDir) -> None:
        self._traces: deque[Trace] = deque(maxlen=limit)  # the event loop adds to them
        self._worker_dir = worker_dir
        self._posted: list[Trace] = []

    def begin(self, record: RequestRecord, scope: Mapping[str, Any]) -> None:
        """Trace what runs in this context, and in the threads and tasks that it begins; on the event loop."""
        current_trace.set(Trace())

    def end(self, record: RequestRecord) -> None:
        """Keep the trace of a request to a pipeline; on the event loop."""
        trace = current_trace.get()
        if trace is None or not record.pipeline or record.endpoint in POLLED:
            return
        current_trace.set(None)
        request = trace.spans[0]
        request.name, request.took_s = f"{record.method} {record.path}", record.took_s
        request.error = record.error or record.problem
        trace.facts = {
            "id": record.id,
            "trace_id": record.trace_id,
            "at": record.ended_at - record.took_s,
            "method": record.method,
            "path": record.path,
            "pipeline": record.pipeline,
            "revision": record.revision,
            "status": record.status,
            "took_ms": round(record.took_s * 1000, 3),
            "chunks": record.chunks,
            "cancelled": record.cancelled,
            "error": request.error,
        }
        self._traces.append(trace)

    def post(self) -> None:
        """Publish the traces to the other workers, if there are new ones; in a thread."""
        traces = list(self._traces.copy())
        if traces == self._posted:
            return
        for trace in traces:
            trace.text = trace.text or json.dumps(trace.as_dict())
        self._worker_dir.post_as(_KIND, "\n".join(trace.text for trace in traces))
        self._posted = traces

    def find(self, request_id: str) -> dict[str, Any] | None:
        """Return the newest trace with that id, of any worker; in a thread."""
        own = (trace.as_dict() for trace in reversed(self._traces.copy()) if trace.facts["id"] == request_id)
        others = (trace for trace in self._of_others() if trace["id"] == request_id)
        return next(own, None) or max(others, key=itemgetter("at"), default=None)

    def summaries(self) -> list[dict[str, Any]]:
        """Return the facts of all requests of all workers, those that began last first; in a thread."""
        found = [trace.summary() for trace in self._traces.copy()]
        found += [{**trace, "spans": len(trace["spans"])} for trace in self._of_others()]
        return sorted(found, key=itemgetter("at"), reverse=True)

    def _of_others(self) -> Iterator[dict[str, Any]]:
        for _, posted in self._worker_dir.posted(_KIND):
            yield from map(json.loads, posted.split("\n"))


def _first_items(values: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """Copy the first items, in one step: other threads may change *values*."""
    return list(islice(values.items(), _MAX_SOCKETS))


def shape(value: Any) -> str:
    """Describe *value* without its content: ``list[Document] of 5``, ``str of 812 characters``.

    Of the user's own classes only the name is told: what they do when they are asked may fail or take long.
    """
    kind = type(value)
    if value is None:
        return "None"
    if kind is str:
        return f"str of {len(value):,} characters"
    if kind is bytes:
        return f"bytes of {len(value):,}"
    if kind is dict:
        return f"dict of {len(value):,}"
    if kind in (list, tuple, set):
        kinds = sorted({type(item).__name__ for item in list(islice(value, _MAX_ITEMS))})
        return shortened(f"{kind.__name__}[{' | '.join(kinds)}] of {len(value):,}", _MAX_SHAPE)
    return shortened(kind.__name__, _MAX_SHAPE)
