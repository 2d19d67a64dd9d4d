"""Note Haystack's spans in the current request's trace, beside the tracer that is enabled.

Nothing here imports Haystack: its tracer is patched when a wrapper has imported it.
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

from hayhooks.kernel.haystack_hooks import on_import
from hayhooks.observability.traces import Span, Trace, current_trace

_MODULE = "haystack.tracing.tracer"
_INPUT_DATA = "haystack.pipeline.input_data"

_current: ContextVar["_NotedSpan | None"] = ContextVar("hayhooks_span", default=None)
_lock = threading.Lock()


@contextmanager
def noted_spans() -> Iterator[None]:
    """Note Haystack's spans in this context; the last application of the process that ends it removes the patch."""
    on_import.append(_patch)
    _patch()
    try:
        yield
    finally:
        with _lock:
            on_import.remove(_patch)
            if _patch not in on_import and (proxy := _proxy()) is not None:
                for name in ("trace", "current_span"):
                    vars(proxy).pop(name, None)


def _proxy() -> Any:
    """Return what Haystack calls its tracer, which calls the one that is enabled; None if it is not imported."""
    return getattr(sys.modules.get(_MODULE), "tracer", None)


def _patch() -> None:
    """Replace the methods of Haystack's proxy, and not the tracer behind it: users may enable another at any time."""
    proxy = _proxy()
    if proxy is None or "trace" in vars(proxy):
        return

    def trace(operation_name: str, tags: Mapping[str, Any] | None = None, parent_span: Any = None) -> Any:
        given = parent_span if type(parent_span) is _NotedSpan else None
        around = proxy.actual_tracer.trace(operation_name, tags=tags, parent_span=given.inner if given else parent_span)
        parent = given or _current.get()
        kept = parent.trace if parent else current_trace.get()
        noted = kept.start(operation_name, tags or {}, parent.noted if parent else None) if kept else None
        if kept is None or noted is None:
            return around
        span = _NotedSpan(proxy, kept, noted, around)
        if tags and (inputs := tags.get(_INPUT_DATA)) is not None:  # only of pipelines, and no tag of content
            span.note(_INPUT_DATA, inputs)
        return span

    def current_span() -> Any:
        return _current.get() or proxy.actual_tracer.current_span()

    with _lock:
        if _patch in on_import:
            proxy.trace, proxy.current_span = trace, current_span


class _NotedSpan:
    """A span of the tracer that is enabled, whose context is *around*; what it is told of is noted too.

    A class, and no generator: a pipeline's request takes 8 us less.
    """

    inner: Any = None  # the span, in its context

    def __init__(self, proxy: Any, trace: Trace, noted: Span, around: AbstractContextManager[Any]) -> None:
        self._proxy = proxy
        self._around = around
        self.trace = trace
        self.noted = noted

    def __enter__(self) -> Self:
        self.inner = self._around.__enter__()
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self.noted.end()
        if error is not None:
            self.noted.fail(error)
        with suppress(ValueError):  # an async generator may be closed in another context
            _current.reset(self._token)
        return self._around.__exit__(kind, error, traceback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def set_tag(self, key: str, value: Any) -> None:
        """Note that a tool has failed: its agent goes on."""
        if key == "haystack.tool.error" and (error := sys.exc_info()[1]) is not None:
            self.noted.fail(error)
        self.inner.set_tag(key, value)

    def set_content_tag(self, key: str, value: Any) -> None:
        """Note *value* if it is inputs or outputs."""
        if key.endswith((".input", ".output", ".output_data")):
            self.note(key, value)
        self.inner.set_content_tag(key, value)

    def note(self, key: str, value: Any) -> None:
        """Note the shapes of inputs and outputs, or their contents if Haystack's setting allows it."""
        described = self.trace.describe(
            value, with_content=self._proxy.is_content_tracing_enabled, by_component=key.endswith("_data")
        )
        if ".input" in key:
            self.noted.inputs = described
        else:
            self.noted.outputs = described
