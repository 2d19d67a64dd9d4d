"""Process-wide changes for a process that only serves hayhooks."""

import gc
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hayhooks.app import Hayhooks

# How long a thread may hold the interpreter while others wait for it. With Python's default of 5 ms the event loop
# waits too long beside pipelines that compute. Shorter intervals cost threads more CPU time (docs/performance.md).
_SWITCH_INTERVAL_S = 0.002

_EXIT_GRACE_S = 2.0  # for threads that wrappers started, after the shutdown


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
    - a shorter switch interval: threads that compute would delay the event loop.
    - ``os._exit`` after the shutdown: Python would wait for threads that wrappers left running.
    """
    lifespan = app.router.lifespan_context
    app.owns_process = True

    def exit_later() -> None:
        from loguru import logger as log  # noqa: PLC0415 - the command line imports this module, and shall start quickly

        time.sleep(_EXIT_GRACE_S)
        log.warning("Exited while threads started by wrappers were still running")
        sys.stdout.flush()
        os._exit(0)

    @asynccontextmanager
    async def lifespan_and_exit(app: "Hayhooks") -> AsyncIterator[None]:
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        try:
            async with lifespan(app):
                yield
        finally:
            sys.setswitchinterval(before)
        threading.Thread(target=exit_later, name="hayhooks exit", daemon=True).start()

    app.router.lifespan_context = lifespan_and_exit
    return app
