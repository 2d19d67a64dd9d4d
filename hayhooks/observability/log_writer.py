"""Log writer: a bounded queue of lines, and the thread that writes them.

Nobody who logs waits for the reader of the log: a pipe that is not read would stop the event loop.
"""

import atexit
import fcntl
import io
import locale
import os
import queue
import re
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_COLLECT_S = 0.05  # records wait this long for others: fewer writes (benchmark row run-async)
_MAX_BYTES = 8 * 1024 * 1024  # of the lines in the queue
_MAX_ITEMS = 10_000  # lines and records in the queue
_BLOCK = 4096  # bytes that a pipe takes in one write: lines of several workers do not mix
_END_S = 2.0  # for the last lines at shutdown: nobody may be reading them
_LINE_BEGIN = re.compile(rb"(?<=[\r\n])(?=[^\r\n])")
_FIRST_PRIVATE = 3  # descriptors below are the standard ones, which a wrapper may close

Format = Callable[[Any], str]


class LogWriter:
    """Writes lines to a duplicate of *descriptor*; those that find the queue full are dropped and counted.

    *report* is called in its thread with the number of dropped lines, once others could be written again.
    """

    def __init__(self, descriptor: int, report: Callable[[int], None]) -> None:
        self.encoding = locale.getpreferredencoding(False)
        self._report = report
        try:
            self._descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_PRIVATE)
        except OSError:  # it is closed
            null = os.open(os.devnull, os.O_WRONLY)
            self._descriptor = fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, _FIRST_PRIVATE)
            os.close(null)
        self._waiting: deque[bytes | tuple[Format, Any]] = deque()
        self._size = 0  # bytes of the lines in the queue
        self._dropped = 0
        # Both are reentrant: a destructor or a signal handler may print while its thread is in here.
        self._lock = threading.RLock()  # guards the two numbers above and the start of the thread
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # gets an item when there is something to write
        self._awake = False  # the thread has been woken, or will be
        self._hurried = False  # the same for a line, which does not wait for others
        self._thread: threading.Thread | None = None
        self._is_busy = False  # the thread has taken from the queue what it has not written yet
        self._has_thread = True  # False in a forked child: it may end at any moment, and has no event loop of ours
        os.register_at_fork(after_in_child=self._write_at_once)

    def write(self, text: str) -> None:
        """Queue *text*, which ends with a newline unless it is a prompt."""
        self.write_bytes(text.encode(self.encoding, "backslashreplace"))

    def write_bytes(self, data: bytes) -> None:
        """Queue encoded text."""
        with self._lock:
            is_full = len(self._waiting) >= _MAX_ITEMS or (self._size and self._size + len(data) > _MAX_BYTES)
            if is_full:
                self._dropped += 1
                return
            self._size += len(data)
            self._waiting.append(data)
        if not self._has_thread:
            self._write_waiting()
        elif not self._hurried:
            self._hurried = True
            self._wake_thread()

    def write_later(self, format: Format, record: Any) -> None:
        """Queue *record*, which the thread formats; for the event loop, which pays little for it."""
        if len(self._waiting) >= _MAX_ITEMS:
            with self._lock:
                self._dropped += 1
            return
        self._waiting.append((format, record))
        if not self._awake:
            self._awake = True
            self._wake_thread()

    def flush(self) -> None:
        """Do nothing: the thread writes as soon as it can."""

    def isatty(self) -> bool:
        """Whether a terminal shows the lines."""
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        """Return the descriptor written to."""
        return self._descriptor

    def drain(self, timeout_s: float = _END_S) -> None:
        """Wait until all lines so far are written; for *timeout_s* at most."""
        end = time.monotonic() + timeout_s
        self._hurried = True
        self._wake.put(None)
        while self._thread is not None and (self._waiting or self._is_busy) and time.monotonic() < end:
            time.sleep(0.002)

    def _wake_thread(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="hayhooks log", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError:  # there is no thread left: the next line tries again
                        self._awake = self._hurried = False
                        atexit.unregister(self._write_waiting)
                        atexit.register(self._write_waiting)
                        return
                    self._thread = thread
                    atexit.register(self.drain)
        self._wake.put(None)

    def _run(self) -> None:
        while True:
            self._wake.get()
            if not self._hurried:
                with suppress(queue.Empty):
                    self._wake.get(timeout=_COLLECT_S)
            self._is_busy = True
            self._awake = self._hurried = False
            try:
                self._write_waiting()
            except Exception:  # a sink that a wrapper has added may refuse the report; the thread must survive it
                self._dropped += 1
            self._is_busy = False

    def _write_waiting(self) -> None:
        block = bytearray()
        lines = 0
        has_written = False
        while self._waiting:
            line = self._take()
            if lines and len(block) + len(line) > _BLOCK:
                has_written |= self._put(block, lines)
                block, lines = bytearray(), 0
            block += line
            lines += 1
        if lines:
            has_written |= self._put(block, lines)
        if has_written and self._dropped:
            with self._lock:
                dropped, self._dropped = self._dropped, 0
            self._report(dropped)

    def _take(self) -> bytes:
        item = self._waiting.popleft()
        if isinstance(item, bytes):
            with self._lock:
                self._size -= len(item)
            return item
        format, record = item
        return format(record).encode(self.encoding, "backslashreplace")

    def _put(self, block: bytearray, lines: int) -> bool:
        """Write *block* and return True; if the reader is gone or the disk is full, count its *lines* as dropped."""
        left = memoryview(block)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another process has made the pipe non-blocking
                writable = select.poll()
                writable.register(self._descriptor, select.POLLOUT)
                writable.poll()
            except OSError:
                with self._lock:
                    self._dropped += lines
                return False
        return True

    def _write_at_once(self) -> None:
        self._lock = threading.RLock()  # another thread may have held it
        self._waiting.clear()  # the parent writes these
        self._size = 0
        self._has_thread = False


class QueuedStream(io.TextIOWrapper):
    """A text stream whose lines a log writer writes, for ``sys.stdout``. It cannot be closed.

    Each line begins with what *prefix* returns for whoever prints it.
    """

    def __init__(self, writer: LogWriter, prefix: Callable[[], str] = str) -> None:
        # Without a buffer of bytes, whose lock a forked child might inherit.
        super().__init__(_Raw(writer, prefix), writer.encoding, "backslashreplace", line_buffering=True)  # type: ignore[arg-type]

    def close(self) -> None:
        """Write what is left of a line."""
        self.flush()


class _Raw(io.RawIOBase):
    def __init__(self, writer: LogWriter, prefix: Callable[[], str]) -> None:
        self._writer = writer
        self._prefix = prefix
        self._begins = True  # what is written next begins a line

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        written = bytes(data)
        if prefix := self._prefix().encode(errors="backslashreplace"):
            marked = _LINE_BEGIN.sub(lambda _: prefix, written)  # a progress bar begins its line again and again
            written = prefix + marked if self._begins and written[:1] not in (b"", b"\n", b"\r") else marked
        self._begins = written.endswith((b"\n", b"\r"))
        self._writer.write_bytes(written)
        return len(data)

    def fileno(self) -> int:
        return self._writer.fileno()

    def isatty(self) -> bool:
        return self._writer.isatty()

    def close(self) -> None:
        """Stay open: ``sys.stdout.buffer`` is this."""
