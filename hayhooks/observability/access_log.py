"""Access log: one line for each request.

The thread of the log formats and writes them: on the event loop they would slow requests (benchmark row ``run-async``).
"""

import time
from functools import lru_cache
from typing import Any

from hayhooks.observability.log import JSON, encoded, printable
from hayhooks.observability.log_writer import LogWriter
from hayhooks.observability.request_record import RequestRecord


class AccessLog:
    """Writes completed request records to *writer*."""

    def __init__(self, writer: LogWriter, format: str) -> None:
        self._writer = writer
        self._line = as_json if format == JSON else as_text

    def __call__(self, record: RequestRecord) -> None:
        """Queue *record*; on the event loop."""
        self._writer.write_later(self._line, record)

    def close(self) -> None:
        """Write the queued records within a time limit; later ones are logged too."""
        self._writer.drain()


def as_text(record: RequestRecord) -> str:
    """Return the text line of *record*."""
    clock, _, ms = _times(record.ended_at)
    how = "cancelled after" if record.cancelled else "in"
    chunks = f"  {record.chunks} chunks" if record.chunks else ""
    failed = "  failed in mid-stream" if record.error and record.status < 400 else ""
    who = f"  {record.pipeline}@{record.revision}" if record.revision else f"  {printable(record.pipeline)}"
    key = f"  key={record.api_key}" if record.api_key else ""
    return (
        f"{clock}.{ms:03} INFO    {record.method} {printable(record.path)} {record.status} {how} "
        f"{record.took_s * 1000:.0f} ms{chunks}{failed}{who if record.pipeline else ''}  {record.size} bytes"
        f"  id={printable(record.id, 200)}{key}  {printable(record.client)}\n"
    )


def as_json(record: RequestRecord) -> str:
    """Return the JSON line of *record*, without empty fields."""
    _, (date, zone), ms = _times(record.ended_at)
    entry: dict[str, Any] = {
        "time": f"{date}.{ms:03}{zone}",
        "level": "INFO",
        "message": f"{record.method} {printable(record.path)} {record.status}",
        "event": "request",
        "request_id": record.id,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "took_ms": round(record.took_s * 1000, 3),
        "bytes": record.size,
    }
    for name in _OPTIONAL:
        if value := getattr(record, name):
            entry[name] = value
    return encoded(entry) + "\n"


_OPTIONAL = ("endpoint", "client", "api_key", "pipeline", "revision", "chunks", "cancelled", "error", "trace_id")


def _times(seconds: float) -> tuple[str, tuple[str, str], int]:
    """Return time of day, ISO 8601 date and zone, and milliseconds."""
    return *_of_second(int(seconds)), int(seconds % 1 * 1000)


@lru_cache(maxsize=4)
def _of_second(second: int) -> tuple[str, tuple[str, str]]:
    local = time.localtime(second)
    zone = time.strftime("%z", local)
    return time.strftime("%H:%M:%S", local), (time.strftime("%Y-%m-%dT%H:%M:%S", local), f"{zone[:3]}:{zone[3:]}")
