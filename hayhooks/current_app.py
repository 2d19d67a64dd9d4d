"""The applications that run in this process: for code that is not handed one, as wrappers of the original server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_apps: list[Any] = []  # the newest last; nearly always there is one


@contextmanager
def as_current_app(app: Any) -> Iterator[None]:
    """Let *app* be found in this context, which is its lifespan."""
    _apps.append(app)
    try:
        yield
    finally:
        _apps.remove(app)


def current_app() -> Any | None:
    """The application that was started last and runs; ``None`` if none does."""
    return _apps[-1] if _apps else None
