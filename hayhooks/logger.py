"""``log``: the loguru logger that the server and wrappers write to, and its set-up."""

import logging
import os
import sys
from typing import TextIO

from loguru import logger as log

__all__ = ["log", "set_up"]

_FORMAT = "<dim>{time:HH:mm:ss.SSS}</> <level>{level: <7}</> {message}"


def set_up(level: str, sink: TextIO | None = None) -> None:
    """Send everything of *level* and above to *sink* (default: standard error, of our own), one line an entry.

    The standard library's loggers (uvicorn's, Haystack's) are led into the same stream. Some tell every step at INFO,
    Haystack each component that it runs: those are kept from WARNING on, unless *level* asks for DEBUG or more.

    Raises:
        ValueError: *level* is not a level's name.
    """
    log.remove()
    log.add(sink or _standard_error(), level=level, format=_FORMAT, backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.INFO, force=True)
    verbose = log.level(level).no <= logging.DEBUG
    for chatty in ("haystack", "watchfiles", "httpx"):
        logging.getLogger(chatty).setLevel(logging.DEBUG if verbose else logging.WARNING)


def _standard_error() -> TextIO:
    """A stream of our own to where standard error goes: a wrapper may close or replace ``sys.stderr``."""
    try:
        return os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    except OSError:  # it is closed
        return sys.stderr


class _ToLoguru(logging.Handler):
    """Hand the standard library's log records to loguru, as if logged where they were."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on, with its level and exception."""
        level = record.levelname if record.levelname in _LEVELS else record.levelno
        log.opt(exception=record.exc_info).log(level, "{}", record.getMessage())


_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})  # that both sides have; others are numbers
