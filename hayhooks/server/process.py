"""Process-wide changes for a process that only serves hayhooks."""

import gc
import os
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

from hayhooks.kernel.standard_streams import restore_descriptors

if TYPE_CHECKING:
    from hayhooks.app import Hayhooks

# How long a thread may hold the interpreter while others wait for it. With Python's default of 5 ms the event loop
# waits too long beside pipelines that compute. Shorter intervals cost threads more CPU time (docs/performance.md).
_SWITCH_INTERVAL_S = 0.002

_KEEP_INTERVAL_S = 1.0  # how long a standard descriptor that a request has closed may stay closed

# After the shutdown, for threads that wrappers started: what is left of the graceful time, within these limits.
_MIN_EXIT_GRACE_S = 0.5
_MAX_EXIT_GRACE_S = 2.0

_LAST_LINES_S = 0.5  # nobody may be reading them
_EXIT_AT_ONCE_S = 0.5  # after a second Ctrl+C
_FORCED_EXIT_S = 3.0  # after the graceful time: the event loop itself may stand in a wrapper's code


@contextmanager
def permanent_imports() -> Iterator[None]:
    """Keep the imports in this context out of garbage collections, to start faster."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


def own_process(app: "Hayhooks") -> "Hayhooks":
    """Let *app* change the whole process while it is served, and end it afterwards.

    - ``gc.freeze`` before the first load: a full collection would stop all requests for long.
    - ``malloc_trim`` after reloads: glibc would keep most of what they free.
    - a shorter switch interval: threads that compute would delay the event loop.
    - a watchdog: what blocks the event loop is logged.
    - prints go through the log writers, and closed standard descriptors are opened again.
    - coroutines that were never awaited are logged, in place of Python's warning.
    - ``os._exit`` after the shutdown: Python would wait for threads that wrappers left running. Also when the graceful
      time is over and the shutdown has not ended, because a wrapper's code holds the event loop.
    """
    # The command line imports this module, and shall start quickly.
    import asyncio  # noqa: PLC0415

    from hayhooks.observability.log import queue_prints  # noqa: PLC0415
    from hayhooks.observability.unawaited import log_unawaited  # noqa: PLC0415

    lifespan = app.router.lifespan_context
    app.owns_process = True
    app.watch_event_loop()
    queue_prints()
    log_unawaited()

    async def keep_descriptors() -> None:
        while True:
            restore_descriptors()
            await asyncio.sleep(_KEEP_INTERVAL_S)

    @asynccontextmanager
    async def lifespan_and_exit(app: "Hayhooks") -> AsyncIterator[None]:
        end = _Exit()
        app.hooks.on_stop.append(lambda: end.at(app.stop_by + _FORCED_EXIT_S))
        app.hooks.on_stop_at_once.append(lambda: end.at(time.monotonic() + _EXIT_AT_ONCE_S))
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        keeping = asyncio.create_task(keep_descriptors())
        try:
            async with lifespan(app):
                yield
        finally:
            keeping.cancel()
            sys.setswitchinterval(before)
        now = time.monotonic()
        end.at(now + min(max(app.stop_by - now, _MIN_EXIT_GRACE_S), _MAX_EXIT_GRACE_S))

    app.router.lifespan_context = lifespan_and_exit
    return app


class _Exit:
    """Ends the process at a given time, whatever its threads do. Its own thread runs from the start."""

    def __init__(self) -> None:
        self._times: queue.SimpleQueue[float] = queue.SimpleQueue()  # of a monotonic clock
        threading.Thread(target=self._run, name="hayhooks exit", daemon=True).start()

    def at(self, time_: float) -> None:
        """End it at *time_*, of a monotonic clock, or earlier; signal handlers may call this."""
        self._times.put(time_)  # which is reentrant

    def _run(self) -> None:
        # The command line imports this module, and shall start quickly.
        from hayhooks.observability.log import STDERR, STDOUT, log, writer_of  # noqa: PLC0415

        end = self._times.get()
        with suppress(queue.Empty):
            while True:
                end = min(end, self._times.get(timeout=max(end - time.monotonic(), 0.0)))
        log.warning("Exited while code of wrappers was still running")
        sys.stdout.flush()
        for descriptor in (STDOUT, STDERR):
            writer_of(descriptor).drain(_LAST_LINES_S)
        os._exit(0)
