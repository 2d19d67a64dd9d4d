"""Configure ``log``, the loguru logger of the server and of wrappers."""

import asyncio
import logging
import re
import sys
import traceback as tracebacks
from collections.abc import Sequence
from functools import cache
from typing import Any

from loguru import logger as log
from pydantic_core import to_json

from hayhooks.errors import safe_str, sendable, shortened
from hayhooks.observability.log_writer import LogWriter, QueuedStream
from hayhooks.observability.request_record import current_request

__all__ = [
    "JSON",
    "STDERR",
    "STDOUT",
    "TEXT",
    "configure_logging",
    "intercept_stdlib_logging",
    "log",
    "prefix_of",
    "printable",
    "printable_line",
    "queue_prints",
    "writer_of",
]

TEXT, JSON = "text", "json"  # what HAYHOOKS_LOG_FORMAT may be
STDOUT, STDERR = 1, 2  # descriptors

_FORMAT = "<dim>{{time:HH:mm:ss.SSS}}</> <level>{{level: <7}}</> {}{{message}}\n{{exception}}"


@cache
def writer_of(descriptor: int) -> LogWriter:
    """Return the log writer of standard output (1) or standard error (2), which this process has one of."""

    def report(lines: int) -> None:
        log.warning("{} lines are missing from the log: its output was not read fast enough", lines)

    return LogWriter(descriptor, report)


def queue_prints() -> None:
    """Send what wrappers print through the log writers too.

    A print would wait for the reader of the output, and would go into a client's connection after a wrapper has closed
    descriptor 1 or 2. What code prints outside of requests, as in ``setup``, carries the name of its deployment.
    """
    sys.stdout = QueuedStream(writer_of(STDOUT), _prefix_of_setup)
    sys.stderr = QueuedStream(writer_of(STDERR), _prefix_of_setup)


def _prefix_of_setup() -> str:
    """Return the name of the deployment whose code runs here, and a colon; "" in a request, which has its own line."""
    from hayhooks.kernel.isolation import current_deployment  # noqa: PLC0415 - for `from hayhooks import log` alone

    name = "" if current_request.get(None) else current_deployment()
    return f"{name}: " if name else ""


def prefix_of(record: Any) -> str:
    """Return what *record*, an entry of a wrapper's, is to begin with: the name of its deployment, outside requests."""
    return "" if (record["name"] or "").startswith("hayhooks.kernel.") else _prefix_of_setup()


def _text_format(record: Any) -> str:
    prefix = prefix_of(record)
    return _FORMAT.format(prefix.replace("<", r"\<").replace("{", "{{").replace("}", "}}") if prefix else "")


def configure_logging(level: str, format: str = TEXT) -> None:
    """Write entries of *level* and above to standard error, in a thread.

    The standard library's loggers (uvicorn, Haystack) write there too. Loggers that report each step at INFO are
    limited to WARNING, unless *level* is DEBUG or lower. *format* is ``text``, or ``json`` for one object a line.
    """
    log.remove()
    writer = writer_of(STDERR)  # not loguru's `enqueue`, whose queue has no bound
    if format == JSON:

        def write(message: Any) -> None:
            writer.write(_as_json(message.record) + "\n")

        # Without text of loguru's: `write` formats the record itself.
        log.add(write, level=level, format=lambda _: "", backtrace=False, diagnose=False)
    else:
        log.add(_TextSink(writer), level=level, format=_text_format, backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.INFO, force=True)
    verbose = log.level(level).no <= logging.DEBUG
    logging.getLogger("urllib3.connectionpool").addFilter(_is_not_telemetry)
    logging.getLogger("haystack.utils.base_serialization").addFilter(_is_not_snapshot)
    logging.getLogger("uvicorn.error").addFilter(_hide_query)
    logging.getLogger("uvicorn.error").addFilter(_is_not_logged)
    for chatty in ("haystack", "watchfiles", "httpx", "httpx2", "mcp"):
        logging.getLogger(chatty).setLevel(logging.DEBUG if verbose else logging.WARNING)
    # It logs what clients do wrong, which they are told, and with a traceback.
    logging.getLogger("a2a").setLevel(logging.DEBUG if verbose else logging.CRITICAL)


def intercept_stdlib_logging(loggers: Sequence[str] | None = None) -> None:
    """Write the records of the standard library's *loggers* to ``log``, whatever the root logger does."""
    for name in loggers or ("uvicorn", "uvicorn.error", "uvicorn.access", "fastapi"):
        logger = logging.getLogger(name)
        logger.handlers = [_ToLoguru()]
        logger.propagate = False


def printable(text: str, longest: int = 1_000) -> str:
    r"""Return a client's *text* as one word of a log line: escaped, length limited.

    >>> printable("/a b\n\x1b[31m")
    '/a\\x20b\\n\\x1b[31m'
    """
    text = shortened(text, longest)
    if text.isprintable() and text.isascii() and " " not in text:
        return text
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return escaped.replace(" ", r"\x20")


def printable_line(text: str, longest: int = 200) -> str:
    """Return *text* as one line without control characters, length limited."""
    return "".join(c if c.isprintable() else " " for c in shortened(" ".join(text.split()), longest))


def _as_json(record: Any) -> str:
    """Format an entry as an object, with bound values, as in ``log.bind(user="me")``."""
    entry: dict[str, Any] = {
        "time": record["time"].isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "message": sendable(record["message"]),
    }
    request = current_request.get(None)
    if request is not None:
        ours = ("request_id", request.id), ("pipeline", request.pipeline), ("revision", request.revision)
        entry |= {name: value for name, value in (*ours, ("trace_id", request.trace_id)) if value}
    elif prefix := prefix_of(record):
        entry["pipeline"] = prefix.removesuffix(": ")
    if record["exception"] is not None:
        try:
            lines = tracebacks.format_exception(*record["exception"])
        except Exception:  # formatting an exception of the user's may raise
            lines = tracebacks.format_tb(record["exception"][2])
        entry["exception"] = sendable(_with_public_names("".join(lines)))
    return encoded(entry | {name: value for name, value in record["extra"].items() if name not in entry})


# Characters that JSON allows, but some readers of lines, and terminals, take for the end of a line or a command.
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x80, 0xA0), 0x2028, 0x2029)}


def encoded(entry: dict[str, Any]) -> str:
    """Return *entry* as one line of JSON, whatever values it has."""
    try:
        line = to_json(entry, fallback=safe_str, inf_nan_mode="null").decode()
    # Bound values are the user's: serializing them may raise anything.
    except Exception:
        line = to_json({name: safe_str(value) for name, value in entry.items()}).decode()
    return line if line.isascii() else line.translate(_ESCAPES)


def _is_not_logged(record: logging.LogRecord) -> bool:
    """Drop uvicorn's report of an error that cut a response and that is logged already."""
    request = current_request.get(None)
    return not record.exc_info or request is None or not request.is_logged


def _is_not_telemetry(record: logging.LogRecord) -> bool:
    """Drop warnings about Haystack's telemetry: offline, each pipeline run logs some."""
    return "posthog.com" not in record.getMessage()


def _is_not_snapshot(record: logging.LogRecord) -> bool:
    """Drop warnings about the snapshot that Haystack takes when a component fails, and that nothing here reads."""
    return "Failed to serialize" not in record.getMessage()


def _hide_query(record: logging.LogRecord) -> bool:
    """Remove the query from uvicorn's lines on websockets, where it may be a secret; escape path and address."""
    if "WebSocket %s" in str(record.msg) and isinstance(record.args, tuple) and len(record.args) > 1:
        client, path, *more = record.args
        record.args = (printable(str(client), 100), printable(str(path).partition("?")[0]), *more)
    return True


# What a terminal, or a reader of lines, obeys: all control characters but tabs, line ends and colors.
_OBEYED = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u2028\u2029]")


class _TextSink:
    """Writes entries without control characters; tracebacks name the modules of wrappers as their authors do."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def write(self, message: Any) -> None:
        """Write a message of loguru's."""
        text = _with_public_names(message) if message.record["exception"] else str(message)
        self._writer.write(_OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text))

    def isatty(self) -> bool:
        """Whether it is a terminal, which shows colors."""
        return self._writer.isatty()


def _with_public_names(text: str) -> str:
    from hayhooks.kernel.isolation import with_public_names  # noqa: PLC0415 - for `from hayhooks import log` alone

    return with_public_names(text)


AGENT_LOGGERS = "haystack.components.agents."  # their loggers are given the exception of a tool as a mere value


class _ToLoguru(logging.Handler):
    """Pass the standard library's log records on to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname if record.levelname in _LEVELS else record.levelno
        error: Any = record.exc_info
        if error and record.name == "uvicorn.error" and isinstance(error[1], asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # by a stop at once: no fault of anybody's
                return
        if not error and record.name.startswith(AGENT_LOGGERS):
            error = next((value for value in vars(record).values() if isinstance(value, BaseException)), None)
        log.bind(logger=record.name).opt(exception=error).log(level, "{}", record.getMessage())


_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})  # known to both; others are passed as numbers
