"""Forms: reading uploads and text fields into a method's arguments.

Files are spooled: Starlette keeps a file in memory up to 1 MB and on disk beyond, whatever its size.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from hayhooks.errors import DisconnectedError, RefusedError
from hayhooks.http.context import context_of
from hayhooks.kernel.operations import Operation

Value = str | UploadFile

FORMS = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


def content_type(headers: Headers) -> str:
    """The body's type without parameters, "" if the client names none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[FormData]:
    """The form in the body of *request*, whose files are closed when the context ends.

    Raises:
        HTTPException: it is no form; the status is 400.
        RefusedError: it is larger than a form may be, or has more files.
        DisconnectedError: the client went away while it sent it.
    """
    settings = request.app.settings
    if content_type(request.headers) == "multipart/form-data":  # of others all lies in memory
        context_of(request.scope).body_limit = ("HAYHOOKS_MAX_UPLOAD_SIZE", settings.max_upload_size)
    try:
        form = await request.form(max_files=settings.max_upload_files)
    except ClientDisconnect:
        raise DisconnectedError("the client went away while it sent a form") from None
    except HTTPException as error:
        if error.detail.startswith("Too many files"):
            message = f"The form has more files than {settings.max_upload_files} (HAYHOOKS_MAX_UPLOAD_FILES)"
            raise RefusedError(413, message) from None
        raise
    except (MultiPartException, ValueError) as error:  # what the parser thinks of a boundary or a charset
        raise HTTPException(400, f"The body is not a valid form: {error}") from error
    try:
        yield form
    finally:
        with anyio.CancelScope(shield=True):
            await form.close()


def arguments_of(form: FormData, operation: Operation) -> dict[str, Any]:
    """The arguments for *operation* in *form*: files as they are, text as what the method takes.

    Text is tried as it is, then as JSON, then as the one item of a list; a field that comes several times is a list.
    An empty one counts as not given where the method takes no text, and so does a file input that was left empty.
    """
    arguments: dict[str, Any] = {}
    for name in dict.fromkeys(form.keys()):
        if name not in operation.parameters and not operation.takes_any:
            continue
        values = [value for value in form.getlist(name) if not _is_blank(value)]
        for argument in _first_that_fits(operation, name, values):
            arguments[name] = argument
    return arguments


def _first_that_fits(operation: Operation, name: str, values: list[Value]) -> list[Any]:
    """What *values* mean, as a list of one; empty if they are as good as not given.

    Where nothing fits it is the reading whose fault says most: of a structure what is wrong inside.
    """
    if not values:
        return []
    adapter = operation.fields.get(name)
    if adapter is None:
        return [_untyped(values)]
    parsed = [_parsed(value) for value in values]
    readings: list[Any] = [values[0], parsed[0], values, parsed] if len(values) == 1 else [values, parsed]
    for reading in readings:
        with suppress(ValidationError):
            adapter.validate_python({name: reading})
            return [reading]
    if values == [""]:
        return []
    return parsed if len(parsed) == 1 and isinstance(parsed[0], dict | list) else readings[:1]


def _untyped(values: list[Value]) -> Any:
    """Where anything is accepted text stays text, but for what is a JSON object or array."""
    read = [parsed if isinstance(parsed := _parsed(value), dict | list) else value for value in values]
    return read[0] if len(read) == 1 else read


def _parsed(value: Value) -> Any:
    if isinstance(value, str):
        with suppress(ValueError):
            return from_json(value)
    return value


def _is_blank(value: Value) -> bool:
    """Whether *value* is what a browser sends for a file input without a file."""
    return isinstance(value, UploadFile) and not value.filename and not value.size
