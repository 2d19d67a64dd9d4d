"""The journal of an attempt, kept by the engine."""

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from loguru import logger as log

from hayhooks.errors import type_and_message
from hayhooks.executions.dbos_engine import Engine
from hayhooks.executions.execution import SupersededError
from hayhooks.executions.side_loop import SideLoop
from hayhooks.toolkit.journal import STEP, ProgressEvent, TooLargeError, as_json

SHOWN = "shown"  # the event with what is shown of an execution: its progress and the names of its steps
_MAX_PROGRESS = 100
MAX_CHUNK = 64_000  # bytes
_MAX_ROWS = 10_000  # of chunks in one execution
_SHOW_AFTER_S = 0.25  # two writes of `shown` are so far apart, at least
_SEND_AFTER_S = 0.1  # two rows of chunks
_CANCEL_CHECK_S = 0.5


class EngineJournal:
    """What one attempt keeps; for the serving loop, while the engine's loop does the work."""

    def __init__(
        self,
        engine: Engine,
        side: SideLoop,
        context: contextvars.Context,
        workflow_id: str,
        number: int,
        entries: dict[str, Any],
        max_payload: int,
        max_chunk: int,
        on_change: Callable[[], None],
    ) -> None:
        self.entries: Mapping[str, Any] = entries
        self._engine = engine
        self._side = side
        self._context = context  # that of the step: DBOS knows by it who writes
        self._workflow_id = workflow_id
        self._number = number
        self._max_payload = max_payload
        self._max_chunk = max_chunk  # bytes
        self._on_change = on_change  # tells the watchers in this process
        shown = entries.get(SHOWN, {})
        self._progress: list[ProgressEvent] = shown.get("progress", [])
        self.progress = self._progress[-1]["sequence"] if self._progress else 0
        self._steps: list[str] = shown.get("steps", [])
        self._is_stale = False  # what is stored of these two
        self._shown_at = 0.0  # of a monotonic clock
        self._showing: asyncio.Task[None] | None = None
        self._unsent: list[Any] = []
        self._rows = 0
        self._sent_at = 0.0
        self._sending: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._cancel_checked_at = 0.0
        self._closing = asyncio.Event()
        self._is_closed = False

    async def keep(self, key: str, value: Any) -> None:
        """Keep JSON under *key*; PayloadError if it is too large, or no JSON."""
        check_payload(value, self._max_payload, key)
        await self._write(lambda: self._engine.keep(key, value))
        if key.startswith(STEP):
            self._steps.append(key.removeprefix(STEP))
            self._show_soon()

    async def report(self, events: list[ProgressEvent]) -> None:
        """Add to the progress, of which the last 100 events stay."""
        self._progress = [*self._progress, *events][-_MAX_PROGRESS:]
        self._show_soon()

    async def emit(self, payload: Any) -> None:
        """Send a chunk to watchers: at once, then all of a tenth of a second together; too large ones are dropped."""
        if self._is_closed or self._rows >= _MAX_ROWS:
            return
        try:
            check_payload(payload, self._max_chunk, "chunk")
        except ValueError:
            return
        self._unsent.append(payload)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def is_cancelled(self) -> bool:
        """Whether somebody wants the execution to end."""
        now = time.monotonic()
        if not self._is_cancelled and now - self._cancel_checked_at > _CANCEL_CHECK_S:
            self._cancel_checked_at = now
            row = await self._side.run(lambda: self._engine.row([self._workflow_id], whole=False))
            self._is_cancelled = row is None or bool(row.attributes.get("cancel_requested_at"))
        return self._is_cancelled

    def note_cancelled(self) -> None:
        """Remember that somebody wants it to end."""
        self._is_cancelled = True

    async def close(self) -> None:
        """Write what has not been written; nothing is kept afterwards."""
        self._closing.set()
        # Not cancelled: what the engine writes goes on, and two writes would come in any order.
        if tasks := [task for task in (self._sending, self._showing) if task is not None]:
            await asyncio.wait(tasks)
        await self._show_now()  # even if nothing has changed: it fails if another process has the execution
        self._is_closed = True

    def _show_soon(self) -> None:
        self._is_stale = True
        if self._showing is None and not self._is_closed:
            self._showing = asyncio.create_task(self._show())

    async def _show(self) -> None:
        while self._is_stale:
            await self._pause_until(self._shown_at + _SHOW_AFTER_S)
            await _in_background(self._show_now())
        self._showing = None

    async def _show_now(self) -> None:
        self._shown_at, self._is_stale = time.monotonic(), False
        shown = {"progress": self._progress, "steps": self._steps}
        await self._write(lambda: self._engine.keep(SHOWN, shown))

    async def _send(self) -> None:
        while self._unsent:
            await self._pause_until(self._sent_at + _SEND_AFTER_S)
            row = {"a": self._number, "c": self._unsent}
            self._unsent, self._sent_at = [], time.monotonic()
            self._rows += 1
            await _in_background(self._write(partial(self._engine.append, row)))
        self._sending = None

    async def _pause_until(self, due: float) -> None:
        try:
            async with asyncio.timeout(max(due - time.monotonic(), 0)):
                await self._closing.wait()
        except TimeoutError:
            return

    async def _write(self, write: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._is_closed:
            raise SupersededError("the attempt has ended")
        await self._side.run(write, self._context)
        self._on_change()


async def _in_background(write: Coroutine[Any, Any, None]) -> None:
    """Await *write*; a failure is only logged, since the write in ``close`` fails too and ends the attempt."""
    try:
        await write
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # DBOS's, where another process has the execution, is no Exception
        log.debug("Something that an attempt tells was not stored: {}", type_and_message(error))


def check_payload(value: Any, longest: int, what: str) -> None:
    """Raise PayloadError if *value* is no JSON, TooLargeError if it is longer than *longest* bytes."""
    size = len(as_json(value, what))
    if size > longest:
        raise TooLargeError(f"{what} has {size:,} bytes of JSON: HAYHOOKS_DURABLE_MAX_PAYLOAD allows {longest:,}")
