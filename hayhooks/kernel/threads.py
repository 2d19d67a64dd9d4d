"""A crew: daemon threads that work off jobs, at most so many at a time."""

import queue
import threading
import time
from collections.abc import Callable

from loguru import logger as log

Job = Callable[[], None]


class DaemonThreadPool:
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
        # A queue of C's own and a count, for a hop into a thread is most of what a short sync request costs: with a
        # condition around a deque it took three times the CPU.
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None: one thread may end
        self._lock = threading.Lock()  # guards all below
        self._threads = 0
        self._spare = 0  # threads without a job, less the jobs that none has taken yet
        self._busy_since: dict[int, float] = {}  # by thread; only where patience ends
        self._closed = False

    def submit(self, job: Job) -> None:
        """Have *job* run in a thread, in order of submission; a job must not raise."""
        with self._lock:
            if self._spare <= 0:
                self._start(1 - self._spare)
            self._spare -= 1
        self._jobs.put(job)

    def tick(self) -> None:
        """Start threads for waiting jobs in place of those that have been busy for longer than the patience."""
        with self._lock:
            self._start(-self._spare)

    def close(self) -> None:
        """Let every thread end after its present job; jobs submitted later still run."""
        with self._lock:
            self._closed = True
            for _ in range(self._spare):
                self._jobs.put(None)
                self._threads -= 1  # from now on: one that is about to end must not stand in the way of a new one
            self._spare = min(self._spare, 0)

    def _start(self, missing: int) -> None:
        """Start *missing* threads, as far as the limit allows."""
        now = time.monotonic()
        counted = self._threads - sum(now - since > self._patience_s for since in self._busy_since.values())
        for _ in range(min(missing, self._limit - counted)):
            threading.Thread(target=self._work, name=f"hayhooks {self._name}", daemon=True).start()
            self._threads += 1
            self._spare += 1

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except BaseException:  # a fault of ours; the thread, and the count of them, must survive it
                log.exception("A job of {} failed", threading.current_thread().name)
            del job  # what it refers to must not live until the next job comes
            if not self._goes_on():
                return

    def _next(self) -> Job | None:
        """The next job for this thread; None when it should end."""
        while True:
            try:
                job = self._jobs.get(timeout=self._idle_s)
            except queue.Empty:
                with self._lock:
                    if self._spare <= 0:  # no longer: a job is on its way to this thread
                        continue
                    self._spare -= 1
                    self._threads -= 1
                return None
            if job is not None and self._patience_s != float("inf"):
                with self._lock:
                    self._busy_since[threading.get_ident()] = time.monotonic()
            return job

    def _goes_on(self) -> bool:
        """Whether this thread, which has done its job, takes another."""
        with self._lock:
            self._busy_since.pop(threading.get_ident(), None)
            if self._closed and self._spare >= 0:
                self._threads -= 1
                return False
            self._spare += 1
            return True
