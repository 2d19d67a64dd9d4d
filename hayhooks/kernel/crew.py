"""A crew: daemon threads that work off jobs, at most so many at a time."""

import queue
import threading
import time
from collections.abc import Callable

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
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0
        self._busy_since: dict[int, float] = {}  # only kept where patience is limited
        self._closed = False

    def submit(self, job: Job) -> None:
        """Have *job* run in a thread, in order of submission; a job must not raise."""
        with self._lock:
            self._jobs.put(job)
            if self._idle > 0:
                self._idle -= 1  # that one wakes for this job
            else:
                self._start_if_allowed()

    def relieve(self) -> None:
        """Start threads for waiting jobs in place of those that have been busy for longer than the patience."""
        with self._lock:
            for _ in range(self._jobs.qsize()):
                self._start_if_allowed()

    def close(self) -> None:
        """Let every thread end after its present job; jobs submitted later still run."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._jobs.put(None)

    def _start_if_allowed(self) -> None:
        now = time.monotonic()
        overdue = sum(now - since > self._patience_s for since in self._busy_since.values())
        if self._threads - overdue < self._limit:
            self._threads += 1
            threading.Thread(target=self._work, name=f"hayhooks {self._name}", daemon=True).start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if self._patience_s != float("inf"):
                self._busy_since[threading.get_ident()] = time.monotonic()
            job()
            self._busy_since.pop(threading.get_ident(), None)
            del job  # what it refers to must not live until the next job comes

    def _next(self) -> Job | None:
        try:
            job = self._jobs.get_nowait()
        except queue.Empty:
            with self._lock:
                self._idle += 1
            job = self._wait()
        if job is None:
            with self._lock:
                self._threads -= 1
        return job

    def _wait(self) -> Job | None:
        """Wait for a job; None when there was none for so long that this thread should end."""
        while True:
            try:
                return self._jobs.get(timeout=0 if self._closed else self._idle_s)
            except queue.Empty:
                with self._lock:  # submit puts and counts under this lock: what it meant for us is in the queue now
                    if self._jobs.empty():
                        self._idle -= 1
                        return None
