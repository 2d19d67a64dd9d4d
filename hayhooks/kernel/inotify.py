"""Inotify: change events of directories, on Linux.

watchfiles starts a thread for each watch, and where the system starts none it aborts the process: a panic while
another one unwinds. Here the kernel is asked in the caller's thread.
"""

import ctypes
import errno
import io
import os
import select
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Self

_CHANGES = 0x002 | 0x004 | 0x040 | 0x080 | 0x100 | 0x200  # of content, metadata; moved from, to; created, deleted
_OF_ITSELF = 0x400 | 0x800  # the directory was deleted, moved
_OVERFLOW, _IGNORED = 0x4000, 0x8000  # events were lost; a watch has ended
_EVENT = struct.Struct("iIII")  # watch, what happened, number of a rename, bytes of the name that follows

_BUFFER_BYTES = 64 * 1024
_ONE = (1).to_bytes(8, sys.byteorder)  # what an eventfd counts by

LOST_EVENTS = (0, "")  # in place of the changes that the system could not report


class PollableEvent(threading.Event):
    """A ``threading.Event`` that can be polled beside descriptors: it is readable while it is set."""

    # To look at an event many times a second would take the interpreter lock from the requests each time.

    def __init__(self) -> None:
        super().__init__()
        self._file = io.FileIO(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), "r+")
        self.fileno = self._file.fileno
        self._lock = threading.Lock()  # the flag and the descriptor change together

    def set(self) -> None:
        """Set the event; nothing can be polled after ``close``."""
        with self._lock:
            super().set()
            with suppress(OSError, ValueError):  # a wrapper has closed all descriptors, or we this one
                self._file.write(_ONE)

    def clear(self) -> None:
        """Clear the event."""
        with self._lock:
            super().clear()
            with suppress(OSError, ValueError):
                self._file.read(len(_ONE))

    def close(self) -> None:
        """Close the descriptor."""
        with suppress(OSError):
            self._file.close()


class Inotify:
    """Watches *directories*, but none below them, with the interface of watchfiles' ``RustNotify``.

    Raises FileNotFoundError if one of them is not there, and OSError if the system has no inotify instance left.
    Directories that cannot be read, or exceed the system's limit, are left out: see ``watched``.
    """

    def __init__(self, directories: Iterable[str]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._paths: dict[int, set[str]] = {}  # by watch; a directory may be mounted in two places
        try:
            for directory in directories:
                watch = libc.inotify_add_watch(self._descriptor, os.fsencode(directory), _CHANGES | _OF_ITSELF)
                if watch >= 0:
                    self._paths.setdefault(watch, set()).add(directory)
                elif ctypes.get_errno() not in (errno.EACCES, errno.ENOSPC):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
        except BaseException:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    @property
    def watched(self) -> int:
        """How many directories raise events."""
        return sum(map(len, self._paths.values()))

    def watch(
        self, max_burst_ms: int, step_ms: int, timeout_ms: int, stop: PollableEvent
    ) -> "set[tuple[int, str]] | str":
        """Wait for changes, until none comes for *step_ms* or they have come for *max_burst_ms*.

        Returns their paths, each with a number that means nothing, or a word why there are none.
        """
        changes: set[tuple[int, str]] = set()
        self._poll.register(stop, select.POLLIN)
        end = time.monotonic() + timeout_ms / 1000
        while True:
            left_ms = (end - time.monotonic()) * 1000
            ready = dict(self._poll.poll(max(min(step_ms, left_ms) if changes else left_ms, 0)))
            if stop.is_set():
                return changes or "stop"
            if any(what & select.POLLNVAL for what in ready.values()):
                raise OSError(errno.EBADF, "a descriptor was closed by other code")
            if self._descriptor in ready:
                if not changes:
                    end = time.monotonic() + max_burst_ms / 1000
                changes.update(self._read())
            elif changes:
                return changes
            if time.monotonic() >= end:
                return changes or "timeout"

    def close(self) -> None:
        """End all watches."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> Iterator[tuple[int, str]]:
        events, start = os.read(self._descriptor, _BUFFER_BYTES), 0
        while start < len(events):
            watch, what, _, length = _EVENT.unpack_from(events, start)
            start += _EVENT.size
            name = os.fsdecode(events[start : start + length].rstrip(b"\0"))
            start += length
            if what & _OVERFLOW:
                yield LOST_EVENTS
            for directory in self._paths.get(watch, ()):
                yield 0, f"{directory}/{name}" if name else directory
            if what & _IGNORED:
                self._paths.pop(watch, None)
