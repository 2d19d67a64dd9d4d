"""What a wrapper streams, as server-sent events or as plain text."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from hayhooks.errors import DisconnectedError, safe_str
from hayhooks.http.disconnect import cancel_on_disconnect
from hayhooks.http.json import encode
from hayhooks.http.stream import Stream
from hayhooks.kernel.admission import current_lease
from hayhooks.observability.log import log
from hayhooks.observability.request_record import current_request, record_error

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

_PING_S = 15  # between two comments


@dataclass(frozen=True, slots=True)
class SSEStream:
    """Return ``SSEStream(generator)`` from ``run_api`` to have it sent as ``text/event-stream``."""

    stream: Generator[Any, Any, Any] | AsyncGenerator[Any, Any]


class StreamEncoder(Protocol):
    """Writes the body of one streamed answer, a piece for each batch of what the wrapper gives."""

    def begin(self) -> bytes:
        """What stands before the first batch, and leaves with it."""

    def write(self, batch: list[Any]) -> Iterable[bytes]:
        """What *batch* adds, piece by piece; nothing if it is nothing for this client.

        Raises:
            Exception: an item is of no use: the pieces before that are sent, and ``fail`` comes next.
        """

    def finish(self) -> bytes:
        """What stands after the last batch."""

    def fail(self, error: Exception) -> bytes | None:
        """What stands last where the wrapper or ``write`` raised: the status has been sent, so this tells the client.

        None where there is no way to tell: the connection is cut.
        """


class EventStreamResponse(EventSourceResponse):
    """A ``text/event-stream`` of ready events, several to a body message where they came together.

    sse-starlette sends comments that keep proxies awake, and notices that the client has gone. Its end at shutdown is
    put off for ever: uvicorn's graceful timeout bounds a stream, as any other response.
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
        """Answer one request.

        Raises:
            DisconnectedError: the client went away before the end.
            ExpiredError: the request was told to end while its client did not read.
        """
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

    async def _listen_for_exit_signal_with_grace(self) -> None:
        await _until_cancelled(super()._listen_for_exit_signal_with_grace())


async def _until_cancelled(work: Awaitable[None]) -> None:
    with suppress(asyncio.CancelledError):
        await work


class _Client:
    """Whether the client of a stream has gone."""

    disconnected = False

    async def on_disconnect(self, _message: Message) -> None:
        self.disconnected = True


class TextStreamResponse(Response):
    """A plain-text stream that ends with the connection cut, not cleanly, when the wrapper raises in the middle."""

    media_type = "text/plain"

    def __init__(self, stream: Stream) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            DisconnectedError: the client went away before the end.
        """
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
    """Writes an ``SSEStream``: an event for each item; an error is an event of its own, the last one."""

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def write(self, batch: list[Any]) -> Iterator[bytes]:
        """The events of *batch*."""
        return (format_event(as_text(item)) for item in batch)

    def finish(self) -> bytes:
        """Nothing: the end of the body is the end."""
        return b""

    def fail(self, error: Exception) -> bytes:
        """The error as an event."""
        return format_event(encode({"error": safe_str(error)}))


class _TextEncoder:
    """Writes text as it is, one item after the other; only a cut connection says that it was not all."""

    def begin(self) -> bytes:
        return b""

    def write(self, batch: list[Any]) -> Iterator[bytes]:
        return map(as_text, batch)

    def finish(self) -> bytes:
        return b""

    def fail(self, error: Exception) -> None:
        return None


class _EncodedBody:
    """The bytes of one answer, a batch at a time; they end after a failure that the encoder can tell.

    An iterator and no generator: a chunk that comes alone costs less so.
    """

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
            lease.task = asyncio.current_task()  # the task that can still send why the request was told to end
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes to send.

        Raises:
            Exception: what the wrapper or the encoder raised, where the encoder has no way to tell the client.
        """
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
    """One event; *data* may hold several lines."""
    return b"".join(b"data: " + line + b"\n" for line in data.split(b"\n")) + b"\n"


def as_text(item: Any) -> bytes:
    """An item as the bytes a plain reader expects: text as it is, a chunk's content, anything else as JSON.

    Raises:
        TypeError: the item can be neither.
    """
    content = getattr(item, "content", item)
    if isinstance(content, str):
        return content.encode(errors="replace")
    return bytes(content) if isinstance(content, bytes | bytearray) else encode(item)
