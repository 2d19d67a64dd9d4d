"""Content codings: unpack compressed request bodies, within the limit of the unpacked size."""

import asyncio
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Message, Receive, Scope

from hayhooks.errors import RefusedError, shortened
from hayhooks.http.body import refuse_if_larger

_BLOCK = 65_536  # bytes that are unpacked at a time
_ZSTD_WINDOW_LOG = 23  # 8 MiB of memory, all that RFC 9659 allows in HTTP


def unpacked(scope: Scope, receive: Receive) -> Receive:
    """Return a ``receive`` of the unpacked body, and change the headers; *receive* itself if it is not packed."""
    for name, value in scope["headers"]:
        if name == b"content-encoding":
            codings = [coding.strip() for coding in value.decode("latin-1").lower().split(",")]
            codings = [coding for coding in codings if coding not in ("", "identity")]
            if codings:
                # Whoever reads the headers after this reads the unpacked body.
                gone = (b"content-encoding", b"content-length")
                scope["headers"] = [header for header in scope["headers"] if header[0] not in gone]
                return _UnpackedReceive(scope, receive, ", ".join(codings)).receive
    return receive


class _UnpackedReceive:
    """Receives a body and unpacks it block by block."""

    def __init__(self, scope: Scope, receive: Receive, coding: str) -> None:
        self._scope = scope
        self._receive = receive
        self._coding = coding
        self._unpacker: _Unpacker | None = None  # before the first message
        self._received = 0  # unpacked bytes
        self._more = True  # packed data is to come
        self._ended = False

    async def receive(self) -> Message:
        """Receive one message, as ASGI's ``receive``; raise RefusedError for what cannot be unpacked."""
        if self._ended:
            return await self._receive()
        if self._unpacker is None:  # an endpoint that does not read the body does not mind
            self._unpacker = _Unpacker(self._coding)
        while not (block := self._unpacker.take()):
            if not self._more:
                self._unpacker.check_end()
                self._ended = True
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._unpacker.feed(message.get("body", b""))
            self._more = message.get("more_body", False)
        self._received += len(block)
        refuse_if_larger(self._scope, self._received)
        await asyncio.sleep(0)  # a message of a few bytes may hold many blocks
        return {"type": "http.request", "body": block, "more_body": True}


class _Unpacker:
    """Unpacks the streams of one body, each of which may consist of several frames."""

    def __init__(self, coding: str) -> None:
        known = _codings()
        if coding not in known:
            names = ", ".join(name for name in known if name != "x-gzip")
            message = f"The body's Content-Encoding is {shortened(coding)!r}; accepted are {names}, or none"
            raise RefusedError(415, message, headers={"Accept-Encoding": names, "Connection": "close"})
        self._coding = coding
        self._new_stream, self._errors = known[coding]
        self._stream: Any = None  # zlib's or zstd's object, inside of a frame
        self._packed = b""

    def feed(self, data: bytes) -> None:
        """Add packed *data*."""
        self._packed += data

    def take(self) -> bytes:
        """Return the next block; b"" if more packed data is needed for it."""
        while self._packed or self._stream is not None:
            packed = self._packed
            try:
                if self._stream is None:
                    self._stream = self._new_stream(packed)
                block: bytes = self._stream.decompress(packed, _BLOCK)
            except self._errors as error:
                raise self._invalid(str(error)) from None
            self._packed = getattr(self._stream, "unconsumed_tail", b"")  # zstd keeps it
            if self._stream.eof:
                self._packed, self._stream = self._stream.unused_data, None
            elif not block:
                return b""
            if block:
                return block
        return b""

    def check_end(self) -> None:
        """Raise RefusedError if the last frame is not complete."""
        if self._stream is not None:
            raise self._invalid("it ends too early")

    def _invalid(self, reason: str) -> RefusedError:
        return RefusedError(400, f"The body is not valid {self._coding} (Content-Encoding): {reason}")


_NewStream = Callable[[bytes], Any]  # of the first bytes of a frame


def _codings() -> Mapping[str, tuple[_NewStream, type[Exception]]]:
    """Return how each coding begins a frame, and the error that it raises."""
    # Few requests need it.
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415

    def gzip(_: bytes) -> Any:
        return zlib.decompressobj(16 + zlib.MAX_WBITS)

    def deflate(packed: bytes) -> Any:
        # RFC 9110 means zlib's format, but some clients send it without zlib's head.
        has_head = packed[0] & 0x0F == zlib.DEFLATED and int.from_bytes(packed[:2]) % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)

    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return {
        "gzip": (gzip, zlib.error),
        "x-gzip": (gzip, zlib.error),
        "deflate": (deflate, zlib.error),
        "zstd": (lambda _: zstd.ZstdDecompressor(options=options), zstd.ZstdError),
    }
