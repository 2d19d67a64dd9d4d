"""Event log: the last changes and requests of this process, read by any number of followers.

All of it runs on the event loop. A follower keeps only its position, so one that is slow costs no memory.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from hayhooks.errors import sendable
from hayhooks.http.hooks import Hooks
from hayhooks.kernel.state import Change, Failure, Revision, Snapshot
from hayhooks.observability.change_log import failure_parts
from hayhooks.observability.request_record import POLLED, RequestRecord

TYPES = ("reset", "loading", "deployed", "canary", "failed", "restored", "undeployed", "request")

_MAX_EVENTS = 2_000
_MAX_REQUESTS_PER_S = 100  # the others are only counted
_LAST_S = 1.0  # for followers to take what is left, once the log is closed
_KEPT_S = 60.0  # after the last follower has left, requests are noted so long


class Event(NamedTuple):
    """One event; its id is unique for all processes."""

    id: str
    type: str
    data: Mapping[str, Any]


class EventLog:
    """The events of an application. Requests are noted only while somebody follows, through *hooks*."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._token = secrets.token_hex(4)
        self._count = 0  # of all events so far; the number of the last one
        self._events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self._appended = asyncio.Event()
        self._loading: Mapping[str, Revision] = {}  # what was being loaded at the last look
        self.followers: set[asyncio.Task[Any] | None] = set()
        self._until: asyncio.TimerHandle | None = None  # when requests are no longer noted
        self._second = 0  # in which `_noted` requests were noted, and `_skipped` were not
        self._noted = self._skipped = 0
        self.generation = 0
        self.is_closed = False

    def close(self) -> None:
        """End all followers, and note no more requests; on the event loop. Those that take nothing are cancelled."""
        self.is_closed = True
        self._appended.set()
        for task in filter(None, self.followers):
            asyncio.get_running_loop().call_later(_LAST_S, task.cancel)
        self.ignore_requests()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Note requests too while this context lasts, and a while longer, for a follower that comes back."""
        task = asyncio.current_task()
        self.followers.add(task)
        if self._until is not None:
            self._until.cancel()
            self._until = None
        elif len(self.followers) == 1 and not self.is_closed:
            self._hooks.on_request_end.append(self._note_request)
        try:
            yield
        finally:
            self.followers.discard(task)
            if not self.followers and not self.is_closed:
                self._until = asyncio.get_running_loop().call_later(_KEPT_S, self.ignore_requests)

    def position(self, last_id: str) -> int | None:
        """Return the position behind the event *last_id*; None if what followed it is not known any more."""
        token, _, number = last_id.partition("-")
        if token != self._token or not number.isdecimal() or len(number) > 20:
            return None
        position = int(number)
        return position if self._count - len(self._events) <= position <= self._count else None

    async def read(self, position: int | None) -> tuple[list[Event], int]:
        """Return the events behind *position*, at least one unless the log is closed, and the position after them.

        A ``reset`` stands for events that are not known any more, as for all before the first read.
        """
        lost = position is None or position < self._count - len(self._events)
        while not lost and position == self._count and not self.is_closed:
            self._appended.clear()
            await self._appended.wait()
        if lost or position is None:
            reset = Event(f"{self._token}-{self._count}", "reset", {"generation": self.generation})
            return [reset], self._count
        new = self._count - position
        return [self._events[index] for index in range(len(self._events) - new, len(self._events))], self._count

    def note_snapshot(self, snapshot: Snapshot) -> None:
        """Note what begins to load in *snapshot*, the live one."""
        self.generation = snapshot.generation
        before, self._loading = self._loading, {name: load.revision for name, load in snapshot.loading.items()}
        for name, load in snapshot.loading.items():
            if before.get(name) is not load.revision:
                self.append("loading", name=sendable(name), revision=load.revision.id, since=load.since)

    def note_change(self, change: Change) -> None:
        """Note *change*."""
        data: dict[str, Any] = {"name": change.name, "at": time.time()}
        if change.revision is not None:
            data["revision"] = change.revision.id
        if change.outcome is not None:
            data.update(took_ms=round(change.took_ms, 1), files=list(map(sendable, change.files)))
        if isinstance(change.outcome, Failure):
            parts = failure_parts(change.outcome)
            data.update(
                at=change.outcome.failed_at,
                error=parts["reason"],
                place=parts["place"],
                hint=parts["hint"],
                serving=change.serving.revision.id if change.serving else None,
            )
        self.append(change.event, **data)

    def append(self, type_: str, **data: Any) -> None:
        """Add an event, and wake the followers."""
        self._count += 1
        self._events.append(Event(f"{self._token}-{self._count}", type_, data))
        self._appended.set()

    def ignore_requests(self) -> None:
        """Note no more requests."""
        if self._until is not None:
            self._until.cancel()
            self._until = None
        if self._note_request in self._hooks.on_request_end:
            self._hooks.on_request_end.remove(self._note_request)

    def _note_request(self, record: RequestRecord) -> None:
        if record.endpoint in POLLED:
            return
        if int(record.ended_at) != self._second:
            self._second, self._noted = int(record.ended_at), 0
        self._noted += 1
        if self._noted > _MAX_REQUESTS_PER_S:
            self._skipped += 1
            return
        skipped, self._skipped = self._skipped, 0
        self.append(
            "request",
            id=record.id,
            trace_id=record.trace_id,
            at=record.ended_at,
            method=record.method,
            path=record.path,
            endpoint=record.endpoint,
            pipeline=record.pipeline,
            revision=record.revision,
            status=record.status,
            took_ms=round(record.took_s * 1000, 2),
            chunks=record.chunks,
            size=record.size,
            cancelled=record.cancelled,
            error=record.error or record.problem,
            skipped=skipped,
        )
