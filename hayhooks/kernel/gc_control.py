"""Collecting garbage: when not to."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Import in this context: that makes much and drops little, and looking for garbage takes a fifth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def permanent_imports() -> Iterator[None]:
    """Import in this context what a process of ours has to its end: no collection looks at it, now or later.

    The first one after it would take 40 ms: an eighth of what a server takes to answer.
    """
    with gc_paused():
        yield
        gc.freeze()
