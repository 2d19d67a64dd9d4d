"""Responses for streams: server-sent events and plain text."""

import asyncio
import re
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

from pydantic_core import from_json
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from hayhooks.errors import PipelineError, StreamCall, safe_str, shortened
from hayhooks.http.disconnect import cancel_on_disconnect
from hayhooks.http.json import encode, on_one_line
from hayhooks.http.stream import Stream
from hayhooks.http.user_code import honest, log_failure, pipeline_error
from hayhooks.kernel.places import place_of_result
from hayhooks.observability.request_record import current_request
from hayhooks.toolkit.events import PipelineEvent

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

_PING_S = 15  # between two comments

# Later versions of sse-starlette may not have these private methods.
_SENDS_IN_THIS_TASK = hasattr(EventSourceResponse, "_stream_response") and hasattr(EventSourceResponse, "_ping")

# The standard ends lines with LF, CR and CRLF. Many clients split as Python's `splitlines`, and would lose the rest.
_LINE_END = re.compile(rb"\r\n|[\n\r\v\f\x1c-\x1e]|\xc2\x85|\xe2\x80[\xa8\xa9]")

_UNSENDABLE = frozenset("\0\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029")  # within the line of a field


@dataclass(frozen=True, slots=True)
class SSEStream:
    """Return ``SSEStream(generator)`` from ``run_api`` to have its items, ``SSEEvent`` among them, sent as events."""

    stream: Generator[Any, Any, Any] | AsyncGenerator[Any, Any]


@dataclass(frozen=True, slots=True)
class SSEEvent:
    """One event of an ``SSEStream`` with fields of its own.

    Attributes:
        data: what an item of a stream may be: text, a chunk, or what is sent as JSON; by default an empty text.
        event: the type that a browser's ``addEventListener`` names; by default "message".
        id: what a client sends as ``Last-Event-ID`` when it reconnects.
        retry: milliseconds until it does.

    Raises:
        ValueError: a field cannot be sent; it would end the line that it stands on, for example.
    """

    data: Any = ""
    event: str | None = None
    id: str | int | None = None
    retry: int | None = None

    def __post_init__(self) -> None:
        for name, value, types in (("event", self.event, str), ("id", self.id, str | int)):
            if value is not None and (not isinstance(value, types) or _UNSENDABLE & {*str(value)}):
                raise ValueError(f"SSEEvent: {name} must be a string on one line, not {shortened(repr(value))}")
        if self.retry is not None and (type(self.retry) is not int or self.retry < 0):
            raise ValueError(f"SSEEvent: retry must be a number of milliseconds, not {shortened(repr(self.retry))}")


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

    sse-starlette writes the head, the events and the comments that keep proxies awake. uvicorn's graceful timeout alone
    ends a stream at shutdown, as any other response.
    """

    def __init__(self, encoder: StreamEncoder, stream: Stream) -> None:
        self._body = _EncodedBody(encoder, stream)
        super().__init__(
            self._body,
            headers=_HEADERS,
            sep="\n",
            ping=_PING_S,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
        )
        del self.headers["connection"]  # that is the server's to say

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; raise DisconnectedError if the client leaves before its end."""
        # In this task, and not in one of a task group: the wrapper's generator runs in the task that began it, and no
        # other task has to run for each chunk.
        if not _SENDS_IN_THIS_TASK:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._body.aclose()
            return
        ping = asyncio.create_task(self._ping(send))
        try:
            await cancel_on_disconnect(receive, self._send_all(send))
        finally:
            ping.cancel()

    async def _send_all(self, send: Send) -> None:
        try:
            await self._stream_response(self._body.sent_by(send))
        finally:
            await self._body.aclose()

    # There is no timeout of a send: a cancel scope for each chunk would cost as much as the sending. Where a later
    # version of sse-starlette has no such method, it is as correct, and slower.

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        await send(message)


class TextStreamResponse(Response):
    """A plain-text stream; if the wrapper raises, the connection is cut."""

    media_type = "text/plain"

    def __init__(self, stream: Stream) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._body = _EncodedBody(_TextEncoder(), stream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; raise DisconnectedError if the client leaves before its end."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await cancel_on_disconnect(receive, self._send_all(send))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        send = self._body.sent_by(send)
        try:
            async for data in self._body:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            await self._body.aclose()


class ItemEventEncoder:
    """Encodes an ``SSEStream``: an event for each item, and a last one for an error."""

    def begin(self) -> bytes:
        """Return nothing."""
        return b""

    def write(self, batch: list[Any]) -> Iterator[bytes]:
        """Return an event for each item that has text."""
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
    """The encoded bytes of one response, as an iterator: a generator would make lone items slower."""

    def __init__(self, encoder: StreamEncoder, stream: Stream) -> None:
        self._encoder = encoder
        self._stream = stream
        self._start = encoder.begin()
        self._unsent = 0  # items whose bytes are being sent
        self._ended = False
        self._error: Exception | None = None  # raised after the last bytes: it cuts the connection
        self._send: Send | None = None
        self._sending: asyncio.Task[None] | None = None  # sends a batch while the stream waits

    def sent_by(self, send: Send) -> Send:
        """Return *send*, which also sends what is ready while the stream waits."""
        self._send = send
        return send

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        record = current_request.get()
        record.streamed(self._unsent)
        while not self._ended:
            batch: list[Any] = []
            try:
                batch = await self._stream.next(self._send_ready)
                data = self._encode(batch)
            except Exception as error:
                data = self._fail(error)
            if self._sending is not None:
                sending, self._sending = self._sending, None
                await sending
            if data:
                self._unsent = len(batch)
                return data
            record.streamed(len(batch))
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop the stream."""
        if self._sending is not None:
            self._sending.cancel()
        try:
            await self._stream.aclose()
        except PipelineError as error:  # of the wrapper's clean-up; the response has ended
            self._report(error)

    def _send_ready(self, batch: list[Any]) -> None:
        if self._send is not None and (data := self._encode(batch)):
            self._unsent = len(batch)
            message = {"type": "http.response.body", "body": data, "more_body": True}
            self._sending = asyncio.ensure_future(self._send(message))

    def _encode(self, batch: list[Any]) -> bytes:
        if self._ended:  # by a batch that could not be encoded, while the stream waited
            return b""
        parts, self._start = [self._start], b""
        try:
            self._ended = not batch
            for part in self._encoder.write(batch) if batch else (self._encoder.finish(),):
                parts.append(part)  # one by one: those before a failure are sent too
        # Items may be of classes of the user's; and this may be a callback, where SystemExit would end the event loop.
        except BaseException as raised:
            error = honest(raised)
            parts.append(self._fail(error if isinstance(error, Exception) else pipeline_error(error)))
        return b"".join(parts)

    def _fail(self, error: Exception) -> bytes:
        start, self._start = self._start, b""
        self._ended = True
        # An item is of no use: no code of the user's has raised.
        code, method = self._stream.code, self._stream.method
        if isinstance(error, PipelineError):
            if error.__cause__ is None and error.place is None:
                places = (place_of_result(each) for each in (code, method) if each is not None)
                error.place = next(filter(None, places), None)
        elif code is not None:
            error.__hayhooks_call__ = StreamCall(code.co_filename, code.co_firstlineno, ())  # type: ignore[attr-defined]
        last = self._encoder.fail(error)
        if last is None:
            self._error = error
            return start
        self._report(error)
        return start + last

    def _report(self, error: Exception) -> None:
        log_failure(error, f"{current_request.get().pipeline}: the answer failed in mid-stream")


def format_event(data: bytes) -> bytes:
    """Format *data*, of one or more lines, as an event."""
    return b"data: " + _LINE_END.sub(b"\ndata: ", data) + b"\n\n"


def _item_event(item: Any) -> bytes:
    if isinstance(item, SSEEvent):
        fields = (("event", item.event), ("id", item.id), ("retry", item.retry))
        head = "".join(f"{name}: {value}\n" for name, value in fields if value is not None)
        return head.encode(errors="replace") + (_item_event(item.data) or b"data: \n\n")
    text = as_text(item)
    if not text.isascii() and (escaped := on_one_line(text)) != text:
        with suppress(ValueError):
            from_json(text)  # as JSON it stays JSON
            text = escaped
    return format_event(text) if text else b""


def as_text(item: Any) -> bytes:
    """Encode an item for a plain reader: text, a chunk's content, or JSON; nothing of None and UI events."""
    content = getattr(item, "content", item)
    if isinstance(content, str):
        return content.encode(errors="replace")
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    if isinstance(item, SSEEvent):
        return as_text(item.data)
    return b"" if item is None or isinstance(item, PipelineEvent) else encode(item)
