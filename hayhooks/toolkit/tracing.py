"""Custom spans in a request's trace, recorded by Haystack's tracer."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haystack.tracing.tracer import Span


@contextmanager
def trace_operation(operation_name: str, *, tags: Mapping[str, Any] | None = None) -> "Iterator[Span]":
    """Record a span around the block, tagged with its success, duration and error; a no-op without a tracer."""
    # A late import: Haystack takes a second to load, and the command line imports this module.
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
    """Merge *tags* and *more* without None values; *more* takes precedence."""
    return {name: value for name, value in {**(tags or {}), **more}.items() if value is not None}
