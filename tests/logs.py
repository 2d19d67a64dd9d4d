"""The lines that the server logs while a test runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hayhooks import log

_OF_DEPLOYS = ("hayhooks.observability.change_log", "hayhooks.kernel.retire")  # perhaps those of the test before


def log_to_stderr() -> None:
    """Print the log, in place of all sinks, without the values of variables: to show them takes long and keeps them."""
    log.remove()
    log.add(sys.stderr, diagnose=False, backtrace=False)


@contextmanager
def logged(level: str = "DEBUG", *, deploys: bool = True) -> Iterator[list[str]]:
    """The lines logged in this block, each "LEVEL message" and its traceback; without *deploys* none about those."""
    lines: list[str] = []
    sink = log.add(
        lambda message: lines.append(message.rstrip("\n")),
        level=level,
        format="{level} {message}",  # loguru appends the traceback
        filter=lambda record: deploys or record["name"] not in _OF_DEPLOYS,
        diagnose=False,
        backtrace=False,
    )
    try:
        yield lines
    finally:
        log.remove(sink)
