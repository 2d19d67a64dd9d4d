"""The lines that the server logs while a test runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from hayhooks import log


@contextmanager
def logged(level: str = "DEBUG", *, deploys: bool = True) -> Iterator[list[str]]:
    """The lines logged in this block, each "LEVEL message" and its traceback; without *deploys* none about those."""
    lines: list[str] = []
    sink = log.add(
        lambda message: lines.append(message.rstrip("\n")),
        level=level,
        format="{level} {message}",  # loguru appends the traceback
        filter=lambda record: deploys or not record["message"].startswith("Deployed "),
    )
    try:
        yield lines
    finally:
        log.remove(sink)
