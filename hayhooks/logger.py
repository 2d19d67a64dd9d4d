"""``log``: the loguru logger that the server and wrappers write to, and its set-up."""

import logging
import sys
from types import FrameType
from typing import TextIO

from loguru import logger as log

__all__ = ["log", "set_up"]

_FORMAT = "<dim>{time:HH:mm:ss.SSS}</> <level>{level: <7}</> {message}"


def set_up(level: str, sink: TextIO | None = None) -> None:
    """Send everything of *level* and above to *sink* (default: standard error), one line an entry.

    The standard library's loggers (uvicorn's, Haystack's) are led into the same stream. Haystack names each
    component that it runs at INFO, twice a request: its own entries are kept from WARNING on, unless *level* asks
    for DEBUG or more.

    Raises:
        ValueError: *level* is not a level's name.
    """
    log.remove()
    log.add(sink or sys.stderr, level=level, format=_FORMAT, backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.INFO, force=True)
    verbose = log.level(level).no <= logging.DEBUG
    logging.getLogger("haystack").setLevel(logging.DEBUG if verbose else logging.WARNING)


class _ToLoguru(logging.Handler):
    """Hand the standard library's log records to loguru, as if logged where they were."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on, with its level, place and exception."""
        depth, frame = 0, _caller_of_logging()
        while frame is not None and frame.f_code.co_filename == logging.__file__:
            depth, frame = depth + 1, frame.f_back
        known = record.levelname in log._core.levels  # type: ignore[attr-defined]
        log.opt(depth=depth + 2, exception=record.exc_info).log(
            record.levelname if known else record.levelno, "{}", record.getMessage()
        )


def _caller_of_logging() -> FrameType | None:
    return sys._getframe(2)
