"""Access log: one line for each request.

A thread formats and writes them: on the event loop they would slow requests (benchmark row ``run-async``).
"""

import atexit
import threading
import time
from collections import deque
from functools import lru_cache
from typing import Any

from hayhooks.observability.log import JSON, encoded, log, output, printable
from hayhooks.observability.request_record import RequestRecord

_WAIT_S = 0.05  # to collect records before writing
_LIMIT = 10_000  # records in the queue; more are dropped and counted
_BLOCK = 4096  # bytes that a pipe takes in one write: lines of several workers do not mix
_END_S = 2.0  # for the last lines at shutdown: nobody may be reading them


class AccessLog:
    """Writes completed request records; ``close`` writes the rest."""

    def __init__(self) -> None:
        self._waiting: deque[RequestRecord] = deque()
        self._dropped = 0
        self._awake = False  # the thread has been woken; cheaper to read than its event
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, record: RequestRecord) -> None:
        """Queue *record*; on the event loop."""
        if len(self._waiting) >= _LIMIT:
            self._dropped += 1
            return
        self._waiting.append(record)
        if not self._awake:
            self._awake = True
            if self._thread is None:
                self._closing = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._closing,), name="hayhooks access log", daemon=True
                )
                self._thread.start()
                atexit.register(self.close)
            self._wake.set()

    def close(self) -> None:
        """Write the queued records within a time limit; later ones are logged too."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._closing.set()
            self._wake.set()
            thread.join(_END_S)
            atexit.unregister(self.close)

    def _run(self, closing: threading.Event) -> None:
        while not closing.is_set():
            self._wake.wait()
            closing.wait(_WAIT_S)
            self._wake.clear()
            self._awake = False
            self._write()

    def _write(self) -> None:
        line = as_json if output.format == JSON else as_text
        block: list[str] = []
        size = 0
        while self._waiting:
            text = line(self._waiting.popleft())
            if block and size + len(text) > _BLOCK:
                self._put(block)
                block, size = [], 0
            block.append(text)
            size += len(text)
        if block:
            self._put(block)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("{} requests are missing from the access log: its output was not read fast enough", dropped)

    def _put(self, block: list[str]) -> None:
        try:
            output.write("".join(block))
        except (OSError, ValueError):  # the stream is broken or closed
            self._dropped += len(block)


def as_text(record: RequestRecord) -> str:
    """Return the text line of *record*."""
    clock, _, ms = _times(record.ended_at)
    how = "cancelled after" if record.cancelled else "in"
    chunks = f"  {record.chunks} chunks" if record.chunks else ""
    failed = "  failed in mid-stream" if record.error and record.status < 400 else ""
    who = f"  {record.pipeline}@{record.revision}" if record.revision else f"  {printable(record.pipeline)}"
    return (
        f"{clock}.{ms:03} INFO    {record.method} {printable(record.path)} {record.status} {how} "
        f"{record.took_s * 1000:.0f} ms{chunks}{failed}{who if record.pipeline else ''}  {record.size} bytes"
        f"  id={printable(record.id, 200)}  {record.client}\n"
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


_OPTIONAL = ("endpoint", "client", "pipeline", "revision", "chunks", "cancelled", "error", "trace_id")


def _times(seconds: float) -> tuple[str, tuple[str, str], int]:
    """Return time of day, ISO 8601 date and zone, and milliseconds."""
    return *_of_second(int(seconds)), int(seconds % 1 * 1000)


@lru_cache(maxsize=4)
def _of_second(second: int) -> tuple[str, tuple[str, str]]:
    local = time.localtime(second)
    zone = time.strftime("%z", local)
    return time.strftime("%H:%M:%S", local), (time.strftime("%Y-%m-%dT%H:%M:%S", local), f"{zone[:3]}:{zone[3:]}")
