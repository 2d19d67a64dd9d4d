"""Which attempt of a durable execution the running code belongs to."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_current: ContextVar[Any] = ContextVar("hayhooks_durable_context", default=None)


def current_durable_context() -> Any:
    """Return the ``DurableContext`` of the attempt that runs in this task or thread; None outside of attempts."""
    return _current.get()


@contextmanager
def durable_context_scope(context: Any) -> Iterator[None]:
    """Make the ``DurableContext`` *context* the current one, for what runs within."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
