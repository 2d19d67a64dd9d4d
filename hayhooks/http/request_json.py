"""JSON of requests: its encoding, its number of values, and parsing large bodies off the event loop."""

import gc
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from hayhooks.errors import RefusedError
from hayhooks.kernel.threads import server_threads

T = TypeVar("T")

LARGE = 65_536  # bytes of a body from which it is parsed in a thread

_COSTLY = 10  # values that an array, an object or a key counts as: it takes that much more time and memory
_OTHER_QUOTES = re.compile(rb"[\s\[{]*('|\w+\s*:)")  # as Python and JavaScript print an object
_IN_STRING = re.compile(rb'(?:[^"\\]+|\\.){1,10000}+', re.DOTALL)  # a part of it: matching holds the interpreter's lock


async def read_json(scope: Scope, receive: Receive, parse: Callable[[bytes], T]) -> T:
    """Read a whole body and *parse* it; raise RefusedError if it has too many values, ClientDisconnect at a cut."""
    before = bytearray()  # the last part; not a list of parts, each of which may be one byte
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body = message.get("body", b"")
        if not message.get("more_body", False):
            break
        before += body
    if before:
        body = bytes(before + body)
    if len(body) <= LARGE:  # as parse_json, without another coroutine: benchmark row run-async
        return parse(_as_utf8(body))
    return await parse_json(scope, body, parse)


async def parse_json(scope: Scope, body: bytes, parse: Callable[[bytes], T]) -> T:
    """Call *parse* with *body* as UTF-8; in a thread if it is large."""
    if len(body) <= LARGE:
        return parse(_as_utf8(body))
    return await server_threads.run(_parse_large, body, scope["app"].settings.max_json_values, parse)


def without_collections(work: Callable[..., T], *args: Any) -> T:
    """Call *work*, which makes many objects at once, without a collection of garbage: each stops all threads."""
    if not gc.isenabled():  # or a thread with the same to do has paused it, and continues it
        return work(*args)
    gc.disable()
    try:
        return work(*args)
    finally:
        gc.enable()


def json_problem(body: bytes) -> str:
    """Say why *body*, which is not valid JSON, is not text, or which quotes it needs; "" if it is something else."""
    try:
        body.decode(json.detect_encoding(body))
    except UnicodeDecodeError as error:
        byte = body[error.start]
        return (
            f"JSON must be UTF-8, or UTF-16 or UTF-32; the byte {byte:#04x} at {error.start:,} is not {error.encoding}"
        )
    return "names and texts need double quotes" if _OTHER_QUOTES.match(body) else ""


def _as_utf8(body: bytes) -> bytes:
    """Convert UTF-16 and UTF-32, remove a byte order mark; other bytes stay, and are not valid JSON."""
    if body.startswith(b'{"'):  # the usual case
        return body
    encoding = json.detect_encoding(body)
    if encoding == "utf-8":
        return body
    try:
        return body.decode(encoding).encode()
    except UnicodeDecodeError:
        return body


def _parse_large(body: bytes, max_values: int, parse: Callable[[bytes], T]) -> T:
    body = _as_utf8(body)
    # Parsing holds the interpreter's lock to its end, in this thread too: only the number of values limits its time.
    if max_values and _values(body) > max_values and _has_more_values(body, max_values):
        message = f"The JSON has more than {max_values:,} values; an array, an object or a key counts as {_COSTLY}"
        raise RefusedError(413, f"{message} (HAYHOOKS_MAX_JSON_VALUES)")
    return without_collections(parse, body)


def _has_more_values(body: bytes, limit: int) -> bool:
    """Whether *body* has more than *limit* values outside of its strings."""
    values, end = 0, 0
    while values <= limit and (start := body.find(b'"', end)) >= 0:
        values += 1 + _values(body[end:start])
        end = start + 1
        while part := _IN_STRING.match(body, end):
            end = part.end()
        end += 1  # the quote
    return values + _values(body[end:]) > limit


def _values(text: bytes) -> int:
    return text.count(b",") + _COSTLY * (text.count(b"[") + text.count(b"{") + text.count(b":"))
