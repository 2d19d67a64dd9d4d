"""A tracer of Haystack's that notes spans in the current request's trace, beside another tracer.

It imports Haystack: ``connect`` is called in a thread, before anything is loaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from haystack.tracing.tracer import Span, Tracer
from haystack.tracing.tracer import tracer as proxy

from hayhooks.errors import sendable, type_and_message
from hayhooks.observability import traces
from hayhooks.observability.traces import current_trace, describe

_current: ContextVar["_NotedSpan | None"] = ContextVar("hayhooks_span", default=None)


def connect() -> None:
    """Note Haystack's spans from now on; the tracer that is enabled gets them as before."""
    proxy.actual_tracer = _RequestTracer(proxy.actual_tracer)


def disconnect() -> None:
    """Undo ``connect``, unless another tracer has been enabled since."""
    if isinstance(proxy.actual_tracer, _RequestTracer):
        proxy.actual_tracer = proxy.actual_tracer.inner


class _RequestTracer(Tracer):
    def __init__(self, inner: Tracer) -> None:
        self.inner = inner

    @contextmanager
    def trace(
        self, operation_name: str, tags: dict[str, Any] | None = None, parent_span: Span | None = None
    ) -> Iterator[Span]:
        """Note a span in the request's trace, and begin one of the other tracer."""
        parent = parent_span if isinstance(parent_span, _NotedSpan) else _current.get()
        inner_parent = parent_span.inner if isinstance(parent_span, _NotedSpan) else parent_span
        with self.inner.trace(operation_name, tags=tags, parent_span=inner_parent) as inner:
            trace = current_trace.get()
            noted = trace.start(operation_name, tags or {}, parent.noted if parent else None) if trace else None
            if trace is None or noted is None:
                yield inner
                return
            span = _NotedSpan(noted, inner)
            token = _current.set(span)
            try:
                yield span
            except BaseException as error:
                noted.error = sendable(type_and_message(error))
                raise
            finally:
                noted.took_ms = round(trace.now_ms() - noted.start_ms, 3)
                with suppress(ValueError):  # an async generator may be closed in another context
                    _current.reset(token)

    def current_span(self) -> Span | None:
        """Return the span that runs in this context."""
        return _current.get() or self.inner.current_span()


class _NotedSpan(Span):
    def __init__(self, noted: traces.Span, inner: Span) -> None:
        self.noted = noted
        self.inner = inner

    def set_tag(self, key: str, value: Any) -> None:
        self.inner.set_tag(key, value)

    def set_content_tag(self, key: str, value: Any) -> None:
        """Note the shapes of inputs and outputs, or their contents if Haystack's setting allows it."""
        if key.endswith((".input", ".input_data", ".output", ".output_data")):
            described = describe(value, with_content=proxy.is_content_tracing_enabled)
            if ".input" in key:
                self.noted.inputs = described
            else:
                self.noted.outputs = described
        self.inner.set_content_tag(key, value)

    def raw_span(self) -> Any:
        return self.inner.raw_span()

    def get_correlation_data_for_logs(self) -> dict[str, Any]:
        return self.inner.get_correlation_data_for_logs()
