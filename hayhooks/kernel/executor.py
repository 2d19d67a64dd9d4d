"""Executor: the threads for what code hands to ``asyncio.to_thread``, ``run_in_executor`` or anyio.

An event loop has one default executor and anyio one default limiter, and a pipeline that fills them would stop all
others: Haystack's ``run_async`` puts every component there that has no ``run_async``. So both look at whose code runs
in their caller's context, and each deployment has threads of its own, see ``helper_threads``.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import anyio
from anyio import to_thread

from hayhooks.kernel.isolation import helper_threads
from hayhooks.kernel.threads import DaemonThreadPool, require_threads

_RESOLVER_THREADS = 4  # unless UV_THREADPOOL_SIZE says otherwise


async def start_resolver() -> None:
    """Have uvloop start its threads, which look up host names. Raises UnavailableError if there are too few.

    It starts them when code first connects to a host by name, and aborts the process if it cannot.
    """
    loop = asyncio.get_running_loop()
    if not _is_uvloop(loop):
        return
    require_threads(_RESOLVER_THREADS)
    with suppress(OSError):
        await loop.getaddrinfo("no number", None, flags=socket.AI_NUMERICHOST)  # fails without asking anybody


@contextmanager
def threads_by_deployment() -> Iterator[None]:
    """Give each deployment threads of its own on the running event loop, until the context ends."""
    loop = asyncio.get_running_loop()
    before: Executor | None = getattr(loop, "_default_executor", None)  # asyncio's; uvloop does not tell
    loop.set_default_executor(DeploymentExecutor(before))
    limiter = to_thread.current_default_thread_limiter()
    _set_limiter(DeploymentLimiter(limiter))

    async def getaddrinfo(
        host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        return await loop.run_in_executor(None, socket.getaddrinfo, host, port, family, type, proto, flags)

    if _is_uvloop(loop):
        # uvloop looks host names up in four threads of its own, for all; asyncio's own loop uses the executor.
        loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]  # of this loop alone
    try:
        yield
    finally:
        if _is_uvloop(loop):
            vars(loop).pop("getaddrinfo", None)
        _set_limiter(limiter)
        if isinstance(before, ThreadPoolExecutor):  # ours stays otherwise: without deployments it is an ordinary one
            loop.set_default_executor(before)


def _is_uvloop(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).__module__.partition(".")[0] == "uvloop"


def _set_limiter(limiter: anyio.CapacityLimiter) -> None:
    try:
        from anyio._backends._asyncio import _default_thread_limiter  # noqa: PLC0415 - private, so it may be missing
    except ImportError:
        return
    _default_thread_limiter.set(limiter)  # type: ignore[arg-type]  # it wants the class of this backend


class DeploymentExecutor(ThreadPoolExecutor):
    """A default executor: jobs of a wrapper's code run in threads of its deployment, others as *before*."""

    # A ThreadPoolExecutor because event loops accept no other.

    def __init__(self, before: Executor | None = None) -> None:
        super().__init__(thread_name_prefix="asyncio")
        self._before = before

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a job, which begins as soon as the caller's deployment has a thread."""
        threads = helper_threads()
        if threads is not None:
            return threads.call(partial(function, *args, **kwargs))
        if self._before is not None:
            return self._before.submit(function, *args, **kwargs)
        return super().submit(function, *args, **kwargs)


class DeploymentLimiter(anyio.CapacityLimiter):
    """A default limiter: the code of each deployment has tokens of its own, other code those of *before*."""

    _before: anyio.CapacityLimiter
    _limiters: WeakKeyDictionary[DaemonThreadPool, anyio.CapacityLimiter]
    _lent: dict[object, anyio.CapacityLimiter]  # by borrower: the context may be another's when a token is given back

    def __new__(cls, before: anyio.CapacityLimiter) -> Self:
        """Make a limiter of this class: anyio's would make one of its backend."""
        limiter = object.__new__(cls)
        limiter._before, limiter._limiters, limiter._lent = before, WeakKeyDictionary(), {}
        return limiter

    @property
    def _present(self) -> anyio.CapacityLimiter:
        threads = helper_threads()
        if threads is None:
            return self._before
        if threads not in self._limiters:
            self._limiters[threads] = anyio.CapacityLimiter(threads.limit)
        return self._limiters[threads]

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    @property
    def total_tokens(self) -> float:
        """How many tokens the caller's deployment has."""
        return self._present.total_tokens

    @total_tokens.setter
    def total_tokens(self, value: float) -> None:
        self._present.total_tokens = value

    @property
    def borrowed_tokens(self) -> int:
        """How many of them are lent."""
        return self._present.borrowed_tokens

    @property
    def available_tokens(self) -> float:
        """How many of them are free."""
        return self._present.available_tokens

    def acquire_nowait(self) -> None:
        """Lend a token to the current task, or raise WouldBlock."""
        self.acquire_on_behalf_of_nowait(asyncio.current_task())

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        """Lend a token to *borrower*, or raise WouldBlock."""
        limiter = self._present
        limiter.acquire_on_behalf_of_nowait(borrower)
        self._lent[borrower] = limiter

    async def acquire(self) -> None:
        """Lend a token to the current task as soon as there is one."""
        await self.acquire_on_behalf_of(asyncio.current_task())

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Lend a token to *borrower* as soon as there is one."""
        limiter = self._present
        await limiter.acquire_on_behalf_of(borrower)
        self._lent[borrower] = limiter

    def release(self) -> None:
        """Take the current task's token back."""
        self.release_on_behalf_of(asyncio.current_task())

    def release_on_behalf_of(self, borrower: object) -> None:
        """Take the token of *borrower* back; RuntimeError if it has none."""
        self._lent.pop(borrower, self._present).release_on_behalf_of(borrower)

    def statistics(self) -> anyio.CapacityLimiterStatistics:
        """Return anyio's statistics of the caller's deployment."""
        return self._present.statistics()
