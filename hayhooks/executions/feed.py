"""Feeds: what watchers of executions are told. One reader serves all watchers of an execution in this process."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from loguru import logger as log

from hayhooks.errors import RefusedError, shortened, type_and_message
from hayhooks.executions.execution import Execution, StreamEvent

_BUSY_S, _IDLE_S = 0.1, 0.5  # between two looks at the database: after something has come, and long after
_KEPT = 500  # rows of chunks in memory; who is further behind reads for itself

_cursor_match = re.compile(r"(\d{1,9})-(\d{1,9})").fullmatch


class Source(Protocol):
    """Where feeds read."""

    async def get(self, deployment: str, execution_id: str, owner: str | None) -> Execution | None:
        """Return an execution."""

    async def chunks(self, execution: Execution, offset: int) -> list[Any]:
        """Return the rows of chunks from *offset* on."""


@dataclass(slots=True, eq=False)
class _Feed:
    execution: Execution  # as it was read last
    rows: list[Any] = field(default_factory=list)
    first: int = 0  # number of the first row in memory
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    nudged: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: int = 0
    reader: "asyncio.Task[None] | None" = None
    is_read: bool = False
    is_over: bool = False  # nothing comes any more: the execution has ended or was deleted, or the server stops

    @property
    def end(self) -> int:
        """Number of the row that comes next."""
        return self.first + len(self.rows)


class Feeds:
    """The feeds of one service; for the serving loop."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._feeds: dict[str, _Feed] = {}
        self._is_closed = False

    def note_change(self, workflow_id: str) -> None:
        """Look at an execution at once, if somebody watches it."""
        if feed := self._feeds.get(workflow_id):
            feed.nudged.set()

    def close(self) -> None:
        """End all watching."""
        self._is_closed = True
        for feed in self._feeds.values():
            feed.nudged.set()

    async def wait(self, execution: Execution, seconds: float, *, until_end: bool) -> Execution:
        """Return *execution* once it has changed or ended, or after *seconds*."""
        async with self._feed(execution) as feed:

            def is_due() -> bool:
                now = feed.execution
                has_changed = (now.sequence, now.status) != (execution.sequence, execution.status)
                return feed.is_over or (feed.is_read and (now.is_terminal or (has_changed and not until_end)))

            try:
                async with asyncio.timeout(seconds), feed.changed:
                    await feed.changed.wait_for(is_due)
            except TimeoutError:
                pass
            return feed.execution

    def watch(self, execution: Execution, cursor: str, *, all_events: bool) -> AsyncGenerator[StreamEvent, None]:
        """Yield what happens to *execution*, see ``Executions``; a RefusedError at once if the cursor is none."""
        return self._watch(execution, _read_cursor(cursor) if cursor else None, all_events=all_events)

    async def _watch(
        self, execution: Execution, after: tuple[int, int] | None, *, all_events: bool
    ) -> AsyncGenerator[StreamEvent, None]:
        position, skipped = after or (0, -1)
        told = _Told()
        async with self._feed(execution) as feed:
            await _changed(feed, lambda: feed.is_read or feed.is_over)
            if after is not None and position >= feed.end:
                yield StreamEvent("gap", None)
                position, skipped = 0, -1
            while True:
                now, is_over = feed.execution, feed.is_over
                rows = feed.rows[position - feed.first :] if position >= feed.first else None
                for row in rows if rows is not None else await self._source.chunks(now, position):
                    for index in range(skipped + 1, len(row["c"]) if row["a"] >= now.attempt else 0):
                        chunk = {"attempt": row["a"], "payload": row["c"][index]}
                        yield StreamEvent("chunk", chunk, f"{position}-{index}")
                    position, skipped = position + 1, -1
                if all_events:
                    for event in told.news(now):
                        yield event
                if is_over:
                    if now.is_terminal:
                        yield StreamEvent("end", now)
                    return
                await _changed(feed, partial(_has_news, feed, now, position))

    @asynccontextmanager
    async def _feed(self, execution: Execution) -> AsyncIterator[_Feed]:
        key = execution.workflow_id
        feed = self._feeds.setdefault(key, _Feed(execution))
        feed.watchers += 1
        if feed.reader is None:
            feed.reader = asyncio.create_task(self._read(feed))
        try:
            yield feed
        finally:
            feed.watchers -= 1
            if not feed.watchers:
                del self._feeds[key]
                feed.reader.cancel()

    async def _read(self, feed: _Feed) -> None:
        changed_at = time.monotonic()
        while not feed.is_over:
            known, was_nudged = feed.execution, feed.nudged.is_set()
            feed.nudged.clear()
            rows = await self._look(feed)
            if rows or was_nudged or feed.execution is not known:
                changed_at = time.monotonic()
            async with feed.changed:
                feed.rows += rows
                dropped = max(len(feed.rows) - _KEPT, 0)
                del feed.rows[:dropped]
                feed.first += dropped
                feed.changed.notify_all()
            try:
                silence_s = time.monotonic() - changed_at
                async with asyncio.timeout(min(max(_BUSY_S, silence_s / 10), _IDLE_S)):
                    await feed.nudged.wait()
            except TimeoutError:
                continue

    async def _look(self, feed: _Feed) -> list[Any]:
        """Read the execution and its next rows."""
        order = feed.execution.order
        try:
            # In this order: an execution that has ended writes no more rows.
            now = await self._source.get(order.deployment, feed.execution.id, None)
            rows = await self._source.chunks(now, feed.end) if now is not None else []
        except Exception as error:  # the database is away, and comes back; or the execution was deleted between the two
            log.debug("{} cannot be read, which is tried again: {}", feed.execution.id, type_and_message(error))
            feed.is_over = self._is_closed
            return []
        if now is not None and (now.sequence, now.status) != (feed.execution.sequence, feed.execution.status):
            feed.execution = now
        feed.is_read = True
        feed.is_over = self._is_closed or now is None or now.is_terminal
        return rows


@dataclass(slots=True)
class _Told:
    """What a watcher knows of an execution."""

    status: str = ""
    progress: int = 0  # number of the last event

    def news(self, now: Execution) -> Iterator[StreamEvent]:
        """Yield what is new in *now*."""
        for event in now.progress:
            if event["sequence"] > self.progress:
                self.progress = event["sequence"]
                yield StreamEvent("progress", event)
        if now.status != self.status and not now.is_terminal:
            self.status = now.status
            yield StreamEvent("status", {"status": now.status, "attempt": now.attempt})


async def _changed(feed: _Feed, is_due: Callable[[], bool]) -> None:
    async with feed.changed:
        await feed.changed.wait_for(is_due)


def _has_news(feed: _Feed, known: Execution, position: int) -> bool:
    return feed.end > position or feed.execution is not known or feed.is_over


def _read_cursor(cursor: str) -> tuple[int, int]:
    """Return the row of *cursor*, and the item in it that was the last one."""
    match = _cursor_match(cursor)
    if match is None:
        raise RefusedError(422, f"the cursor is {shortened(cursor)!r}: it must be the id of an event, as 8-3")
    return int(match[1]), int(match[2])
