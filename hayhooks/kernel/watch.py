"""Watch: tell that something may have changed. A tick is a hint, never the truth.

Events can be lost (network mounts, a full inotify queue, a change made before the watch began), a fresh look
cannot: so there is a tick without a hint every look-around time, or some seconds where looks take long.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loguru import logger as log
from watchfiles._rust_notify import RustNotify

_DEBOUNCE_MS = 400  # a burst of events is told after this long, even if it goes on
_RETRY_S = 30.0  # after this long without events they are tried again

# While events come, looking around takes a two-hundredth of a processor and waits longer instead, but not for longer
# than this. Each of its system calls hands the interpreter over: a look at 1,000 folders takes 50 ms of a processor
# alone, and up to 200 beside as many requests as can be.
_REST = 200.0
_LONGEST_REST_S = 10.0


@dataclass(frozen=True, slots=True)
class Watching:
    """How changes are noticed at the moment."""

    directories: int  # how many tell of changes by themselves; 0: only looking around finds any
    look_around_s: float
    problem: str = ""  # why there are no events, "" if there are


class Watch:
    """Watches directories in a thread of its own, and tells the paths that changed.

    The thread is ours: ``awatch`` borrows from the thread pool that requests use, and starved with 60 of them blocked.

    Args:
        tell: called in that thread with the changed paths, and with none whenever the look-around time is over.
        look_around_s: the time between two ticks of the latter kind; where there are events and looks take long, it
            is longer.
        events: whether to ask the file system at all.
        step_ms: how long a burst of events must pause before it is told: what a save costs at the least.
    """

    def __init__(
        self,
        tell: Callable[[frozenset[str]], None],
        *,
        look_around_s: float,
        events: bool = True,
        step_ms: int = 10,
    ) -> None:
        self.state = Watching(0, look_around_s, "" if events else "events are switched off")
        self._tell = tell
        self._look_around_s = look_around_s
        self._rest_s = 0.0
        self._events = events
        self._step_ms = step_ms
        self._directories: Mapping[str, tuple[int, int]] = {}
        self._absent: tuple[str, ...] = ()  # of those, when the watch began
        self._renew = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="hayhooks watch", daemon=True)

    def start(self) -> None:
        """Begin to tell; until ``follow`` is called, only every look-around time."""
        self._thread.start()

    def follow(self, directories: Mapping[str, tuple[int, int]]) -> None:
        """Watch *directories* (real path: device and inode) from now on, not what lies below them.

        The identities make a directory that was replaced by another of its name a new one to watch.
        """
        if directories != self._directories or any(os.path.isdir(directory) for directory in self._absent):
            self._directories = directories
            self._renew.set()

    def looked_around(self, took_s: float) -> None:
        """Note how much of a processor's time a look at everything has taken."""
        self._rest_s = min(_REST * took_s, _LONGEST_REST_S)

    def stop(self) -> None:
        """End the thread, within some milliseconds."""
        self._stopped = True
        self._renew.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._stopped:
            self._renew.clear()
            try:
                if self._events:
                    present = [directory for directory in self._directories if os.path.isdir(directory)]
                    self._absent = tuple(self._directories.keys() - present)
                    self._watch_once(present)
                else:
                    self._look_around(self._look_around_s)
            except FileNotFoundError:  # removed just now: the next look no longer asks for it
                self._tell(frozenset())
                self._renew.wait(0.05)
            except Exception as error:  # whatever the file system does not support, looking around still works
                self._do_without(" ".join(str(error).split()) or type(error).__name__)

    def _watch_once(self, directories: list[str]) -> None:
        """Tell of changes in *directories* until others are to be watched."""
        # The library's documented backend and not its watch(): only here it can be told when a new watch is on.
        before = _watches()
        with RustNotify(
            directories,
            debug=False,
            force_polling=False,
            poll_delay_ms=0,
            recursive=False,
            ignore_permission_denied=True,
        ) as backend:
            mine = [count for descriptor, count in _watches().items() if before.get(descriptor) != count]
            self._report(len(directories), max(mine, default=len(directories)))
            self._tell(frozenset())  # what happened before that
            look_at = time.monotonic() + self._look_around_s
            while not self._renew.is_set():
                if time.monotonic() >= look_at:
                    self._tell(frozenset())
                    rest_s = 0.0 if self.state.problem else self._rest_s
                    look_at = time.monotonic() + max(self._look_around_s, rest_s)
                # A folder that changes all the time must not keep us from looking at the others.
                timeout_ms = max(int((look_at - time.monotonic()) * 1000), 1)
                changes = backend.watch(_DEBOUNCE_MS, self._step_ms, timeout_ms, self._renew)
                if not isinstance(changes, str):
                    paths = frozenset(path for _, path in changes)
                    self._tell(paths)
                    # A directory that was removed and made again may have the inode of before, and no watch.
                    if not paths.isdisjoint(self._directories):
                        return

    def _report(self, wanted: int, watched: int) -> None:
        """Say how it goes: the backend passes over directories for which there is no watch left."""
        problem = ""
        if watched < wanted:
            problem = f"only {watched} of {wanted} directories can be watched, see fs.inotify.max_user_watches"
        if problem and not self.state.problem:
            log.warning("{}: for the others, looking around every {:g} s", problem, self._look_around_s)
        elif self.state.problem and not problem:
            log.info("Watching for changes again")
        self.state = Watching(min(watched, wanted), self._look_around_s, problem)

    def _do_without(self, problem: str) -> None:
        """Look around for a while, then try events again."""
        if not self.state.problem:
            log.warning("Cannot watch for changes ({}): looking around every {:g} s", problem, self._look_around_s)
        self.state = Watching(0, self._look_around_s, problem)
        self._look_around(_RETRY_S)

    def _look_around(self, duration_s: float) -> None:
        """Tick every look-around time for *duration_s*, or until other directories are to be watched."""
        end = time.monotonic() + duration_s
        renew = False
        while not renew and time.monotonic() < end:
            renew = self._renew.wait(self._look_around_s)
            self._tell(frozenset())


def _watches() -> dict[str, int]:
    """How many directories each inotify descriptor of this process watches; empty where there is no Linux to tell."""
    try:
        descriptors = os.listdir("/proc/self/fdinfo")
    except OSError:
        return {}
    return {descriptor: count for descriptor in descriptors if (count := _watches_of(descriptor))}


def _watches_of(descriptor: str) -> int:
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as lines:
            return sum(line.startswith("inotify wd") for line in lines)
    except OSError:  # closed since
        return 0
