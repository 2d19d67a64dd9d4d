"""``POST /{name}/run``: call ``run_api``; the result is JSON or a stream.

A request runs top down: the route parses the arguments (``JSONRoute``, ``FormRoute``), ``_respond`` calls the method
and picks the response. The arguments are a JSON object, or a form if the method takes files. A YAML pipeline whose
arguments are grouped by component is served at ``POST /{name}`` too, where the result is not wrapped.

With ``?stream=true`` the answer is a stream, or a 400 before anything has run where the wrapper has none to give.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import anyio
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from hayhooks.errors import InvalidInputError, PipelineError, shortened
from hayhooks.http.context import context_of
from hayhooks.http.disconnect import cancel_on_disconnect
from hayhooks.http.executions import Preference, executions_of, order_response, submit
from hayhooks.http.forms import FORMS, arguments_of, content_type, form_of
from hayhooks.http.invoke import invoke
from hayhooks.http.json import JSONBytesResponse, encode
from hayhooks.http.request_json import LARGE, json_problem, parse_json, read_json
from hayhooks.http.responses import EventStreamResponse, ItemEventEncoder, SSEStream, TextStreamResponse
from hayhooks.http.stream import Stream, open_stream
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.places import place_of_result
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
    parameter,
    pipeline_responses,
    ref,
    response_object,
    slug,
)
from hayhooks.openapi.type_schemas import resolved, schemas_of
from hayhooks.toolkit.inputs import is_haystack_data

_SWITCH = {"true": True, "1": True, "": True, "false": False, "0": False}  # values of ?stream


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve ``/run`` if the wrapper has ``run_api`` or ``run_api_async``."""
    operation = deployment.operation("run_api_async", "run_api")
    if operation is None:
        return
    route = FormRoute(deployment, operation) if operation.uploads else JSONRoute(deployment, operation)
    yield DocumentedRoute("/run", route, {"POST": partial(_docs, deployment, operation)})
    if getattr(deployment.wrapper, "takes_components", False):
        docs = partial(_docs, deployment, operation, name="run_bare", wrapped=False)
        yield BareRoute(JSONRoute(deployment, operation, wrapped=False), docs)


class JSONRoute:
    """ASGI app: run a method that takes JSON. Starlette would wrap a function, slowly."""

    def __init__(self, deployment: Deployment, operation: Operation, *, wrapped: bool = True) -> None:
        self._deployment = deployment
        self._operation = operation
        self._wrapped = wrapped
        self._parse = partial(_parse_json, operation)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if b"prefer" in context_of(scope).headers and _is_for_later(scope):
            response = await _order(Request(scope, receive), self._deployment, self._parse)
            await response(scope, receive, send)
            return
        try:
            arguments = await read_json(scope, receive, self._parse)
        except InvalidInputError:
            if content_type(Headers(scope=scope)) == "multipart/form-data":
                raise HTTPException(415, f"{scope['path']} takes JSON: it has no parameter for files") from None
            raise
        if self._operation.wants_headers:
            arguments["headers"] = Headers(scope=scope)
        work = _respond(self._deployment, self._operation, arguments, scope, wrapped=self._wrapped)
        response = await cancel_on_disconnect(receive, work)
        await response(scope, receive, send)


def _is_for_later(scope: Scope) -> bool:
    # A preference that cannot be honoured is ignored (RFC 7240). An attempt sends the request without it.
    headers = Headers(scope=scope)
    if not Preference.of(headers).respond_async or content_type(headers) == "multipart/form-data":
        return False
    return executions_of(scope).is_available and not _asks_for_stream(scope["query_string"])


async def _order(request: Request, deployment: Deployment, parse: Callable[[bytes], dict[str, Any]]) -> Response:
    """Order an execution that runs this request."""
    content = await request.body()
    await parse_json(request.scope, content, parse)  # what is wrong with it is said at once
    execution, is_replay = await submit(request, deployment, "run", from_json(content or b"{}"))
    return await order_response(request, execution, is_replay=is_replay)


class BareRoute(DocumentedRoute):
    """The path of the deployment itself: ``/{name}`` or ``/{name}/``."""

    def __init__(self, endpoint: JSONRoute, docs: Callable[[], OperationDocs]) -> None:
        super().__init__("/", endpoint, {"POST": docs})
        self.path = self.path_format = ""  # which Starlette does not accept, but the dispatcher looks up


class FormRoute:
    """ASGI app: run a method with files, open until the last byte of the answer."""

    def __init__(self, deployment: Deployment, operation: Operation) -> None:
        self._deployment = deployment
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        is_json = content_type(request.headers) not in FORMS
        if is_json and b"prefer" in context_of(scope).headers and _is_for_later(scope):
            response = await _order(request, self._deployment, partial(_parse_json, self._operation))
            await response(scope, receive, send)
            return
        async with _parse_form(request, self._operation) as arguments:
            if self._operation.wants_headers:
                arguments["headers"] = Headers(scope=scope)
            work = _respond(self._deployment, self._operation, arguments, scope)
            response = await cancel_on_disconnect(request.receive, work)
            await response(scope, receive, send)


def _parse_json(operation: Operation, body: bytes) -> dict[str, Any]:
    """Return the keyword arguments in *body*; an empty body has none."""
    try:
        return operation.validator.validate_json(body or b"{}")
    except InvalidInputError as error:
        detail = error.details[0]
        if detail["type"] == "missing" and len(body) <= LARGE:
            operation.name_unknown(error, from_json(body or b"{}"))
        elif detail["type"] == "json_invalid" and (problem := json_problem(body)):
            detail["msg"] = f"Invalid JSON: {problem}"
        raise


@asynccontextmanager
async def _parse_form(request: Request, operation: Operation) -> AsyncIterator[dict[str, Any]]:
    """Yield the keyword arguments in a form, or in JSON if no file is required."""
    kind = content_type(request.headers)
    if kind not in FORMS and kind and "json" not in kind:
        files = ", ".join(sorted(operation.uploads))
        message = f"The body must be multipart/form-data (files: {files}); the request's type is {shortened(kind)}"
        raise HTTPException(415, message)
    # curl -d sends JSON with the content type of a form, but no form begins with a brace.
    if kind != "multipart/form-data" and (kind not in FORMS or (await request.body()).lstrip().startswith(b"{")):
        yield await parse_json(request.scope, await request.body(), partial(_parse_json, operation))
        return
    async with form_of(request) as form:
        yield await arguments_of(form, operation)


async def _respond(
    deployment: Deployment, operation: Operation, arguments: dict[str, Any], scope: Scope, *, wrapped: bool = True
) -> Response:
    """Call the method; return its result, *wrapped* as ``{"result": ...}``."""
    is_streamed = bool(scope["query_string"]) and _asks_for_stream(scope["query_string"])
    if is_streamed:
        operation = _streaming(deployment, operation)
    result = await invoke(deployment, operation, arguments)
    if isinstance(result, Response):
        if isinstance(result, FileResponse) and not await anyio.Path(result.path).is_file():
            raise PipelineError(f"there is no file {str(result.path)!r} to send", traceback="")
        return result
    if isinstance(result, SSEStream):
        return EventStreamResponse(ItemEventEncoder(), await open_stream(deployment, result.stream))
    if is_streamed and not isinstance(result, Stream):
        text = getattr(result, "text", None) if is_haystack_data(type(result)) else result  # a ChatMessage's
        if not isinstance(text, str):
            raise _unstreamable(deployment, f"{operation.name}() returned a {type(result).__name__}")
        result = Stream([text])
    if isinstance(result, Stream):
        if is_streamed and EVENTS in Headers(scope=scope).get("accept", ""):
            return EventStreamResponse(ItemEventEncoder(), result)
        return TextStreamResponse(result)
    try:
        body = encode(result, operation)
    except TypeError as error:
        raise PipelineError(str(error), traceback="", place=place_of_result(operation.method)) from None
    return JSONBytesResponse(b'{"result":' + body + b"}" if wrapped else body)


def _asks_for_stream(query: bytes) -> bool:
    (value, *_) = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("stream", ["false"])
    if value.lower() not in _SWITCH:
        raise HTTPException(400, f"The parameter stream must be true or false, not {shortened(value)!r}")
    return _SWITCH[value.lower()]


def _streaming(deployment: Deployment, operation: Operation) -> Operation:
    """Return what to call for a stream; a 400 where it is known that there is none."""
    if (stream_run := getattr(deployment.wrapper, "stream_run", None)) is not None:
        return replace(operation, method=stream_run, result=None)
    if operation.result_kinds == {"value"} and not operation.returns_text:
        reason = "no component streams" if "stream_run" in vars(deployment.wrapper) else "its result is whole"
        raise _unstreamable(deployment, reason)
    return operation


def _unstreamable(deployment: Deployment, reason: str) -> HTTPException:
    return HTTPException(400, f"{deployment.name} has no stream: {reason}. Ask without ?stream=true")


# ------------------------------------------------------------------------------------------------ API pages


_STREAM = parameter(
    "stream", "Send the text while it is made; as events with `Accept: text/event-stream`.", "query", type="boolean"
)


def _docs(deployment: Deployment, operation: Operation, *, name: str = "run", wrapped: bool = True) -> OperationDocs:
    types: dict[str, Any] = {"request": (operation.arguments, "validation")}
    streams = getattr(deployment.wrapper, "stream_run", None) is not None
    if operation.result is not None:
        types["result"] = (operation.result, "serialization")
    schemas, components = schemas_of(deployment.name, types)
    request, result = schemas["request"], schemas.get("result", {})
    response = f"{slug(deployment.name)}.{name}-response"
    components[response] = object_schema(["result"], result=result) if wrapped else result
    request_object = resolved(request, components)
    by_kind: dict[str, dict[str, Schema]] = {
        "value": {JSON: ref(response)},
        "stream": {TEXT: {"type": "string"}},
        "events": {EVENTS: {}},
        "response": {"*/*": {}},
    }
    kinds = set(by_kind) if "anything" in operation.result_kinds else set(operation.result_kinds)
    if streams:
        kinds |= {"stream", "events"}
    content = {type_: schema for kind in by_kind if kind in kinds for type_, schema in by_kind[kind].items()}
    body = _request_content(operation, request_object) if operation.uploads else {JSON: request}
    return OperationDocs(
        name=name,
        summary=operation.summary or f"Run {deployment.name}",
        description=operation.description,
        parameters=(_STREAM,) if streams else (),
        body=body,
        encoding=_form_encoding(body[FORM]) if FORM in body else {},
        body_required=bool(request_object.get("required")),
        answers=pipeline_responses(response_object("What the pipeline returns", content), 404, 422, openai=False),
        schemas=components,
    )


def _request_content(operation: Operation, schema: Schema) -> dict[str, Schema]:
    """Return the content types for files: a form, and JSON if no file is required."""
    required, fields = set(schema.get("required", ())), schema["properties"]
    form_fields = {name: _form_field(field) for name, field in fields.items()}
    for name in operation.uploads & required:
        if form_fields[name].get("type") == "array":
            form_fields[name]["minItems"] = 1  # forms have no empty list
    content = {FORM: {**schema, "properties": form_fields}}
    if not operation.uploads & required:
        others = {name: field for name, field in fields.items() if name not in operation.uploads}
        content[JSON] = {**schema, "properties": others}
    return content


def _form_field(field: Schema) -> Schema:
    """Return the schema of a form's *field*. Forms have no null, and API pages send what is given as an example.

    So lists, and texts that may be left out, have an empty example, for which nothing is sent.
    """
    options = [option for option in field.get("anyOf", ()) if option != {"type": "null"}]
    kinds = options or [field]
    is_list = any(kind.get("type") == "array" for kind in kinds)
    is_file = any(kind.get("format") == "binary" for kind in kinds)
    may_be_text = field.get("default", "") is None and any(map(_is_any_text, kinds))
    if not (is_list or is_file or may_be_text):
        return field
    form_field = {key: value for key, value in field.items() if key != "anyOf" and (key, value) != ("default", None)}
    if options:
        form_field |= options[0] if len(options) == 1 else {"anyOf": options}
    return form_field if is_file else {"examples": [[] if is_list else ""], **form_field}


def _is_any_text(schema: Schema) -> bool:
    """Whether *schema* accepts any text, "null" and "" too."""
    restrictions = ("$ref", "allOf", "anyOf", "const", "enum", "format", "minLength", "oneOf", "pattern")
    return schema.get("type", "string") == "string" and not any(key in schema for key in restrictions)


def _form_encoding(schema: Schema) -> dict[str, Schema]:
    """Return how a form with *schema* is sent: each item of a list as a field of its own.

    Lists of objects are left out, which that style would take apart into their fields.
    """
    lists = {name: field["items"] for name, field in schema["properties"].items() if "items" in field}
    return {name: {"style": "form", "explode": True} for name, items in lists.items() if _is_scalar(items)}


def _is_scalar(schema: Schema) -> bool:
    if "$ref" in schema or schema.get("type") in ("array", "object"):
        return False
    return all(map(_is_scalar, schema.get("anyOf", ())))
