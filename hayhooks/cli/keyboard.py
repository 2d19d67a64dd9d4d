"""Keyboard: the lines that a person types while the server runs.

One thread reads the terminal. A line goes to whoever waits for one, as ``input()`` and ``breakpoint()`` of a wrapper
do, and to the keys of ``hayhooks dev`` if nobody does.
"""

import io
import os
import queue
import select
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_STDIN = 0
_LINE = 4096  # bytes; a terminal gives one line at a time, and none is longer
_AGAIN_S = 1.0  # who got a line may ask for the next one, which may have been typed already
_LOOK_S = 0.2  # how long a change of the terminal, or the end, may go unnoticed


class Keyboard:
    """Reads lines of the terminal; *on_line* gets those that nobody waits for, until *is_over*."""

    def __init__(self, on_line: Callable[[str], None], is_over: Callable[[], bool]) -> None:
        self._on_line = on_line
        self._is_over = is_over
        self._asked = threading.Condition()  # guards what follows
        self._waiting = 0  # calls of `read_line`
        self._has_ended = False
        self._served_at = -_AGAIN_S  # of a monotonic clock
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()  # for them

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Read, and let ``sys.stdin`` wait for what is typed, until the block ends."""
        before = sys.stdin
        raw: Any = _TypedLines(self)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(raw), before.encoding, before.errors)
        threading.Thread(target=self._run, name="hayhooks keyboard", daemon=True).start()
        try:
            yield
        finally:
            sys.stdin = before

    def read_line(self) -> bytes:
        """Wait for the next line that is typed; b"" at the end."""
        with self._asked:
            if self._has_ended:
                return b""
            self._waiting += 1
            self._asked.notify()
        return self._lines.get()

    def _run(self) -> None:
        try:
            with suppress(OSError, termios.error):  # the terminal is gone
                self._read()
        finally:
            with self._asked:
                self._has_ended = True
                for _ in range(self._waiting):
                    self._lines.put(b"")

    def _read(self) -> None:
        terminal = select.poll()
        terminal.register(_STDIN, select.POLLIN)
        while not self._is_over():
            events = terminal.poll(_LOOK_S * 1000)
            if not events:
                continue
            if not _reads_lines():
                time.sleep(_LOOK_S)
                continue
            line = os.read(_STDIN, _LINE)
            with self._asked:
                pause_s = self._served_at + _AGAIN_S - time.monotonic()
                is_awaited = self._asked.wait_for(lambda: self._waiting > 0, max(pause_s, 0))
                if is_awaited:
                    self._waiting -= 1
                    self._served_at = time.monotonic()
                    self._lines.put(line)
            if is_awaited:
                continue
            if line:
                self._on_line(line.decode(errors="replace").strip())
            elif events[0][1] & select.POLLHUP:
                return


def _reads_lines() -> bool:
    """Whether the terminal is ours: no other program, no getpass() and no line editor reads it."""
    try:
        if os.tcgetpgrp(_STDIN) != os.getpgrp():  # in the background, reading would stop the process
            return False
    except OSError:  # it controls no processes
        pass
    modes = termios.tcgetattr(_STDIN)[3]
    return bool(modes & termios.ICANON and modes & termios.ECHO)


class _TypedLines(io.RawIOBase):
    """What ``sys.stdin.buffer`` reads."""

    name = "<stdin>"

    def __init__(self, keyboard: Keyboard) -> None:
        self._keyboard = keyboard

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        line = self._keyboard.read_line()
        buffer[: len(line)] = line
        return len(line)

    def fileno(self) -> int:
        return _STDIN

    def isatty(self) -> bool:
        return os.isatty(_STDIN)

    def close(self) -> None:
        """Stay open: it is standard input."""
