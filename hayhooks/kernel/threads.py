"""Threads: daemon thread pools, and outcomes of code in other threads and tasks."""

import asyncio
import contextvars
import os
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from loguru import logger as log

from hayhooks.errors import UnavailableError

T = TypeVar("T")

Job = Callable[[], object]

NO_THREAD = "The system starts no more threads (ulimit -u, pids.max, memory)"

OnLoop = Callable[[Callable[[], Awaitable[Any]]], Any]  # runs a coroutine function on the serving loop, and waits


@dataclass(slots=True)
class Outcome:
    """A result or an error; SystemExit raised inside a task would end the event loop."""

    result: Any = None
    error: BaseException | None = None

    @classmethod
    def of(cls, function: Callable[[], Any]) -> "Outcome":
        """Call *function*."""
        try:
            return cls(function())
        # User code may raise anything.
        except BaseException as error:
            return cls(error=error)

    @classmethod
    async def awaited(cls, awaitable: Awaitable[Any]) -> "Outcome":
        """Await *awaitable*."""
        try:
            return cls(await awaitable)
        # User code may raise anything.
        except BaseException as error:
            return cls(error=error)

    def unwrap(self) -> Any:
        """Return the result or raise the error; call it once."""
        if self.error is None:
            return self.result
        try:
            raise self.error
        finally:
            self.error = None  # or the error and the frames of its traceback would be a reference cycle


def run_on(loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[Any]]) -> Any:
    """Call *function* on the *loop* of another thread, and return its result."""

    async def call() -> Any:
        return await function()

    return asyncio.run_coroutine_threadsafe(Outcome.awaited(call()), loop).result().unwrap()


# All pools: a forked child has none of their threads.
_pools: "WeakSet[DaemonThreadPool]" = WeakSet()


class DaemonThreadPool:
    """Runs at most *limit* jobs at a time in daemon threads, started on demand.

    A job that runs longer than *stuck_after_s* no longer counts towards *limit*: ``tick`` starts a thread in its place,
    and its own thread ends with it. Where the system starts no more threads, jobs wait for those that there are.
    """

    # Not ThreadPoolExecutor: the interpreter joins its threads at exit, so a pipeline that hangs would keep the server
    # from stopping. Each deployment has a pool of its own, so a slow one cannot take the threads of another.

    remembered_frames = 0  # by each coroutine, of the code that makes it in a thread of a pool; development sets it

    def __init__(self, name: str, limit: int, *, stuck_after_s: float = float("inf"), idle_s: float = 10.0) -> None:
        self._name = name
        self.limit = limit
        self._stuck_after_s = stuck_after_s
        self._idle_s = idle_s  # an idle thread ends after this time
        # Not a condition around a deque: that costs three times the CPU (benchmark row run-sync).
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None: one thread may end
        self._lock = threading.Lock()  # guards everything below
        self._threads = 0
        self._kept = 0  # of them, however long they are idle
        self._idle = 0  # idle threads minus queued jobs; negative when jobs wait
        # By thread, its job and until when that counts; only with a finite stuck_after_s.
        self._busy: dict[int, tuple[Job, float]] = {}
        self._closed = False
        self._lacks_threads = False  # the system did not start the last one
        _pools.add(self)

    def keep_thread(self) -> None:
        """Have one thread until ``close``; then ``submit`` cannot fail. Raises UnavailableError."""
        with self._lock:
            self._closed, self._kept = False, 1
            if not self._threads:
                self._start_threads(1)
            self._require_thread()

    def submit(self, job: Job) -> None:
        """Queue *job*, which must not raise; jobs start in the order of submission.

        Raises UnavailableError, and forgets the job, if there is no thread and none can be started.
        """
        with self._lock:
            if self._idle <= 0:
                self._start_threads(1 - self._idle)
                self._require_thread()
            self._idle -= 1
        self._jobs.put(job)

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Queue *function*, which may raise anything; the future has its result."""
        future: Future[T] = Future()
        self.submit(partial(_settle, future, function))
        return future

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call *function* in a thread, in this context, and wait for its result."""
        call = partial(contextvars.copy_context().run, function, *args)
        return await asyncio.wrap_future(self.call(call))

    def make_room(self, job: Job, after_s: float) -> None:
        """Count *job* for *after_s* at most from now on, if it runs: nobody waits for its result any more."""
        end = time.monotonic() + after_s
        with self._lock:
            for thread, (running, counts_until) in self._busy.items():
                if running is job:
                    self._busy[thread] = job, min(counts_until, end)

    def tick(self) -> None:
        """Start threads in place of stuck ones; call it about once a second."""
        with self._lock:
            self._start_threads(-self._idle)

    def close(self) -> None:
        """Let every thread end after its present job; jobs submitted later still run."""
        with self._lock:
            self._closed, self._kept = True, 0
            for _ in range(self._idle):
                self._jobs.put(None)
                self._threads -= 1  # already now: a thread that is about to end must not count towards the limit
            self._idle = min(self._idle, 0)

    def forget_threads(self) -> None:
        """Begin anew in a forked child: the threads, the jobs and whoever held the lock are its parent's."""
        self._jobs, self._lock, self._busy = queue.SimpleQueue(), threading.Lock(), {}
        self._threads = self._kept = self._idle = 0
        self._closed = False

    def _counted(self) -> int:
        """Return the number of threads without those whose job is stuck."""
        now = time.monotonic()
        return self._threads - sum(now > counts_until for _, counts_until in self._busy.values())

    def _start_threads(self, wanted: int) -> None:
        for _ in range(min(wanted, self.limit - self._counted())):
            try:
                threading.Thread(target=self._work, name=f"hayhooks {self._name}", daemon=True).start()
            except RuntimeError:  # of the system: later calls try again
                if not self._lacks_threads:
                    log.warning("{}: jobs of {!r} wait for the threads that there are", NO_THREAD, self._name)
                self._lacks_threads = True
                return
            self._lacks_threads = False
            self._threads += 1
            self._idle += 1

    def _require_thread(self) -> None:
        if not self._threads:
            raise UnavailableError(NO_THREAD)

    def _work(self) -> None:
        if self.remembered_frames:
            sys.set_coroutine_origin_tracking_depth(self.remembered_frames)
        jobs, can_be_stuck = self._jobs, self._stuck_after_s != float("inf")
        while True:
            try:
                job = jobs.get(timeout=self._idle_s)
            except queue.Empty:
                with self._lock:
                    # The first: a job for this thread has been counted, and is about to be queued.
                    if self._idle <= 0 or self._threads <= self._kept:
                        continue
                    self._idle -= 1
                    self._threads -= 1
                    return
            if job is None:
                return
            if can_be_stuck:
                with self._lock:
                    self._busy[threading.get_ident()] = job, time.monotonic() + self._stuck_after_s
            try:
                job()
            except BaseException:  # a fault of ours; the thread, and the count of threads, must survive it
                log.exception("A job of {} failed", threading.current_thread().name)
            if can_be_stuck:
                with self._lock:  # and here nothing that the job refers to ends
                    self._busy.pop(threading.get_ident(), None)
            del job  # or its referents would live until the next job
            # Where the job has forked, and returned in the child too, that ends with this thread.
            if jobs is not self._jobs or not self._becomes_idle():
                return

    def _becomes_idle(self) -> bool:
        """Count the thread as idle; or as one that ends, and return False."""
        with self._lock:
            is_surplus = self._threads > self.limit and self._counted() > self.limit  # another one has taken its place
            if is_surplus or (self._closed and self._idle >= 0):
                self._threads -= 1
                return False
            self._idle += 1
            return True


def require_threads(count: int) -> None:
    """Raise UnavailableError if the system would not start *count* threads now."""
    over = threading.Event()
    threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:
        raise UnavailableError(NO_THREAD) from None
    finally:
        over.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def _settle(future: "Future[T]", function: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    # It may be user code, and whoever waits gets the error.
    except BaseException as error:
        future.set_exception(error)
        del future  # or the error and the frames of its traceback would be a reference cycle


def _forget_threads() -> None:
    for pool in list(_pools):
        pool.forget_threads()


os.register_at_fork(after_in_child=_forget_threads)  # for good: Python cannot undo it

# For the server's own work, such as drawings and API documents. No wrapper can hand work to these threads; where its
# classes make them hang, others take their place.
server_threads = DaemonThreadPool("server", limit=4, stuck_after_s=1.0)
