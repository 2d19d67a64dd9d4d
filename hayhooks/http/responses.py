"""What a wrapper streams, as server-sent events or as plain text.

Not by sse-starlette's response: events are ready bytes here, and of those, sent one by one, it lets 57,000 a second
through where this one lets 118,000 (medians of five interleaved rounds on two cores; slow ones cost the same). It also
ends streams when the server begins to stop, where ours go on to their end.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hayhooks.errors import safe_str
from hayhooks.http.disconnect import cancel_on_disconnect
from hayhooks.http.invoke import Stream
from hayhooks.http.json import encode
from hayhooks.observability.log import log
from hayhooks.observability.request_record import current_request, record_error

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

_SILENCE_S = 15  # a comment is sent after one to two times this


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


class _Live(Response):
    """Sends what *writer* makes of *stream* as it comes; when the client goes away, the work behind it is stopped."""

    keep_awake = b""  # sent when nothing else was for a while

    def __init__(self, writer: StreamEncoder, stream: Stream) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(_HEADERS)
        self._writer = writer
        self._stream = stream
        self._sent_lately = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            DisconnectedError: the client went away before the end.
        """
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        awake = asyncio.create_task(self._keep_awake(send)) if self.keep_awake else None
        try:
            await cancel_on_disconnect(receive, self._send(send))
        finally:
            if awake is not None:
                awake.cancel()
            await self._stream.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send) -> None:
        record, stream, writer = current_request.get(), self._stream, self._writer
        pieces, ended = [writer.begin()], False
        while not ended:
            batch: list[Any] = []
            try:
                batch = await stream.next()
                ended = not batch
                for piece in writer.write(batch) if batch else (writer.finish(),):
                    pieces.append(piece)  # one by one: those before a failure are sent too
            except Exception as error:
                last, ended = writer.fail(error), True
                if last is None:
                    raise
                record_error(error)
                log.opt(exception=error).error(
                    "{}: the answer failed in mid-stream: {}", record.pipeline, safe_str(error)
                )
                pieces.append(last)
            if data := b"".join(pieces):
                self._sent_lately = True
                await send({"type": "http.response.body", "body": data, "more_body": True})
                pieces = []
            record.streamed(len(batch))

    async def _keep_awake(self, send: Send) -> None:
        while True:
            await asyncio.sleep(_SILENCE_S)
            if not self._sent_lately:
                await send({"type": "http.response.body", "body": self.keep_awake, "more_body": True})
            self._sent_lately = False


class EventStreamResponse(_Live):
    """A ``text/event-stream`` of ready events, several to a piece where they came together.

    In long silences a comment keeps proxies awake. When the server stops, the stream goes on to its end: uvicorn's
    graceful time bounds it, not this class.
    """

    media_type = "text/event-stream"
    keep_awake = b": keep-alive\n\n"


class TextStreamResponse(_Live):
    """A plain-text stream that ends with the connection cut, not cleanly, when the wrapper raises in the middle."""

    media_type = "text/plain"

    def __init__(self, stream: Stream) -> None:
        super().__init__(_PlainText(), stream)


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


class _PlainText:
    """Writes text as it is, one item after the other; only a cut connection says that it was not all."""

    def begin(self) -> bytes:
        return b""

    def write(self, batch: list[Any]) -> Iterator[bytes]:
        return map(as_text, batch)

    def finish(self) -> bytes:
        return b""

    def fail(self, error: Exception) -> None:
        return None


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
