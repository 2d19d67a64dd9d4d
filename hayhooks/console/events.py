"""``/events``: changes and requests as server-sent events, as they happen."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from hayhooks.console.event_log import TYPES, Event, EventLog
from hayhooks.errors import DisconnectedError, UnavailableError, shortened
from hayhooks.http.hooks import Hooks
from hayhooks.http.json import encode
from hayhooks.http.responses import EventStreamResponse, format_event
from hayhooks.http.stream import Stream
from hayhooks.kernel.state import Snapshot
from hayhooks.openapi.describe import (
    EVENTS,
    DocumentedRoute,
    OperationDocs,
    error_responses,
    object_schema,
    parameter,
    response_object,
)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Keep the log of events, and end who follows it when the server begins to stop."""
    hooks: Hooks = app.hooks  # type: ignore[attr-defined]  # a Hayhooks
    app.state.events = log = EventLog(hooks)
    loop = asyncio.get_running_loop()
    with hooks.use(
        on_publish=log.note_snapshot,
        on_change=log.note_change,
        on_stop=lambda: loop.call_soon_threadsafe(log.close),
    ):
        try:
            yield
        finally:
            log.close()


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/events``."""

    async def events(request: Request) -> Response:
        log: EventLog | None = getattr(request.app.state, "events", None)
        if log is None:
            raise UnavailableError("there are no events: the application's lifespan does not run")
        wanted = [each for text in request.query_params.getlist("types") for each in text.split(",") if each]
        if unknown := [each for each in wanted if each not in TYPES]:
            raise HTTPException(400, f"'types' must be among {', '.join(TYPES)}, not {shortened(unknown[0])!r}")
        if request.method == "HEAD":  # its response has to end: the connection's next request waits for that
            return Response(media_type=EVENTS)
        followed = _Followed(log, request.headers.get("last-event-id", ""), frozenset(wanted or TYPES))
        return _EventsResponse(_Encoder(), followed)

    yield DocumentedRoute("/events", events, {"GET": lambda: _DOCS})


class _EventsResponse(EventStreamResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; raise DisconnectedError if the log has cancelled this, as it is closed."""
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not scope["app"].state.events.is_closed or task.uncancel():
                raise
            raise DisconnectedError("its client took nothing, and the server stops") from None


class _Followed(Stream):
    """What one client reads of the log."""

    def __init__(self, log: EventLog, last_id: str, types: frozenset[str]) -> None:
        super().__init__([])
        self._log = log
        self._types = types | {"reset"}
        self._position = log.position(last_id)
        self._following = log.followed()
        self._following.__enter__()

    async def next(self, _on_wait: Any = None) -> list[Event]:
        """Return the next events of the types; none when the server stops."""
        while not self._log.is_closed:
            events, self._position = await self._log.read(self._position)
            if wanted := [event for event in events if event.type in self._types]:
                return wanted
        return []

    async def aclose(self) -> None:
        """Follow no longer."""
        self._following.__exit__(None, None, None)


class _Encoder:
    def begin(self) -> bytes:
        return b""

    def write(self, batch: list[Event]) -> Iterator[bytes]:
        for event in batch:
            yield f"id: {event.id}\nevent: {event.type}\n".encode() + format_event(encode(event.data))

    def finish(self) -> bytes:
        return b""

    def fail(self, error: Exception) -> None:
        return None


_TYPE = f"(?:{'|'.join(TYPES)})"
_EVENT = object_schema(
    ["id", "event", "data"],
    id={"type": "string"},
    event={"enum": list(TYPES)},
    data={"type": "string", "description": "A JSON object."},
)

_DOCS = OperationDocs(
    name="events",
    summary="Changes and requests as they happen",
    description=(
        "Types: `loading`, `deployed`, `canary`, `failed`, `restored`, `undeployed`, `request`, and `reset`: what was "
        "before is not known any more, read `/status`. After a reconnect with `Last-Event-ID` comes what was missed."
    ),
    parameters=(
        parameter("types", "Only these, with commas between them.", "query", pattern=f"^(?:{_TYPE}(?:,{_TYPE})*)?$"),
    ),
    answers={"200": response_object("The events", {EVENTS: _EVENT}), **error_responses(400, 503)},
)
