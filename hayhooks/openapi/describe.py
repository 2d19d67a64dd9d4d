"""OpenAPI descriptions: each documented route describes its own methods, as ``OperationDocs``."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.routing import Route

from hayhooks.errors import OpenAIError, sendable
from hayhooks.observability.log import log

Schema = dict[str, Any]

JSON, TEXT, EVENTS, FORM = "application/json", "text/plain", "text/event-stream", "multipart/form-data"

SERVER, OPENAI = "hayhooks server", "OpenAI API"  # tags; deployments' names have no spaces

COMPONENTS = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class OperationDocs:
    """The description of one method of one route.

    The name is the operation's id; for a deployment's route the deployment's name follows. No name may be the
    beginning of another one up to a ``_``.
    """

    name: str
    summary: str
    answers: Mapping[str, Schema]  # by status; response objects, or references to them
    description: str = ""  # CommonMark
    tag: str = SERVER  # a deployment's routes have its name
    parameters: tuple[Schema, ...] = ()
    body: Mapping[str, Schema] = field(default_factory=dict)  # by content type; empty: no body
    body_required: bool = True
    encoding: Mapping[str, Schema] = field(default_factory=dict)  # of a form's fields
    schemas: Mapping[str, Schema] = field(default_factory=dict)  # the components that the others refer to
    needs_key: bool = True  # where the server has API keys


class DocumentedRoute(Route):
    """A Starlette route with a description of each method: ``DocumentedRoute("/run", run, {"POST": describe})``.

    Args:
        path: as for Starlette's ``Route``.
        endpoint: as for Starlette's ``Route``.
        docs: HTTP method -> a function that returns its description, or None to leave it out of the document.
        shown: whether the route is in the document.
        listed: whether it is among a deployment's endpoints in ``/status``; default: *shown*.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        docs: Mapping[str, Callable[[], OperationDocs] | None],
        *,
        shown: bool = True,
        listed: bool | None = None,
    ) -> None:
        super().__init__(path, endpoint, methods=list(docs), include_in_schema=shown if listed is None else listed)
        self.shown = shown
        self.docs = {method: describe for method, describe in docs.items() if describe is not None}


@dataclass(frozen=True, slots=True)
class OpenApiFragment:
    """The part of the document that some routes add."""

    paths: Mapping[str, Schema]  # path items by path
    schemas: Mapping[str, Schema]  # components by name


def fragment(routes: Iterable[Any], deployment: str = "") -> OpenApiFragment:
    """Describe the documented ones of *routes*, below ``/{deployment}`` if one is given.

    A route whose description fails is left out and logged; the others are kept.
    """
    paths: dict[str, Schema] = {}
    schemas: dict[str, Schema] = {}
    for route in routes:
        if isinstance(route, DocumentedRoute) and route.shown:
            item = paths.setdefault(f"/{deployment}{route.path_format}" if deployment else route.path_format, {})
            for method, describe in route.docs.items():
                try:
                    docs = describe()
                # The schemas are made by the user's code, which may raise anything.
                except Exception as error:
                    log.opt(exception=error).warning("{}{} cannot be described: {}", deployment, route.path, error)
                    continue
                item[method.lower()] = _operation(docs, deployment)
                schemas.update(docs.schemas)
    return OpenApiFragment({path: item for path, item in paths.items() if item}, schemas)


def _operation(docs: OperationDocs, deployment: str) -> Schema:
    operation: Schema = {
        "operationId": f"{docs.name}_{slug(deployment)}" if deployment else docs.name,
        "tags": [deployment or docs.tag],
        "summary": sendable(docs.summary),
    }
    if docs.description:
        operation["description"] = sendable(docs.description)
    if docs.parameters:
        operation["parameters"] = list(docs.parameters)
    if docs.body:
        content: dict[str, Schema] = {kind: {"schema": schema} for kind, schema in docs.body.items()}
        if docs.encoding:
            content[FORM]["encoding"] = dict(docs.encoding)
        operation["requestBody"] = {"required": docs.body_required, "content": content}
    if not docs.needs_key:
        operation["security"] = []
    operation["responses"] = dict(docs.answers)
    return operation


def slug(name: str) -> str:
    """Return *name* as an identifier for code generators; unique for every *name*."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=4).hexdigest()
    return plain if plain == name else f"{plain}_{digest}"


def ref(name: str) -> Schema:
    """Return a reference to the component *name*."""
    return {"$ref": COMPONENTS + name}


def object_schema(required: Iterable[str] = (), /, **properties: Schema) -> Schema:
    """Return the schema of an object; additional fields are allowed."""
    schema: Schema = {"type": "object", "properties": properties}
    if names := list(required):
        schema["required"] = names
    return schema


def parameter(name: str, description: str, place: str = "path", **schema: Any) -> Schema:
    """Return a parameter object; a string unless *schema* has another type."""
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": {"type": "string", **schema},
    }


def response_object(description: str, content: Mapping[str, Schema] | None = None, **headers: str) -> Schema:
    """Return a response object; *content*: content type -> schema, *headers*: name with "_" for "-" -> description."""
    response: Schema = {"description": description}
    if content:
        response["content"] = {kind: {"schema": schema} for kind, schema in content.items()}
    if headers:
        response["headers"] = {
            name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    return response


# ------------------------------------------------------------------------------------------------ errors

_ERROR = object_schema(
    ["detail"],
    detail={"description": "What went wrong: a text, or what the pipeline raised."},
    error={"$ref": COMPONENTS + "OpenAIErrorObject"},
    request_id={"type": "string"},
    traceback={"type": "string", "description": "With HAYHOOKS_SHOW_TRACEBACKS."},
)

_OPENAI_ERROR_OBJECT = object_schema(
    ["message", "type", "param", "code"],
    message={"type": "string"},
    type={"type": "string", "examples": ["invalid_request_error", "server_error"]},
    param={"type": ["string", "null"], "description": "The field that is wrong."},
    code={"type": ["string", "null"], "examples": ["model_not_found", "not_implemented"]},
)

_VALIDATION_ERROR = object_schema(
    ["detail"],
    detail={
        "type": "array",
        "items": object_schema(
            ["type", "loc", "msg"],
            type={"type": "string"},
            loc={"type": "array", "items": {"type": ["string", "integer"]}},
            msg={"type": "string"},
            input={"description": "The invalid value, or its beginning; missing if the body is large."},
        ),
    },
    error_count={"type": "integer", "description": "How many errors there are, if `detail` has only the first ones."},
)

SHARED: Mapping[str, Schema] = {
    "Error": _ERROR,
    "OpenAIErrorObject": _OPENAI_ERROR_OBJECT,
    "ValidationError": _VALIDATION_ERROR,
}
"""The components of errors, in every document."""

_ERRORS: Mapping[int, tuple[str, str]] = {  # by status: when it is sent, an example of its message
    400: (
        "The request is malformed, or names a host that is not served",
        "Host 'example.org' is not allowed (HAYHOOKS_ALLOWED_HOSTS)",
    ),
    401: (
        "The API key is missing or wrong; only on a server with API keys",
        "API key missing: send the header 'Authorization: Bearer KEY'",
    ),
    404: ("There is no such pipeline", "there is no pipeline 'NAME'"),
    408: (
        "The request body did not arrive in time",
        "No request body data received for 30 s (HAYHOOKS_READ_TIMEOUT)",
    ),
    409: ("The execution's state forbids it", "only waiting executions can resume"),
    413: (
        "The body is larger than the server accepts",
        "The body is larger than the 104,857,600 bytes that are allowed (HAYHOOKS_MAX_BODY_SIZE)",
    ),
    415: (
        "The endpoint does not accept the body's content type or encoding",
        "The body's Content-Encoding is 'br'; accepted are gzip, deflate, zstd, or none",
    ),
    500: ("The pipeline raised", "Pipeline execution failed: ValueError: no such page"),
    501: (
        "The server cannot do it",
        "this is too large for SVG; ask with ?format=mermaid (it has 4000 components, tools and connections)",
    ),
    503: (
        "The pipeline cannot serve now: it is loading, failed to load, or is at capacity",
        "pipeline 'NAME' is being loaded",
    ),
    504: ("The pipeline exceeded its time limit", "the pipeline exceeded the request timeout of 60 s"),
}

_KINDS = "invalid_request_error", "server_error"

_OPENAI_ERRORS = [  # those that differ from the ones that _ERRORS gives
    OpenAIError(400, "The body is not valid JSON: expected value at line 1 column 1"),
    OpenAIError(401, _ERRORS[401][1], code="invalid_api_key"),
    OpenAIError(404, "The model 'NAME' does not exist", param="model", code="model_not_found"),
    OpenAIError(500, "ValueError: no such page", type="server_error"),
]


def error_response(status: int, body: Any, meaning: str = "", *, schema: str = "Error") -> Schema:
    """Return the response object of an error with *body* as its example; *meaning*: when it is sent."""
    headers = {"Retry_After": "Seconds to wait."} if status == 503 else {}
    response = response_object(meaning or _ERRORS[status][0], {JSON: ref(schema)}, **headers)
    response["content"][JSON]["example"] = body
    return response


def _components() -> Iterator[tuple[str, Schema]]:
    openai = {
        status: OpenAIError(status, message, type=_KINDS[status >= 500]) for status, (_, message) in _ERRORS.items()
    }
    openai |= {error.status: error for error in _OPENAI_ERRORS}
    for status, (_, message) in _ERRORS.items():
        yield f"Error{status}", error_response(status, {"detail": message})
        yield f"OpenAIError{status}", error_response(status, openai[status].body())
    yield "Error401", error_response(401, openai[401].body())  # of one form on every path
    internal = {"detail": "Internal server error", "request_id": "429ab35ff6f7057f00000001"}
    yield "InternalError", error_response(500, internal, "A bug of the server; its log has the traceback")
    missing = {"type": "missing", "loc": ["body", "text"], "msg": "Field required", "input": {}}
    meaning = "An argument is missing or does not fit"
    yield "Error422", error_response(422, {"detail": [missing]}, meaning, schema="ValidationError")
    text, meaning = "the text of the exception", "An HTTPException that the pipeline raised"
    yield "ErrorOfWrapper", error_response(402, {"detail": text}, meaning)
    yield "OpenAIErrorOfWrapper", error_response(402, OpenAIError(402, text).body(), meaning)


RESPONSES: Mapping[str, Schema] = dict(_components())
"""The responses that ``error_responses`` refers to: ``Error{status}``, and ``OpenAIError{status}`` in OpenAI's form."""

_ALWAYS = (400, 401, 500)  # of the middleware, on every path
_WITH_BODY = (408, 413, 415)


def error_responses(*statuses: int, body: bool = False, key: bool = True, openai: bool = False) -> dict[str, Schema]:
    """Return the responses of *statuses*, and those that any endpoint can give.

    Args:
        *statuses: of this endpoint.
        body: whether it takes a body.
        key: whether it needs an API key.
        openai: whether its errors have OpenAI's form.
    """
    every = sorted({*statuses, *_ALWAYS, *(_WITH_BODY if body else ())} - ({401} if not key else set()))
    names = {status: f"{'OpenAI' if openai else ''}Error{status}" for status in every} | {500: "InternalError"}
    return {str(status): _response_ref(name) for status, name in names.items()}


def _response_ref(name: str) -> Schema:
    return {"$ref": f"#/components/responses/{name}"}


def pipeline_responses(success: Schema, *statuses: int, body: bool = True, openai: bool = True) -> dict[str, Schema]:
    """Return the responses of an endpoint that calls a wrapper: *success*, *statuses*, and errors of the call."""
    errors = error_responses(*statuses, 503, 504, body=body, openai=openai)
    prefix = "OpenAI" if openai else ""
    own = {"500": _response_ref(f"{prefix}Error500"), "default": _response_ref(f"{prefix}ErrorOfWrapper")}
    return {"200": success, **errors, **own}  # in the order of *errors*
