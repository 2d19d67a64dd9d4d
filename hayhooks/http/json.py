"""JSON: encode the results of wrappers, and send them."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, PydanticSerializationUnexpectedValue, to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hayhooks.errors import path_text, safe_str, shortened
from hayhooks.kernel.isolation import with_public_names
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.schema_types import haystack_to_dict
from hayhooks.toolkit.inputs import is_haystack_data

CONTENT_TYPE = (b"content-type", b"application/json")
_MAX_DEPTH = 250  # pydantic's limit is 255
_MAX_PLACE = 200  # characters
_LEAVES = frozenset({str, int, float, bool, type(None)})
# Characters that end a line for Python's `splitlines`, which clients split streams with: in UTF-8, and escaped.
_LINE_ENDS = tuple((end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\x85\u2028\u2029")


def encode(value: Any, operation: Operation | None = None) -> bytes:
    """Encode *value* by *operation*'s return annotation.

    Raises TypeError, with the place in *value* and the reason, for one that cannot be JSON or is not as annotated.
    """
    try:
        if type(value) is str and (operation is None or operation.result is None or operation.returns_text):
            return to_json(value)
        if operation is not None and operation.result is not None:
            # A ChatMessage from a method annotated `-> str` is its text.
            if operation.returns_text and is_haystack_data(type(value)) and hasattr(value, "text"):
                value = value.text
            if value is None:  # pydantic writes it whatever the type
                return _converted(value, operation)
            try:
                return operation.result.serializer.to_json(value, warnings="error")
            except (PydanticSerializationUnexpectedValue, PydanticSerializationError):
                return _converted(value, operation)
        return to_json(_plain(value), fallback=_fallback, inf_nan_mode="null")  # JSON has no NaN
    except TypeError:
        raise
    # Text that is not Unicode, a type that is not JSON's, a structure that is too deep or contains itself; and classes
    # of the user's may raise anything.
    except BaseException as error:
        try:
            fault = _fault(value)
        except BaseException:  # as above
            fault = ""
        # The thousand equal frames of a RecursionError say nothing in a log.
        cause = None if isinstance(error, RecursionError) else error
        raise TypeError(f"the result cannot be encoded as JSON: {fault or safe_str(error)}") from cause


def _fault(value: Any) -> str:
    """Say what in *value* cannot be encoded, and where; "" if nothing is found."""
    # The containers around the present item: what each is called in the one before, its id, and what is left of it.
    containers = [("", 0, iter([("result", value)]))]

    def place() -> str:
        return shortened("".join(called for called, _, _ in containers) + name, _MAX_PLACE)

    while containers:
        name, item = next(containers[-1][2], ("", None))
        if not name:
            containers.pop()
        elif isinstance(item, dict | list | tuple) or (is_dataclass(item) and not isinstance(item, type)):
            if any(container == id(item) for _, container, _ in containers):
                return f"{place()} contains itself"
            if len(containers) > _MAX_DEPTH:
                return f"{place()} is nested too deeply, in {_MAX_DEPTH} others"
            containers.append((name, id(item), _items(item)))
        else:
            try:
                to_json(item, fallback=_fallback, inf_nan_mode="null")
            except Exception as error:  # the item may be of a class of the user's
                return f"{place()}: {_reason(item, error)}"
    return ""


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield how each item of *value*, a container or dataclass, is written after it, and the item."""
    if isinstance(value, dict):
        return ((path_text([key]), item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return ((f"[{index}]", item) for index, item in enumerate(value))
    return ((f".{field.name}", getattr(value, field.name, None)) for field in fields(value))


def _reason(item: Any, error: Exception) -> str:
    """Say why *item*, which raised *error*, is no JSON."""
    if isinstance(item, bytes | bytearray | memoryview):
        return "bytes that are no UTF-8 (return a Response, or base64.b64encode(...))"
    if inspect.isawaitable(item):
        if inspect.iscoroutine(item):
            item.close()  # this error says that nobody has awaited it: Python need not
        return f"a {type(item).__name__} (forgot await?)"
    if isinstance(item, type):
        return f"the class {item.__name__}, not an object of it"
    if isinstance(item, str):
        return f"text that is no Unicode: {safe_str(error).removeprefix('Error serializing to JSON: ')}"
    return safe_str(error).removeprefix("Error serializing to JSON: ").removeprefix("TypeError: ")


def _converted(value: Any, operation: Operation) -> bytes:
    """Encode *value*, of another type than annotated, if its JSON is what the annotation allows."""
    assert operation.result is not None
    data = to_json(_plain(value), fallback=_fallback, inf_nan_mode="null")
    try:
        fitting = operation.result.validate_json(data)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = f"result{path_text(detail['loc'])}"
        annotation = with_public_names(inspect.formatannotation(inspect.signature(operation.method).return_annotation))
        kind = "None (forgot return?)" if value is None else f"a {type(value).__name__}"
        raise TypeError(
            f"{operation.name}() returned {kind}, which its annotation `-> {annotation}` does not "
            f"allow: {place}: {detail['msg']}"
        ) from None
    return operation.result.serializer.to_json(fitting)


def _plain(value: Any) -> Any:
    """Replace Haystack's data classes by dicts: pydantic would encode private fields."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_haystack_data(kind):
        return _plain(haystack_to_dict(value))
    if is_dataclass(kind) and not hasattr(kind, "__pydantic_serializer__"):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def _fallback(value: Any) -> Any:
    """Convert numpy's scalars and arrays, and objects with a ``to_dict``."""
    for method in ("tolist", "to_dict"):
        if callable(convert := getattr(value, method, None)) and not isinstance(value, type):
            return _plain(convert())
    name = with_public_names(f"{type(value).__module__}.{type(value).__qualname__}").removeprefix("builtins.")
    raise TypeError(f"{'an' if name[0] in 'aeio' else 'a'} {name} (it has no to_dict)")


def encode_part(value: Any) -> bytes:
    """Encode a part of a stream like ``encode``, on one line whatever its text."""
    try:
        data = encode(value)
    except TypeError as error:
        try:
            # Half a surrogate pair, which UTF-8 cannot encode, becomes an escape.
            return json.dumps(value, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError):
            raise TypeError(str(error)) from error
    return on_one_line(data)


def encode_texts(texts: list[str], before: bytes, between: bytes, after: bytes) -> bytes:
    """Encode *texts* as JSON strings, as ``encode_part`` does, with bytes around and between them."""
    try:  # all at once: benchmark row chat-async
        data = between.join(map(to_json, texts))
    except PydanticSerializationError:
        data = between.join(map(encode_part, texts))
    return before + (data if data.isascii() else on_one_line(data)) + after


def on_one_line(data: bytes) -> bytes:
    """Escape the line ends that JSON may contain."""
    if b"\xe2\x80" in data or b"\xc2\x85" in data:
        for line_end, escaped in _LINE_ENDS:
            data = data.replace(line_end, escaped)
    return data


class JSONBytesResponse(Response):
    """A response with encoded JSON."""

    def __init__(self, body: bytes) -> None:  # without Response's: benchmark row run-async
        self.body = body
        self.status_code = 200
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), CONTENT_TYPE]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})
