"""``POST /{name}/run``: a wrapper's ``run_api``, its arguments as a JSON object, its result as JSON or as a stream.

Of a method that takes files the arguments come as a form; the answer is the same. A pipeline in YAML whose arguments
come by component is served at ``POST /{name}`` too, where the result is not wrapped.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from hayhooks.errors import InvalidInputError, PipelineError
from hayhooks.http.body import read_body
from hayhooks.http.disconnect import cancel_on_disconnect
from hayhooks.http.forms import FORMS, arguments_of, content_type, form_of
from hayhooks.http.invoke import Stream, invoke
from hayhooks.http.json import JSONBytesResponse, encode
from hayhooks.http.responses import EventStreamResponse, ItemEventEncoder, SSEStream, TextStreamResponse
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.state import Deployment
from hayhooks.openapi.describe import (
    EVENTS,
    FORM,
    JSON,
    TEXT,
    DocumentedRoute,
    OperationDocs,
    Schema,
    object_schema,
    pipeline_responses,
    ref,
    resolved,
    response_object,
    schemas_of,
    slug,
)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve ``/run`` for a deployment that implements ``run_api`` or ``run_api_async``."""
    operation = deployment.operation("run_api_async", "run_api")
    if operation is not None:
        endpoint = _WithFiles(deployment, operation) if operation.uploads else _Run(deployment, operation)
        yield DocumentedRoute("/run", endpoint, {"POST": partial(_docs, deployment, operation)})
        if getattr(deployment.wrapper, "takes_components", False):
            bare = partial(_docs, deployment, operation, name="run_bare", wrapped=False)
            yield _Itself(_Run(deployment, operation, _bare), {"POST": bare})


def _docs(deployment: Deployment, operation: Operation, *, name: str = "run", wrapped: bool = True) -> OperationDocs:
    types: dict[str, Any] = {"request": (operation.arguments, "validation")}
    if operation.result is not None:
        types["result"] = (operation.result, "serialization")
    schemas, components = schemas_of(deployment.name, types)
    request, result = schemas["request"], schemas.get("result", {})
    response = f"{slug(deployment.name)}.{name}-response"
    components[response] = object_schema(["result"], result=result) if wrapped else result
    body, required = _body(operation, request, resolved(request, components))
    return OperationDocs(
        name=name,
        summary=operation.summary or f"Run {deployment.name}",
        description=operation.description,
        body=body,
        body_required=required,
        answers=pipeline_responses(
            response_object("What the pipeline answers", _content(operation, ref(response))), 404, 415, 422
        ),
        schemas=components,
    )


def _body(operation: Operation, reference: Schema, schema: Schema) -> tuple[dict[str, Schema], bool]:
    """The content types that are taken, and whether there has to be a body; JSON where no file has to come."""
    required = set(schema.get("required", ()))
    if not operation.uploads:
        return {JSON: reference}, bool(required)
    fields = schema["properties"]
    files = {name: _of_form(fields[name], required=name in required) for name in operation.uploads}
    body = {FORM: {**schema, "properties": {**fields, **files}}}
    if not operation.uploads & required:
        others = {name: field for name, field in fields.items() if name not in operation.uploads}
        body[JSON] = {**schema, "properties": others}
    return body, bool(required)


def _of_form(field: Schema, *, required: bool) -> Schema:
    """The schema of an upload as forms have it: no null, and no list is empty that has to be there."""
    options = [option for option in field.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        field = {**{key: value for key, value in field.items() if key not in ("anyOf", "default")}, **options[0]}
    return {**field, "minItems": 1} if required and field.get("type") == "array" else field


def _content(operation: Operation, response: Schema) -> dict[str, Schema]:
    """The content types of an answer: those that its return annotation promises."""
    content: dict[str, Schema] = {}
    text, anything = {"type": "string"}, "anything" in operation.result_kinds
    if anything or "value" in operation.result_kinds:
        content[JSON] = response
    if anything or "stream" in operation.result_kinds:
        content[TEXT] = text
    if anything or "events" in operation.result_kinds:
        content[EVENTS] = {}
    if anything or "response" in operation.result_kinds:
        content["*/*"] = {}
    return content


class _Itself(DocumentedRoute):
    """The path of the deployment itself, ``/{name}``, with a slash behind it or without."""

    def __init__(self, endpoint: Callable[..., Any], docs: Mapping[str, Callable[[], OperationDocs]]) -> None:
        super().__init__("/", endpoint, docs)
        self.path, self.path_regex = "", re.compile("/?$")


def _wrapped(result: bytes) -> bytes:
    return b'{"result":' + result + b"}"


def _bare(result: bytes) -> bytes:
    return result


Shape = Callable[[bytes], bytes]  # from a result's JSON to the body


class _Run:
    """Run a method that takes JSON; an ASGI app, for what Starlette does around a function costs 4 microseconds."""

    def __init__(self, deployment: Deployment, operation: Operation, shape: Shape = _wrapped) -> None:
        self._deployment = deployment
        self._operation = operation
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        try:
            arguments = _arguments(self._operation, body)
        except InvalidInputError:
            if content_type(Headers(scope=scope)) == "multipart/form-data":
                raise HTTPException(415, f"{scope['path']} takes JSON: it has no parameter for files") from None
            raise
        response = await _run(self._deployment, self._operation, arguments, scope, receive, self._shape)
        await response(scope, receive, send)


class _WithFiles:
    """Run a method that takes files; an ASGI app, for they stay open to the last byte of the answer."""

    def __init__(self, deployment: Deployment, operation: Operation) -> None:
        self._deployment = deployment
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        async with _arguments_with_files(request, self._operation) as arguments:
            response = await _run(self._deployment, self._operation, arguments, scope, request.receive)
            await response(scope, receive, send)


@asynccontextmanager
async def _arguments_with_files(request: Request, operation: Operation) -> AsyncIterator[dict[str, Any]]:
    """The keyword arguments in a form, or in JSON where all files may be left out."""
    kind = content_type(request.headers)
    if kind not in FORMS and kind and "json" not in kind:
        files = ", ".join(sorted(operation.uploads))
        raise HTTPException(415, f"The body must be multipart/form-data, for {files}, and not {kind}")
    # What curl -d sends is called a form too, but this one no form ever begins with.
    if kind != "multipart/form-data" and (kind not in FORMS or (await request.body()).lstrip().startswith(b"{")):
        yield _arguments(operation, await request.body())
        return
    async with form_of(request) as form:
        try:
            arguments = operation.arguments.validate_python(arguments_of(form, operation))
        except ValidationError as error:
            raise _invalid(error, without_input=True) from None
        yield arguments


def _arguments(operation: Operation, body: bytes) -> dict[str, Any]:
    """The keyword arguments in *body*; none in an empty one."""
    try:
        arguments: dict[str, Any] = operation.arguments.validator.validate_json(body or b"{}")
    except ValidationError as error:
        raise _invalid(error) from None
    return arguments


def _invalid(error: ValidationError, *, without_input: bool = False) -> InvalidInputError:
    details = [
        {**detail, "loc": ["body", *detail["loc"]]}
        for detail in error.errors(include_url=False, include_context=False, include_input=not without_input)
    ]
    for detail in details:
        if detail["type"] == "json_invalid":
            del detail["input"]  # that is the whole body, and may be no text at all
    return InvalidInputError(details)


def _run(
    deployment: Deployment,
    operation: Operation,
    arguments: dict[str, Any],
    scope: Scope,
    receive: Receive,
    shape: Shape = _wrapped,
) -> Awaitable[Response]:
    if operation.wants_headers:
        arguments["headers"] = Headers(scope=scope)
    return cancel_on_disconnect(receive, _answer(deployment, operation, arguments, shape))


async def _answer(deployment: Deployment, operation: Operation, arguments: dict[str, Any], shape: Shape) -> Response:
    result = await invoke(deployment, operation, arguments)
    if isinstance(result, Response):
        if isinstance(result, FileResponse) and not await anyio.Path(result.path).is_file():
            raise PipelineError(f"there is no file {str(result.path)!r} to send", traceback="")
        return result
    if isinstance(result, Stream):
        return TextStreamResponse(result)
    if isinstance(result, SSEStream):
        stream = await Stream.of(deployment, result.stream)
        return EventStreamResponse(ItemEventEncoder(), stream)
    try:
        return JSONBytesResponse(shape(encode(result, operation)))
    except TypeError as error:
        raise PipelineError(str(error), traceback="") from error
