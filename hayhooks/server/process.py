"""The process: what we change in all of it where it serves nothing else.

See ``hayhooks.kernel.process_hooks`` for what serving needs in every process, an embedding application's too.
"""

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
    """Import in this context what the process needs to its end: garbage collections skip it, now and later.

    The first collection after it would take a large part of the time to start a server.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


def own_process(app: "Hayhooks") -> "Hayhooks":
    """Let *app* set up the whole process while it is served, and end it afterwards.

    Besides the kernel's hooks that is:

    - ``gc.freeze`` before the first load (``Preloader``): a full collection would stop all requests for long.
      It stays: unfrozen objects would only slow the exit.
    - a shorter switch interval: threads that compute would delay the event loop. It is set back.
    - ``os._exit`` after the shutdown, if wrappers left threads running: Python would wait for them for ever.
    """
    lifespan = app.router.lifespan_context
    app.owns_process = True

    @asynccontextmanager
    async def lifespan_and_exit(app: "Hayhooks") -> AsyncIterator[None]:
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        try:
            async with lifespan(app):
                yield
        finally:
            sys.setswitchinterval(before)
        threading.Thread(target=_exit_later, name="hayhooks exit", daemon=True).start()

    app.router.lifespan_context = lifespan_and_exit
    return app


def _exit_later() -> None:
    from loguru import logger as log  # noqa: PLC0415 - the command line imports this module, and shall start quickly

    time.sleep(_EXIT_GRACE_S)
    log.warning("Exited while threads started by wrappers were still running")
    sys.stdout.flush()
    os._exit(0)
