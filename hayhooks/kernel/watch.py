"""Watch: tick when something may have changed. A tick is a hint, never the truth.

Events can be lost, on network mounts for example; a full scan finds everything. So there is also a tick without paths
every poll interval, less often where full scans take long.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loguru import logger as log

from hayhooks.kernel.inotify import Inotify, PollableEvent

_EVENT_STEP_MS = 10  # a burst of events must pause for this long before it is reported: the least that a save costs
_MAX_BURST_MS = 400  # a burst of events is reported after this long, even if it goes on
_RETRY_EVENTS_AFTER_S = 30.0  # after an error that left only polling

# While events come, full scans take at most this share of a processor, and the poll interval grows instead, up to a
# maximum. Each system call of a scan hands the interpreter over: 1,000 folders take 50 ms of a processor alone, and up
# to 200 ms beside as many requests as there can be.
_MAX_SCAN_SHARE = 1 / 200
_MAX_POLL_INTERVAL_S = 10.0


@dataclass(frozen=True, slots=True)
class WatchState:
    """The sources of ticks at the moment."""

    directories: int  # that raise events; 0: only polling finds changes
    poll_interval_s: float
    problem: str = ""  # why there are no events, or not for all directories


class Watch:
    """Calls *tick* in a thread: with changed paths, and every *poll_interval_s*."""

    # Not watchfiles.awatch: it borrows from the thread pool that requests use, and starved with 60 of them blocked.

    def __init__(self, tick: Callable[[frozenset[str]], None], *, poll_interval_s: float, events: bool = True) -> None:
        self.state = WatchState(0, poll_interval_s, "" if events else "events are switched off")
        self._tick = tick
        self._poll_interval_s = poll_interval_s
        self._rest_s = 0.0  # the least time between two full scans while there are events
        self._events = events
        self._directories: Mapping[str, tuple[int, int]] = {}
        self._absent: tuple[str, ...] = ()  # of those, when the watch began
        # Set where other directories are to be watched.
        self._renew = PollableEvent() if sys.platform == "linux" else threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="hayhooks watch", daemon=True)

    def start(self) -> None:
        """Begin to tick; without events until ``follow`` is called."""
        self._thread.start()

    def follow(self, directories: Mapping[str, tuple[int, int]]) -> None:
        """Watch *directories* (real path: device and inode), but none below them."""
        # The identity shows that a directory was replaced by another of its name, which has to be watched anew.
        if directories != self._directories or any(os.path.isdir(directory) for directory in self._absent):
            self._directories = directories
            self._renew.set()

    def full_scan_took(self, cpu_s: float) -> None:
        """Note the processor time of a full scan: the next poll waits accordingly."""
        self._rest_s = min(cpu_s / _MAX_SCAN_SHARE, _MAX_POLL_INTERVAL_S)

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._renew.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        if isinstance(self._renew, PollableEvent) and not self._thread.is_alive():
            self._renew.close()

    def _run(self) -> None:
        while not self._stopped:
            self._renew.clear()
            try:
                if self._events:
                    present = [directory for directory in self._directories if os.path.isdir(directory)]
                    self._absent = tuple(self._directories.keys() - present)
                    self._watch(present)
                else:
                    self._poll(self._poll_interval_s)
            except FileNotFoundError:  # removed just now: the next scan no longer asks for it
                self._tick(frozenset())
                self._renew.wait(0.05)
            except Exception as error:  # whatever the file system does not support, polling still works
                problem = " ".join(str(error).split()) or type(error).__name__
                if not self.state.problem:
                    log.warning("No change events ({}): polling every {:g} s", problem, self._poll_interval_s)
                self.state = WatchState(0, self._poll_interval_s, problem)
                self._poll(_RETRY_EVENTS_AFTER_S)

    def _watch(self, directories: list[str]) -> None:
        with _backend(directories) as backend:
            # Directories are skipped when the system has no watches left.
            wanted, watched, problem = len(directories), getattr(backend, "watched", len(directories)), ""
            if watched < wanted:
                problem = f"only {watched} of {wanted} directories can be watched, see fs.inotify.max_user_watches"
            if problem and not self.state.problem:
                log.warning("{}: polling the others every {:g} s", problem, self._poll_interval_s)
            elif self.state.problem and not problem:
                log.info("Watching for change events again")
            self.state = WatchState(min(watched, wanted), self._poll_interval_s, problem)
            self._tick(frozenset())  # for changes before that
            poll_at = time.monotonic() + self._poll_interval_s
            while not self._renew.is_set():
                if time.monotonic() >= poll_at:
                    self._tick(frozenset())
                    rest_s = 0.0 if self.state.problem else self._rest_s
                    poll_at = time.monotonic() + max(self._poll_interval_s, rest_s)
                # A folder that changes all the time must not delay the poll.
                timeout_ms = max(int((poll_at - time.monotonic()) * 1000), 1)
                changes = backend.watch(_MAX_BURST_MS, _EVENT_STEP_MS, timeout_ms, self._renew)
                if not isinstance(changes, str):
                    paths = frozenset(path for _, path in changes)
                    self._tick(paths)
                    # A directory that was removed and made again may have the inode of before, and no watch.
                    if not paths.isdisjoint(self._directories):
                        return

    def _poll(self, duration_s: float) -> None:
        """Tick every poll interval for *duration_s*, or until ``follow``."""
        end = time.monotonic() + duration_s
        renew = False
        while not renew and time.monotonic() < end:
            renew = self._renew.wait(self._poll_interval_s)
            self._tick(frozenset())


def _backend(directories: list[str]) -> Any:
    if sys.platform == "linux":
        return Inotify(directories)
    else:  # noqa: RET505 - else type checkers on Linux find what follows unreachable
        # The library's documented backend and not its watch(): only here we know when the watch has begun.
        from watchfiles._rust_notify import RustNotify  # noqa: PLC0415 - row start: 79 ms, not needed on Linux

        return RustNotify(
            directories,
            debug=False,
            force_polling=False,
            poll_delay_ms=0,
            recursive=False,
            ignore_permission_denied=True,
        )
