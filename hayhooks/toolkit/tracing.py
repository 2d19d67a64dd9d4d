"""Spans of one's own in the trace of a request, by whichever tracer Haystack uses."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haystack.tracing.tracer import Span


@contextmanager
def trace_operation(operation_name: str, *, tags: Mapping[str, Any] | None = None) -> "Iterator[Span]":
    """A span around the block; where tracing is not enabled it costs next to nothing.

    Tags tell in the end how the block ended: ``hayhooks.success``, ``hayhooks.elapsed_ms``, and of an error
    ``hayhooks.error.type`` and ``hayhooks.error.message``.
    """
    # Haystack takes a second to import, and the command line imports this.
    from haystack.tracing.tracer import tracer  # noqa: PLC0415

    began = time.perf_counter()
    with tracer.trace(operation_name, tags=dict(tags or {})) as span:
        success = False
        try:
            yield span
            success = True
        except BaseException as error:
            span.set_tag("hayhooks.error.type", type(error).__name__)
            span.set_tag("hayhooks.error.message", str(error))
            raise
        finally:
            span.set_tag("hayhooks.success", success)
            span.set_tag("hayhooks.elapsed_ms", int((time.perf_counter() - began) * 1000))


def build_trace_tags(tags: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """*tags* and *more*, which win, without those that are ``None``."""
    return {name: value for name, value in {**(tags or {}), **more}.items() if value is not None}
