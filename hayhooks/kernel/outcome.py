"""An outcome: what user code returned or raised, carried from where it ran to where it is waited for."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Outcome:
    """A result or an error of any kind, also one that must meet nobody on the way: SystemExit ends an event loop."""

    result: Any = None
    error: BaseException | None = None

    @classmethod
    def of(cls, function: Callable[[], Any]) -> "Outcome":
        """Call *function*."""
        try:
            return cls(function())
        # It is the user's code: it may raise anything.
        except BaseException as error:
            return cls(error=error)

    @classmethod
    async def awaited(cls, work: Awaitable[Any]) -> "Outcome":
        """Await *work*."""
        try:
            return cls(await work)
        # As above.
        except BaseException as error:
            return cls(error=error)

    def take(self) -> Any:
        """Return the result, or raise the error; to be done once."""
        if self.error is None:
            return self.result
        try:
            raise self.error
        finally:
            self.error = None  # or it and the frames of its traceback would hold each other


def run_on(loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[Any]]) -> Any:
    """Call *function* on *loop*, which runs in another thread, and wait for what it awaits.

    Raises:
        BaseException: whatever that raises; on the loop it meets nobody.
    """

    async def begun() -> Any:
        return await function()

    return asyncio.run_coroutine_threadsafe(Outcome.awaited(begun()), loop).result().take()
