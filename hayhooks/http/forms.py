"""Forms: read uploads and text fields as a method's arguments."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from hayhooks.errors import DisconnectedError, RefusedError
from hayhooks.http.context import context_of
from hayhooks.kernel.isolation import SERVER, running_package
from hayhooks.kernel.operations import Operation

Value = str | UploadFile

FORMS = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


def content_type(headers: Headers) -> str:
    """Return the body's media type without parameters; "" if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[FormData]:
    """Read the form in the body of *request*; close its files when the context ends.

    A form that is not valid raises HTTPException 400, one over a limit RefusedError.
    """
    settings = request.app.settings
    if content_type(request.headers) == "multipart/form-data":  # other forms are held in memory
        context_of(request.scope).body_limit = ("HAYHOOKS_MAX_UPLOAD_SIZE", settings.max_upload_size)
    try:
        with running_package(SERVER):  # large files are written in threads: not those that wrappers can take
            form = await request.form(max_files=settings.max_upload_files)
    except ClientDisconnect:
        raise DisconnectedError("the client went away while it sent a form") from None
    except HTTPException as error:
        if error.detail.startswith("Too many files"):
            message = f"The form has more files than {settings.max_upload_files} (HAYHOOKS_MAX_UPLOAD_FILES)"
            raise RefusedError(413, message) from None
        raise
    except (MultiPartException, ValueError) as error:  # of the boundary or the charset
        raise HTTPException(400, f"The body is not a valid form: {error}") from error
    try:
        yield form
    finally:
        with anyio.CancelScope(shield=True):
            await form.close()


def arguments_of(form: FormData, operation: Operation) -> dict[str, Any]:
    """Return the arguments for *operation* in *form*, text as the method's types."""
    arguments: dict[str, Any] = {}
    for name in dict.fromkeys(form.keys()):
        if name not in operation.parameters and not operation.takes_any:
            continue
        # A browser sends an empty file without a name for a file input that was left empty.
        values = [v for v in form.getlist(name) if not isinstance(v, UploadFile) or v.filename or v.size]
        for argument in _first_valid(operation.fields.get(name), name, values):
            arguments[name] = argument
    return arguments


def _first_valid(adapter: TypeAdapter[dict[str, Any]] | None, name: str, values: list[Value]) -> list[Any]:
    """List the first reading that *adapter* accepts; [] omits the argument."""
    if not values:
        return []
    parsed: list[Any] = list(values)
    for i, value in enumerate(values):
        if isinstance(value, str):
            with suppress(ValueError):
                parsed[i] = from_json(value)
    if adapter is None:  # anything is accepted: text stays text, except for JSON objects and arrays
        read = [json if isinstance(json, dict | list) else value for json, value in zip(parsed, values, strict=True)]
        return [read[0] if len(read) == 1 else read]
    # Text as it is, then as JSON, then as the one item of a list; a repeated field is a list.
    readings: list[Any] = [values[0], parsed[0], values, parsed] if len(values) == 1 else [values, parsed]
    for reading in readings:
        with suppress(ValidationError):
            adapter.validate_python({name: reading})
            return [reading]
    if values == [""]:
        return []
    # None is valid: the reading with the most useful error; for JSON objects and arrays that is the error inside.
    return parsed if len(parsed) == 1 and isinstance(parsed[0], dict | list) else readings[:1]
