"""Watchdog: a thread that measures how late the event loop is, and logs whose code blocks it.

It asks the loop for an answer a few times a second. Requests pay nothing for it.
"""

import asyncio
import linecache
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from hayhooks.errors import Place
from hayhooks.kernel.admission import Lease
from hayhooks.kernel.calls import running_calls
from hayhooks.kernel.places import innermost_place, outward
from hayhooks.kernel.state import Deployment, Revision
from hayhooks.observability.log import log

BLOCKED_AFTER_S = 1.0  # what is logged where nobody watches

_STILL_BLOCKED_S = (2.0, 10.0, 60.0)  # a loop that is blocked for longer is logged before it goes on
_MAX_PAUSE_S = 0.5  # between two looks at a blocked loop
_WINDOW_S = 60.0  # of the longest lag: Prometheus asks more often
# What no line of the user's code on the loop explains may be a busy machine for as long: in code of a deployment, and
# in other code.
_MIN_ELSEWHERE_S, _MIN_FOREIGN_S = 0.5, 1.0
_STOPS_WITHIN_S = 0.3  # what keeps the server from stopping for longer is told
_MOST_CALLS = 5  # of these
_AT_ONCE = "Ctrl+C ends it at once"
_DEBUGGERS = ("bdb", "pdb")  # modules: a person has stopped the loop


class _Blocker(NamedTuple):
    """Whose code keeps the event loop from running."""

    name: str = ""  # of the deployment
    revision: str = ""
    place: str = ""  # the innermost line of the deployment's own code, else of any; "" if none runs
    is_own: bool = False  # it is the deployment's own
    in_thread: bool = False  # it does not run on the loop, but holds the interpreter lock

    def __str__(self) -> str:
        if self.is_own:
            advice = "it holds the interpreter lock in a thread" if self.in_thread else "use def, or asyncio.to_thread"
            return f"by {self.name}, {self.place.rstrip(':')}: {advice}"  # that of a `while`, for example
        if self.name:
            return f"by {self.name}, in {self.place}"
        return f"at {self.place}" if self.place else "by code in other threads that holds the interpreter lock"


class Watchdog:
    """Watches the running event loop.

    A line is logged once for each place that blocks it for longer than *blocked_after_s*. The code is that of the
    *loaded* deployments, or of the revisions that are *loading*. Those that are *waiting* serve once the loop goes on.
    """

    def __init__(
        self,
        blocked_after_s: float,
        loaded: Callable[[], Sequence[Deployment]],
        loading: Callable[[], Sequence[Revision]] = list,
        waiting: Callable[[], Sequence[Revision]] = list,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._blocked_after_s = blocked_after_s
        self._loaded = loaded
        self._loading = loading
        self._waiting = waiting
        self._told_waiting: dict[str, Revision] = {}  # by name
        self._stop_by = 0.0  # of a monotonic clock; 0: no stop is to be told of
        self._stop_asked_at = 0.0
        self._answered_at = 0.0  # of a monotonic clock; the loop writes
        self._lags: deque[tuple[float, float]] = deque()  # when and how long, the longest first; the thread writes
        self._holder = _Blocker()  # who held the interpreter lock when this thread wanted it
        self._told: set[_Blocker] = set()
        self._stopped = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch until the block ends."""
        threading.Thread(target=self._run, name="hayhooks watchdog", daemon=True).start()
        try:
            yield
        finally:
            self._stopped.set()

    def stop_asked(self, stop_by: float) -> None:
        """Log what keeps the server from stopping before *stop_by*; signal handlers may call this."""
        self._stop_asked_at, self._stop_by = time.monotonic(), stop_by

    def longest_lag(self) -> float:
        """Return for how many seconds the event loop has let others wait, at most, in the last minute."""
        since = time.monotonic() - _WINDOW_S
        return max((lag for at, lag in self._lags.copy() if at > since), default=0.0)

    def _run(self) -> None:
        while True:
            pause_s, cpu_s = self._blocked_after_s / 5, time.process_time()
            ask_at = time.monotonic() + pause_s  # but this thread may get the interpreter much later
            if self._has_been_set(self._stopped, pause_s):
                return
            self._tell_what_runs()
            try:
                self._ask(ask_at, cpu_s)
            except RuntimeError:  # the loop is closed
                return

    def _has_been_set(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait for *event*, and look who held the interpreter lock if that took far longer than *timeout_s*."""
        end = time.monotonic() + timeout_s
        is_set = event.wait(timeout_s)
        if time.monotonic() - end > self._blocked_after_s / 2:
            self._holder = self._code_in_threads()
        return is_set

    def _ask(self, asked_at: float, cpu_s: float) -> None:
        """Wait for the loop's answer, and look meanwhile at what it runs; *cpu_s* is what the process had used."""
        answered = threading.Event()

        def answer() -> None:
            self._answered_at = time.monotonic()
            answered.set()

        self._loop.call_soon_threadsafe(answer)
        seen: Counter[_Blocker] = Counter()
        pause_s, still_blocked_s = self._blocked_after_s / 2, list(_STILL_BLOCKED_S)
        is_debugged = False
        while not self._has_been_set(answered, pause_s):
            frames = list(outward(sys._current_frames().get(self._loop_thread)))
            if self._stopped.is_set():
                return
            is_debugged |= any(frame.f_globals.get("__name__") in _DEBUGGERS for frame in frames)
            seen[self._blocker(frames)] += 1
            so_far = time.monotonic() - asked_at
            pause_s = min(max(self._blocked_after_s / 4, so_far / 20), _MAX_PAUSE_S)
            if not is_debugged:
                self._tell_meanwhile(seen, so_far, still_blocked_s)
        lag = self._answered_at - asked_at
        while self._lags and (self._lags[-1][1] <= lag or self._lags[0][0] < asked_at - _WINDOW_S):
            self._lags.pop() if self._lags[-1][1] <= lag else self._lags.popleft()
        self._lags.append((self._answered_at, lag))
        # A process that was stopped, as by Ctrl+Z, is no fault of any code.
        if lag > self._blocked_after_s and not is_debugged and (seen or time.process_time() - cpu_s > lag / 10):
            self._tell(seen, lag, "blocked", is_over=True)
        self._holder = _Blocker()

    def _tell_meanwhile(self, seen: Counter[_Blocker], so_far: float, still_blocked_s: list[float]) -> None:
        """Log what is to be known of a loop that has been blocked for *so_far* s; drop from *still_blocked_s*."""
        if self._stop_by and (any(each.name for each in seen) or so_far > _MIN_FOREIGN_S):
            self._stop_by = 0.0
            self._tell(seen, so_far, "cannot stop: it has been blocked for", rest=f"; {_AT_ONCE}")
        self._tell_what_runs()
        if still_blocked_s and so_far > still_blocked_s[0]:
            del still_blocked_s[0]
            self._tell(seen, so_far, "has been blocked for", note="; nothing is served until it ends")
        if so_far < _STILL_BLOCKED_S[0]:
            return
        for revision in self._waiting():
            if self._told_waiting.get(revision.name) is not revision:
                self._told_waiting[revision.name] = revision
                message = "{}: revision {} waits, as requests do, until the event loop goes on; if it never does, {}"
                log.warning(message, revision.name, revision.id, "only a restart helps")

    def _tell_what_runs(self) -> None:
        """Log the calls that the server waits for, shortly after it was asked to stop."""
        now = time.monotonic()
        if not self._stop_by or now - self._stop_asked_at < _STOPS_WITHIN_S:
            return
        left_s, self._stop_by = max(self._stop_by - now, 0), 0.0
        calls = [(each.revision, text) for each in self._loaded() for _, text in running_calls(each)]
        counts = Counter((revision.name, revision.id, text) for revision, text in calls).most_common()
        for (name, revision_id, text), count in counts[:_MOST_CALLS]:
            times = f" ({count} times)" if count > 1 else ""
            message = "stopping waits up to {:.0f} s for {}, {}{}; " + _AT_ONCE
            log.bind(pipeline=name, revision=revision_id).warning(message, left_s, name, text, times)
        if rest := len(counts[_MOST_CALLS:]):
            log.warning("stopping waits for {} calls at other lines too", rest)

    def _tell(
        self,
        seen: Counter[_Blocker],
        blocked_s: float,
        verb: str,
        *,
        is_over: bool = False,
        rest: str = "",
        note: str = "",
    ) -> None:
        """Log who was *seen* most often, and the *note*, unless that is known and there is no *rest* to say."""
        own = [each for each in seen if each.is_own]
        is_own = 2 * sum(map(seen.__getitem__, own)) >= seen.total() > 0
        blocker = max(own if is_own else seen, key=seen.__getitem__, default=_Blocker())
        if not blocker.place:
            blocker = self._holder
        least_s = 0.0 if is_own else _MIN_ELSEWHERE_S if blocker.name else _MIN_FOREIGN_S
        if not rest and (blocker in self._told or blocked_s <= least_s):
            return
        if is_over:
            self._told.add(blocker)
        logger = log.bind(event="loop_blocked", blocked_s=round(blocked_s, 3))
        if blocker.name:
            logger = logger.bind(pipeline=blocker.name, revision=blocker.revision)
        logger.warning("event loop {} {:.1f} s {}{}", verb, blocked_s, blocker, rest or note)

    def _blocker(self, frames: Sequence[FrameType]) -> _Blocker:
        """Return whose code the loop runs, to judge by its task and by the *frames* of its thread."""
        task, loaded = asyncio.current_task(self._loop), self._loaded()
        asked = [each.revision for each in loaded if task and any(lease.task is task for lease in _leases(each))]
        others = [*(each.revision for each in loaded), *self._loading()]
        for revision in (*asked, *others):  # the task's first: several may share a module
            if found := _own_code(revision, frames):
                return found
        if task is None or not frames:
            return _Blocker()
        file, line = frames[0].f_code.co_filename, frames[0].f_lineno
        place = str(Place(file, line, linecache.getline(file, line).strip()))
        return _Blocker(asked[0].name, asked[0].id, place) if asked else _Blocker(place=place)

    def _code_in_threads(self) -> _Blocker:
        """Return the code of a deployment that runs in a thread, if it is of one alone."""
        busy = [each.revision for each in self._loaded() if any(lease.thread for lease in _leases(each))]
        threads = [list(outward(frame)) for id, frame in sys._current_frames().items() if id != self._loop_thread]
        found = {code for frames in threads for revision in busy if (code := _own_code(revision, frames))}
        return found.pop()._replace(in_thread=True) if len(found) == 1 else _Blocker()


def _leases(deployment: Deployment) -> tuple[Lease, ...]:
    return deployment.runtime.leases.held


def _own_code(revision: Revision, frames: Sequence[FrameType]) -> _Blocker | None:
    """Return the innermost line of *revision* in *frames*."""
    place = innermost_place(revision, ((frame.f_code.co_filename, frame.f_lineno) for frame in frames))
    shown = str(place).removeprefix(f"{revision.path}/")
    return _Blocker(revision.name, revision.id, shown, is_own=True) if place else None
