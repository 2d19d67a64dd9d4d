"""Responses for streams: server-sent events and plain text."""

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

from pydantic_core import from_json
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from hayhooks.errors import DisconnectedError, safe_str
from hayhooks.http.disconnect import cancel_on_disconnect
from hayhooks.http.json import encode, on_one_line
from hayhooks.http.stream import Stream
from hayhooks.kernel.admission import current_lease
from hayhooks.observability.log import log
from hayhooks.observability.request_record import current_request, record_error
from hayhooks.toolkit.events import ui_event

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

_PING_S = 15  # between two comments

# The standard ends lines with LF, CR and CRLF. Many clients split as Python's `splitlines`, and would lose the rest.
_LINE_END = re.compile(rb"\r\n|[\n\r\v\f\x1c-\x1e]|\xc2\x85|\xe2\x80[\xa8\xa9]")


@dataclass(frozen=True, slots=True)
class SSEStream:
    """Return ``SSEStream(generator)`` from ``run_api`` to have it sent as events."""

    stream: Generator[Any, Any, Any] | AsyncGenerator[Any, Any]


class StreamEncoder(Protocol):
    """Encodes the body of one streamed response, batch by batch."""

    def begin(self) -> bytes:
        """Return the bytes before the first batch; they are sent together with it."""

    def write(self, batch: list[Any]) -> Iterable[bytes]:
        """Encode *batch*; if an item raises, the parts before it are sent, then ``fail``."""

    def finish(self) -> bytes:
        """Return the bytes after the last batch."""

    def fail(self, error: Exception) -> bytes | None:
        """Return the last bytes, which report *error*; None cuts the connection."""


class EventStreamResponse(EventSourceResponse):
    """A ``text/event-stream`` of encoded events; a body message may hold several.

    sse-starlette sends comments that keep proxies awake, and notices that the client has gone.
    uvicorn's graceful timeout alone ends a stream at shutdown, as any other response.
    """

    def __init__(self, encoder: StreamEncoder, stream: Stream) -> None:
        self._stream = stream
        self._body = _EncodedBody(encoder, stream)
        self._client = _Client()  # apart, for a response that holds its own method is a cycle
        super().__init__(
            self._body,
            headers=_HEADERS,
            sep="\n",
            ping=_PING_S,
            ping_message_factory=_ping_comment,
            client_close_handler_callable=self._client.on_disconnect,
            shutdown_grace_period=math.inf,
        )
        del self.headers["connection"]  # that is the server's to say

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; raise DisconnectedError or ExpiredError if it is cut short."""
        lease = current_lease.get()
        task = lease.task if lease is not None else None
        try:
            await super().__call__(scope, receive, send)
        finally:
            if lease is not None:
                lease.task = task
            await self._stream.aclose()
        if self._body.completed:
            return
        if self._client.disconnected:
            raise DisconnectedError("the client went away")
        if lease is not None:
            lease.raise_expired()

    # There is no timeout of a send: a cancel scope for each chunk would cost as much as the sending. Where a later
    # version of sse-starlette has no such method, it is as correct, and slower.

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        await send(message)

    # Each of these tasks is cancelled when the stream ends, and anyio keeps the error of a cancelled task in a frame of
    # the error's own traceback: a cycle that holds the request. So they end without it. Where a later version of
    # sse-starlette has other methods, the garbage collector finds the cycle.

    async def _ping(self, send: Send) -> None:
        await _until_cancelled(super()._ping(send))

    async def _listen_for_disconnect(self, receive: Receive) -> None:
        await _until_cancelled(super()._listen_for_disconnect(receive))

    # sse-starlette's own would start a task for the rest of the process, which keeps the context of this request.
    async def _listen_for_exit_signal_with_grace(self) -> None:
        await _until_cancelled(asyncio.Event().wait())


async def _until_cancelled(work: Awaitable[object]) -> None:
    with suppress(asyncio.CancelledError):
        await work


class _Client:
    disconnected = False

    async def on_disconnect(self, _message: Message) -> None:
        self.disconnected = True


class TextStreamResponse(Response):
    """A plain-text stream; if the wrapper raises, the connection is cut."""

    media_type = "text/plain"

    def __init__(self, stream: Stream) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; raise DisconnectedError if the client leaves before its end."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await cancel_on_disconnect(receive, self._send_all(send))
        finally:
            await self._stream.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        async for data in _EncodedBody(_TextEncoder(), self._stream):
            await send({"type": "http.response.body", "body": data, "more_body": True})


class ItemEventEncoder:
    """Encodes an ``SSEStream``: an event for each item, and a last one for an error."""

    def begin(self) -> bytes:
        """Return nothing."""
        return b""

    def write(self, batch: list[Any]) -> Iterator[bytes]:
        """Return an event for each item with text, and a named one for each UI event."""
        return map(_item_event, batch)

    def finish(self) -> bytes:
        """Return nothing."""
        return b""

    def fail(self, error: Exception) -> bytes:
        """Return an event of type ``error`` with the message of *error*."""
        return b"event: error\n" + format_event(encode({"error": safe_str(error)}))


class _TextEncoder:
    def begin(self) -> bytes:
        return b""

    def write(self, batch: list[Any]) -> Iterator[bytes]:
        return map(as_text, batch)

    def finish(self) -> bytes:
        return b""

    def fail(self, error: Exception) -> None:
        return None


class _EncodedBody:
    """The encoded bytes of one response. A generator would make lone chunks slower."""

    def __init__(self, encoder: StreamEncoder, stream: Stream) -> None:
        self.completed = False
        self._encoder = encoder
        self._stream = stream
        self._start = encoder.begin()
        self._unsent = 0  # items whose bytes are being sent
        self._ended = False

    def __aiter__(self) -> Self:
        lease = current_lease.get()
        if lease is not None:
            lease.task = asyncio.current_task()  # the task that can still send why the request expired
        return self

    async def __anext__(self) -> bytes:
        record = current_request.get()
        record.streamed(self._unsent)
        while not self._ended:
            parts, self._start = [self._start], b""
            batch: list[Any] = []
            try:
                batch = await self._stream.next()
                self._ended = not batch
                for part in self._encoder.write(batch) if batch else (self._encoder.finish(),):
                    parts.append(part)  # one by one: those before a failure are sent too
            except Exception as error:
                self._ended = True
                if (last := self._encoder.fail(error)) is None:
                    raise
                record_error(error)
                message = "{}: the answer failed in mid-stream: {}"
                log.opt(exception=error).error(message, record.pipeline, safe_str(error))
                parts.append(last)
            if data := b"".join(parts):
                self._unsent = len(batch)
                return data
            record.streamed(len(batch))
        self.completed = True
        raise StopAsyncIteration


def _ping_comment() -> ServerSentEvent:
    return ServerSentEvent(comment="keep-alive", sep="\n")


def format_event(data: bytes) -> bytes:
    """Format *data*, of one or more lines, as an event."""
    return b"data: " + _LINE_END.sub(b"\ndata: ", data) + b"\n\n"


def _item_event(item: Any) -> bytes:
    text = as_text(item)
    if not text:
        event = ui_event(item)
        return b"event: event\n" + format_event(encode(event)) if event else b""
    if not text.isascii() and (escaped := on_one_line(text)) != text:
        with suppress(ValueError):
            from_json(text)  # as JSON it stays JSON
            text = escaped
    return format_event(text)


def as_text(item: Any) -> bytes:
    """Encode an item for a plain reader: text, a chunk's content, or JSON; nothing of None and UI events."""
    content = getattr(item, "content", item)
    if isinstance(content, str):
        return content.encode(errors="replace")
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    return b"" if item is None or ui_event(item) else encode(item)
