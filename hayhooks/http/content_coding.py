"""Content codings: unpack compressed request bodies, within the limit of the unpacked size."""

import asyncio
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Message, Receive, Scope

from hayhooks.errors import RefusedError, shortened
from hayhooks.http.body import refuse_if_larger
from hayhooks.http.context import RequestContext, context_of

_SLICE = 4_096  # packed bytes at a time: what follows a frame in them is copied
_BLOCK = 65_536  # unpacked bytes at a time
_ZSTD_WINDOW_LOG = 23  # 8 MiB of memory, all that RFC 9659 allows in HTTP


def unpacked(scope: Scope, receive: Receive) -> Receive:
    """Return a ``receive`` of the unpacked body, and change the headers, of a request with Content-Encoding."""
    values = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"content-encoding"]
    codings = [coding.strip() for coding in ",".join(values).split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    # Whoever reads the headers after this reads the unpacked body.
    gone = (b"content-encoding", b"content-length") if codings else (b"content-encoding",)
    scope["headers"] = [header for header in scope["headers"] if header[0] not in gone]
    return _UnpackedReceive(context_of(scope), receive, ", ".join(codings)).receive if codings else receive


def check_transfer_coding(headers: Mapping[bytes, bytes]) -> None:
    """Raise RefusedError for a Transfer-Encoding that a proxy may have read otherwise (RFC 9112, 6.1)."""
    if headers[b"transfer-encoding"].strip().lower() != b"chunked":
        coding = shortened(headers[b"transfer-encoding"].decode("latin-1"), 100)
        raise RefusedError(501, f"Transfer-Encoding must be 'chunked', not {coding!r}")
    if b"content-length" in headers:
        raise RefusedError(400, "A request has Content-Length or Transfer-Encoding, not both")


class _UnpackedReceive:
    """Receives a body and unpacks it block by block."""

    def __init__(self, context: RequestContext, receive: Receive, coding: str) -> None:
        self._context = context
        self._receive = receive
        self._coding = coding
        self._unpacker: _Unpacker | None = None  # before the first byte
        self._received = 0  # unpacked bytes
        self._more = True  # packed data is to come
        self._ended = False

    async def receive(self) -> Message:
        """Receive one message, as ASGI's ``receive``; raise RefusedError for what cannot be unpacked."""
        if self._ended:
            return await self._receive()
        while True:
            if self._unpacker is not None and self._unpacker.has_more:
                await asyncio.sleep(0)  # a message of a few bytes may hold many blocks
                if block := self._unpacker.take():
                    self._received += len(block)
                    refuse_if_larger(self._context, self._received)
                    return {"type": "http.request", "body": block, "more_body": True}
            elif self._more:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                if data := message.get("body", b""):
                    self._unpacker = self._unpacker or _Unpacker(self._coding)
                    self._unpacker.feed(data)
                self._more = message.get("more_body", False)
            else:
                if self._unpacker is not None:
                    self._unpacker.check_end()
                self._ended = True
                return {"type": "http.request", "body": b"", "more_body": False}


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
        self._packed = memoryview(b"")
        self._slice = b""  # before it
        self._is_full = False  # the last block, so that the stream may hold more

    @property
    def has_more(self) -> bool:
        """Whether ``take`` can go on without more packed data."""
        return bool(self._slice or self._packed or self._is_full)

    def feed(self, data: bytes) -> None:
        """Set the next packed *data*, when there is no more."""
        self._packed = memoryview(data)

    def take(self) -> bytes:
        """Unpack the next bytes; b"" if they have no content."""
        if not self._slice:
            self._slice, self._packed = bytes(self._packed[:_SLICE]), self._packed[_SLICE:]
        block = b""
        while not block and (self._slice or self._is_full):
            try:
                if self._stream is None:
                    self._stream = self._new_stream(self._slice)
                block = self._stream.decompress(self._slice, _BLOCK)
            except self._errors as error:
                raise self._invalid(str(error)) from None
            self._slice = getattr(self._stream, "unconsumed_tail", b"")  # zstd keeps it
            if self._stream.eof:
                self._slice, self._stream = self._stream.unused_data, None
            self._is_full = len(block) == _BLOCK and self._stream is not None
        return block

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
        has_head = packed[0] & 0x0F == zlib.DEFLATED and (len(packed) < 2 or int.from_bytes(packed[:2]) % 31 == 0)
        return zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)

    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return {
        "gzip": (gzip, zlib.error),
        "x-gzip": (gzip, zlib.error),
        "deflate": (deflate, zlib.error),
        "zstd": (lambda _: zstd.ZstdDecompressor(options=options), zstd.ZstdError),
    }
