"""Phases: which part of a wrapper's code runs outside of requests, and at which line.

A thread cannot be stopped: a ``setup()`` that hangs goes on after its revision was replaced. It can be seen, at least.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hayhooks.errors import Place
from hayhooks.kernel.places import innermost_place, outward
from hayhooks.kernel.state import Revision


class Phase:
    """A part of the user's code that runs now: an import, ``setup()``, ``check()``, ``teardown()`` and such."""

    def __init__(self, revision: Revision, name: str, awaitable: Awaitable[Any] | None = None) -> None:
        self.revision = revision
        self.enter(name)
        self._thread = threading.get_ident()
        self._awaitable = awaitable  # if it runs on the event loop, beside others

    def enter(self, name: str) -> None:
        """Go on to the phase *name*, in the same thread."""
        self.name = name
        self.since = time.time()

    @property
    def place(self) -> Place | None:
        """The innermost line of the user's code that runs now."""
        frames = (
            frames_of_awaitable(self._awaitable)
            if self._awaitable
            else outward(sys._current_frames().get(self._thread))
        )
        return innermost_place(self.revision, ((frame.f_code.co_filename, frame.f_lineno) for frame in frames))

    def __str__(self) -> str:
        place = self.place
        return f"{self.name} at {place}" if place else self.name


class Phases:
    """The phases that run, of all revisions. Safe from any thread."""

    def __init__(self) -> None:
        self._running: set[Phase] = set()

    @contextmanager
    def begin(self, revision: Revision, name: str, awaitable: Awaitable[Any] | None = None) -> Iterator[Phase]:
        """Mark the user's code that runs in this block."""
        running = Phase(revision, name, awaitable)
        self._running.add(running)
        try:
            yield running
        finally:
            self._running.discard(running)

    async def await_(self, revision: Revision, name: str, awaitable: Awaitable[Any]) -> Any:
        """Await *awaitable* as a phase."""
        with self.begin(revision, name, awaitable):
            return await awaitable

    def running(self) -> list[Phase]:
        """List what runs, one phase of each revision, the oldest first."""
        chosen: dict[int, Phase] = {}
        for phase in sorted(self._running.copy(), key=lambda phase: phase.since):
            # A thread that waits for another, or for the event loop, is at no line of the user's code.
            if id(phase.revision) not in chosen or phase.place:
                chosen[id(phase.revision)] = phase
        return list(chosen.values())

    def describe(self, revision: Revision) -> str:
        """Return what of *revision* runs, with its line if that can be seen; "" for nothing."""
        return next((str(phase) for phase in self.running() if phase.revision is revision), "")


def frames_of_awaitable(awaitable: Any) -> Iterator[FrameType]:
    """Return the frames of a suspended *awaitable*, from the innermost outwards."""
    frames: list[FrameType] = []
    while awaitable is not None:
        if isinstance(awaitable, asyncio.Task):
            awaitable = awaitable.get_coro()
        frame = getattr(awaitable, "cr_frame", None) or getattr(awaitable, "gi_frame", None)
        frames += [frame] if frame else []
        awaitable = getattr(awaitable, "cr_await", None) or getattr(awaitable, "gi_yieldfrom", None)
    return reversed(frames)
