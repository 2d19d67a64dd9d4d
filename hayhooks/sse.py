"""What a wrapper streams, as server-sent events or as plain text."""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import anyio
from sse_starlette import EventSourceResponse
from starlette.responses import StreamingResponse

from hayhooks.encode import encode
from hayhooks.invoke import Stream
from hayhooks.logger import log

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class SSEStream:
    """Return ``SSEStream(generator)`` from ``run_api`` to have it sent as ``text/event-stream``."""

    stream: Generator[Any, Any, Any] | AsyncGenerator[Any, Any]


class Events(EventSourceResponse):
    """A ``text/event-stream`` of ready events, several to a piece where they came together.

    Every 15 s without an end a comment keeps proxies awake. When the server stops, the stream goes on to its end:
    uvicorn's graceful time bounds it, not this class.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(
            events,
            headers=_HEADERS,
            sep="\n",  # its default is CRLF, which SDKs that split at "\n\n" wait on for ever
            shutdown_event=anyio.Event(),
            shutdown_grace_period=float("inf"),
        )


class Text(StreamingResponse):
    """A plain-text stream that ends with the connection cut, not cleanly, when the wrapper raises in the middle."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(_text(stream), media_type="text/plain; charset=utf-8", headers=_HEADERS)


def event(data: bytes) -> bytes:
    """One event; *data* may hold several lines."""
    return b"".join(b"data: " + line + b"\n" for line in data.split(b"\n")) + b"\n"


async def run_events(stream: Stream) -> AsyncGenerator[bytes, None]:
    """The events of an ``SSEStream``: one for each item; an error is an event of its own, the last one."""
    async with aclosing(stream):
        try:
            async for batch in stream:
                yield b"".join(event(as_text(item)) for item in batch)
        # The status has been sent: the client can only be told inside the stream.
        except Exception as error:
            log.opt(exception=error).error("A stream failed: {}", error)
            yield event(encode({"error": str(error)}))


def as_text(item: Any) -> bytes:
    """An item as the bytes a plain reader expects: text as it is, a chunk's content, anything else as JSON.

    Raises:
        TypeError: the item can be neither.
    """
    content = getattr(item, "content", item)
    if isinstance(content, str):
        return content.encode(errors="replace")
    return bytes(content) if isinstance(content, bytes | bytearray) else encode(item)


async def _text(stream: Stream) -> AsyncGenerator[bytes, None]:
    async with aclosing(stream):
        async for batch in stream:
            yield b"".join(as_text(item) for item in batch)
