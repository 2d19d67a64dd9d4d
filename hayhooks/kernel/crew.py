"""A crew: daemon threads that work off jobs, at most so many at a time."""

import threading
import time
from collections import deque
from collections.abc import Callable

from hayhooks.logger import log

Job = Callable[[], None]


class Crew:
    """Run jobs in daemon threads: *limit* at a time, threads started as needed and ended when idle.

    Ours and not ``ThreadPoolExecutor``, because the interpreter joins that one's threads on exit: one pipeline
    that hangs would keep the server from stopping. A crew belongs to one deployment (or to the loader), so a slow
    one cannot take another's threads.

    Args:
        name: shown in thread names.
        limit: how many jobs run at a time.
        patience_s: a job that runs longer than this no longer counts towards *limit*, so that some that hang do not
            stop the rest; ``relieve`` starts the replacements.
        idle_s: a thread without work ends after so many seconds.
    """

    def __init__(self, name: str, limit: int, *, patience_s: float = float("inf"), idle_s: float = 10.0) -> None:
        self._name = name
        self._limit = limit
        self._patience_s = patience_s
        self._idle_s = idle_s
        self._changed = threading.Condition(threading.Lock())  # guards all below
        self._jobs: deque[Job] = deque()
        self._idle = 0  # threads that wait, or have been woken and will look for a job
        self._busy_since: dict[int, float] = {}  # by thread
        self._closed = False

    def submit(self, job: Job) -> None:
        """Have *job* run in a thread, in order of submission; a job must not raise."""
        with self._changed:
            self._jobs.append(job)
            if self._idle:
                self._changed.notify()
            self._start_missing()

    def relieve(self) -> None:
        """Start threads for waiting jobs in place of those that have been busy for longer than the patience."""
        with self._changed:
            self._start_missing()

    def close(self) -> None:
        """Let every thread end after its present job; jobs submitted later still run."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _start_missing(self) -> None:
        """Start a thread for each job that no idle one will take, as far as the limit allows."""
        missing = len(self._jobs) - self._idle
        if missing <= 0:
            return
        now = time.monotonic()
        counted = sum(now - since <= self._patience_s for since in self._busy_since.values()) + self._idle
        for _ in range(min(missing, self._limit - counted)):
            thread = threading.Thread(target=self._work, name=f"hayhooks {self._name}", daemon=True)
            self._idle += 1  # as one that was woken
            thread.start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except BaseException:  # a fault of ours; the thread, and the count of them, must survive it
                log.exception("A job of {} failed", threading.current_thread().name)
            del job  # what it refers to must not live until the next job comes

    def _next(self) -> Job | None:
        """The next job for this thread, which is idle until then; None when it should end."""
        me = threading.get_ident()
        with self._changed:
            if self._busy_since.pop(me, None) is not None:
                self._idle += 1
            while not self._jobs:
                woken = not self._closed and self._changed.wait(self._idle_s)
                if not woken and not self._jobs:
                    self._idle -= 1
                    return None
            self._idle -= 1
            self._busy_since[me] = time.monotonic()
            return self._jobs.popleft()
