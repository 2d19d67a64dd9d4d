"""The running application, for code that is not given one, such as ``toolkit.registry``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_apps: list[Any] = []  # the newest last; usually there is one


@contextmanager
def as_current_app(app: Any) -> Iterator[None]:
    """Make *app* the current application in this context, its lifespan."""
    _apps.append(app)
    try:
        yield
    finally:
        _apps.remove(app)


def current_app() -> Any | None:
    """Return the running application that was started last; ``None`` if none runs."""
    return _apps[-1] if _apps else None
