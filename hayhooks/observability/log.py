"""``log``: the loguru logger that the server and wrappers write to, and its set-up."""

import logging
import os
import sys
import traceback as tracebacks
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from loguru import logger as log
from pydantic_core import to_json

from hayhooks.errors import sendable
from hayhooks.observability.request_record import current_request

__all__ = ["JSON", "TEXT", "configure_logging", "log", "output", "printable"]

TEXT, JSON = "text", "json"  # what HAYHOOKS_LOG_FORMAT may be

_FORMAT = "<dim>{time:HH:mm:ss.SSS}</> <level>{level: <7}</> {message}"


@dataclass(slots=True)
class Output:
    """Where lines go, and in which form, for what is written beside loguru: the access log."""

    format: str = TEXT
    stream: TextIO | None = None  # None before the set-up: standard error, as loguru's own default

    def write(self, text: str) -> None:
        """Write *text*, which ends with a line's end.

        Raises:
            OSError, ValueError: it cannot be written.
        """
        stream = self.stream or sys.stderr
        stream.write(text)
        stream.flush()


output = Output()


def configure_logging(level: str, format: str = TEXT, sink: TextIO | None = None) -> None:
    """Send everything of *level* and above to *sink* (default: standard error, of our own), one line an entry.

    The standard library's loggers (uvicorn's, Haystack's) are led into the same stream. Some tell every step at INFO,
    Haystack each component that it runs: those are kept from WARNING on, unless *level* asks for DEBUG or more.

    Args:
        level: of the entries to write.
        format: ``text``, or ``json`` for an object a line.
        sink: where to.

    Raises:
        ValueError: *level* is not a level's name.
    """
    log.remove()
    stream = sink or _standard_error()
    if format == JSON:
        log.add(_json_to(stream), level=level, format=_nothing, backtrace=False, diagnose=False)
    else:
        log.add(stream, level=level, format=_FORMAT, backtrace=False, diagnose=False)
    output.format, output.stream = format, sink or _standard_error()  # two: each writes whole lines by itself
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.INFO, force=True)
    verbose = log.level(level).no <= logging.DEBUG
    logging.getLogger("urllib3.connectionpool").addFilter(_is_news)
    for chatty in ("haystack", "watchfiles", "httpx"):
        logging.getLogger(chatty).setLevel(logging.DEBUG if verbose else logging.WARNING)


def printable(text: str, longest: int = 1_000) -> str:
    r"""*text* of a stranger as a part of one line: no end of a line, no control characters, no spaces, not too long.

    >>> printable("/a b\n\x1b[31m")
    '/a\\x20b\\n\\x1b[31m'
    """
    if len(text) > longest:
        text = f"{text[:longest]}...({len(text) - longest} more)"
    if text.isprintable() and text.isascii() and " " not in text:
        return text
    return "".join(c if c.isprintable() and c != " " else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return r"\x20" if character == " " else character.encode("unicode_escape").decode()


def _nothing(record: Any) -> str:
    """The text of an entry that is written from its record: loguru need not compose it."""
    return ""


def _json_to(stream: TextIO) -> Callable[[Any], None]:
    def write(message: Any) -> None:
        stream.write(_as_json(message.record) + "\n")

    return write


def _as_json(record: Any) -> str:
    """An entry as an object; what was bound to it, as ``log.bind(user="me")``, are fields of their own."""
    entry: dict[str, Any] = {
        "time": record["time"].isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "message": sendable(record["message"]),
    }
    request = current_request.get(None)
    if request is not None:
        ours = ("request_id", request.id), ("pipeline", request.pipeline), ("revision", request.revision)
        entry |= {name: value for name, value in (*ours, ("trace_id", request.trace_id)) if value}
    if record["exception"] is not None:
        entry["exception"] = _told(record["exception"])
    return encoded(entry | {name: value for name, value in record["extra"].items() if name not in entry})


def encoded(entry: dict[str, Any]) -> str:
    """*entry* as one line of JSON, whatever is in it."""
    try:
        return to_json(entry, fallback=_text, inf_nan_mode="null").decode()
    # What was bound is the user's: it may be or raise anything.
    except Exception:
        return to_json({name: sendable(_text(value)) for name, value in entry.items()}).decode()


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"({type(value).__name__}.__str__ raised {type(error).__name__})"


def _told(exception: Any) -> str:
    try:
        return sendable("".join(tracebacks.format_exception(*exception)))
    except Exception:  # it is of the user's own making, down to its attributes
        return sendable("".join(tracebacks.format_tb(exception[2])))


def _standard_error() -> TextIO:
    """A stream of our own to where standard error goes: a wrapper may close or replace ``sys.stderr``."""
    try:
        return os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    except OSError:  # it is closed
        return sys.stderr


def _is_news(record: logging.LogRecord) -> bool:
    """Not that Haystack's telemetry cannot be sent: without internet that would be said of each pipeline that runs."""
    return "posthog.com" not in record.getMessage()


class _ToLoguru(logging.Handler):
    """Hand the standard library's log records to loguru, as if logged where they were."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on, with its level and exception."""
        level = record.levelname if record.levelname in _LEVELS else record.levelno
        log.bind(logger=record.name).opt(exception=record.exc_info).log(level, "{}", record.getMessage())


_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})  # that both sides have; others are numbers
