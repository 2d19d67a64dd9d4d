"""Forms: read uploads and text fields as a method's arguments."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote_to_bytes

import anyio
from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from hayhooks.errors import DisconnectedError, InvalidInputError, shortened
from hayhooks.http.context import context_of
from hayhooks.http.multipart import MAX_FIELDS, MAX_FIELDS_SIZE, FormReader, check_field_size, too_many_fields
from hayhooks.http.request_json import LARGE, without_collections
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.threads import server_threads
from hayhooks.kernel.validation import Validator

Value = str | UploadFile

FORMS = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})

_CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii"})  # browsers send none, scripts in them UTF-8
_BLOCK = 262_144  # bytes of a multipart form that are parsed at a time


def content_type(headers: Headers) -> str:
    """Return the body's media type without parameters; "" if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[FormData]:
    """Read the form in the body of *request*; close its files when the context ends.

    A form that is not valid raises HTTPException 400 or 415, one over a limit RefusedError.
    """
    _, parameters = parse_options_header(request.headers.get("content-type"))
    charset = parameters.get(b"charset", b"").decode("latin-1").lower()
    if charset not in _CHARSETS:
        raise HTTPException(415, f"The charset of the form is {shortened(charset)!r}; only UTF-8 is accepted")
    try:
        if content_type(request.headers) != "multipart/form-data":
            body = await request.body()
            is_large = len(body) > LARGE
            yield await server_threads.run(_parse_urlencoded, body) if is_large else _parse_urlencoded(body)
            return
        settings = request.app.settings
        context_of(request.scope).body_limit = ("HAYHOOKS_MAX_UPLOAD_SIZE", settings.max_upload_size)
        reader = FormReader(parameters.get(b"boundary", b""), settings.max_upload_files)
        try:
            yield await _multipart(request, reader)
        finally:
            with anyio.CancelScope(shield=True):
                await server_threads.run(reader.close) if reader.is_on_disk else reader.close()
    except ClientDisconnect:
        raise DisconnectedError("the client went away while it sent a form") from None


async def _multipart(request: Request, reader: FormReader) -> FormData:
    block: list[bytes] = []
    size, is_large = 0, False
    async for chunk in request.stream():
        block.append(chunk)
        size += len(chunk)
        if size >= _BLOCK:
            is_large = True
            await server_threads.run(reader.feed, b"".join(block))
            block, size = [], 0
    rest = b"".join(block)
    if is_large or size > LARGE:
        return await server_threads.run(reader.finish, rest)
    return reader.finish(rest)


def _parse_urlencoded(body: bytes) -> FormData:
    """Parse as https://url.spec.whatwg.org/#urlencoded-parsing does."""
    if body.count(b"&") >= MAX_FIELDS:
        raise too_many_fields()
    if len(body) > MAX_FIELDS_SIZE:
        check_field_size(0, len(body))
    items: list[tuple[str, str | UploadFile]] = []
    for field in body.split(b"&"):
        check_field_size(len(field), 0)
        if field:
            name, _, value = field.replace(b"+", b" ").partition(b"=")
            items.append((_unquoted(name), _unquoted(value)))
    return FormData(items)


def _unquoted(text: bytes) -> str:
    return unquote_to_bytes(text).decode(errors="replace")


async def arguments_of(form: FormData, operation: Operation) -> dict[str, Any]:
    """Return the arguments for *operation* in *form*, text as the method's types; raise InvalidInputError."""
    size = sum(len(value) for _, value in form.multi_items() if isinstance(value, str))
    if size <= LARGE:
        return _arguments_of(form, operation)
    return await server_threads.run(without_collections, _arguments_of, form, operation)


def _arguments_of(form: FormData, operation: Operation) -> dict[str, Any]:
    by_name: dict[str, list[Value]] = {}
    for name, value in form.multi_items():
        if name not in operation.parameters and not operation.takes_any:
            continue
        values = by_name.setdefault(name, [])
        # A browser sends an empty file without a name for a file input that was left empty.
        if not isinstance(value, UploadFile) or value.filename or value.size:
            values.append(value)
    arguments: dict[str, Any] = {}
    for name, values in by_name.items():
        for argument in _first_valid(operation.fields.get(name), name, values):
            arguments[name] = argument
    try:
        return operation.validator.validate_python(arguments)
    except InvalidInputError as error:
        operation.name_unknown(error, form)
        raise


def _first_valid(validator: Validator | None, name: str, values: list[Value]) -> list[Any]:
    """List the first reading that *validator* accepts; [] omits the argument."""
    if not values:
        return []
    parsed: list[Any] = list(values)
    for i, value in enumerate(values):
        if isinstance(value, str):
            with suppress(ValueError):
                parsed[i] = from_json(value)
    if validator is None:  # anything is accepted: text stays text, except for JSON objects and arrays
        read = [json if isinstance(json, dict | list) else value for json, value in zip(parsed, values, strict=True)]
        return [read[0] if len(read) == 1 else read]
    # Text as it is, then as JSON, then as the one item of a list; a repeated field is a list.
    readings: list[Any] = [values[0], parsed[0], values, parsed] if len(values) == 1 else [values, parsed]
    if isinstance(parsed[0], str) and parsed[0].lstrip().startswith("{"):  # Swagger's UI joins objects with commas
        with suppress(ValueError):
            readings.append(from_json(f"[{parsed[0]}]"))
    for reading in readings:
        if validator.accepts({name: reading}):
            return [reading]
    if values == [""]:
        return []
    # None is valid: the reading with the most useful error; for JSON objects and arrays that is the error inside.
    return parsed if len(parsed) == 1 and isinstance(parsed[0], dict | list) else readings[:1]
