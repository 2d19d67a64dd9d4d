"""OpenAPI descriptions: each documented route describes its own methods, as ``OperationDocs``."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema, to_json
from starlette.routing import Route

from hayhooks.errors import sendable
from hayhooks.observability.log import log

Schema = dict[str, Any]

JSON, TEXT, EVENTS, FORM = "application/json", "text/plain", "text/event-stream", "multipart/form-data"

SERVER, OPENAI = "hayhooks server", "OpenAI API"  # tags; deployments' names have no spaces

_COMPONENTS = "#/components/schemas/"


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
            item = paths.setdefault(f"/{deployment}{route.path}" if deployment else route.path, {})
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
    return {"$ref": _COMPONENTS + name}


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
    error={"$ref": _COMPONENTS + "OpenAIErrorObject"},
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

_MEANINGS = {
    400: "The request is malformed, or names a host that is not served",
    401: "The API key is missing or wrong; only on a server with API keys",
    404: "There is no such pipeline, model or file",
    405: "The path does not support the method",
    408: "The request body did not arrive in time",
    413: "The body is larger than the server accepts",
    415: "The endpoint does not accept the body's content type",
    500: "The pipeline raised",
    501: "Not implemented by the pipeline, or by the server",
    503: "The pipeline cannot serve now: it is loading, failed to load, or is at capacity",
    504: "The pipeline exceeded its time limit",
}

RESPONSES: Mapping[str, Schema] = {
    **{
        f"Error{status}": response_object(
            meaning, {JSON: ref("Error")}, **({"Retry_After": "Seconds to wait."} if status == 503 else {})
        )
        for status, meaning in _MEANINGS.items()
    },
    "Error422": response_object("An argument is missing or does not fit", {JSON: ref("ValidationError")}),
}
"""The responses that ``error_responses`` refers to."""

_ALWAYS = (400, 401, 500)  # of the middleware, on every path
_WITH_BODY = (408, 413)
_PIPELINE = (500, 503, 504)  # of a call of a wrapper


def error_responses(*statuses: int, body: bool = False, key: bool = True) -> dict[str, Schema]:
    """Return the responses of *statuses*, and those that any endpoint can give.

    Args:
        *statuses: of this endpoint.
        body: whether it takes a body.
        key: whether it needs an API key.
    """
    every = sorted({*statuses, *_ALWAYS, *(_WITH_BODY if body else ())} - ({401} if not key else set()))
    return {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in every}


def pipeline_responses(success: Schema, *statuses: int, body: bool = True) -> dict[str, Schema]:
    """Return the responses of an endpoint that calls a wrapper: *success*, *statuses*, and errors of the call."""
    return {
        "200": success,
        **error_responses(*statuses, *_PIPELINE, body=body),
        "default": response_object("An HTTPException of the pipeline", {JSON: ref("Error")}),
    }


# ------------------------------------------------------------------------------------------------ schemas of types


class _Lenient(GenerateJsonSchema):
    """Types without a JSON schema accept anything, so that the others keep their schemas."""

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> JsonSchemaValue:
        return {}

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Drop warnings: the user cannot act on them."""


def schemas_of(
    deployment: str, types: Mapping[str, tuple[TypeAdapter[Any], Literal["validation", "serialization"]]]
) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """Return the schemas of *types* by the same keys, and the components that they refer to.

    The names of components begin with the *deployment*'s, because two deployments may have models of one name. A type
    whose schema fails is ``{}``: anything.
    """
    prefix = f"{slug(deployment)}."
    try:
        return _schemas_of(prefix, types)
    # The user's models may have code of their own for this.
    except Exception as error:
        if len(types) <= 1:
            log.warning("{}: a type has no JSON schema: {}", deployment, error)
            return {key: {} for key in types}, {}
    schemas: dict[str, Schema] = {}
    components: dict[str, Schema] = {}
    for key, given in types.items():
        schema, its_components = schemas_of(deployment, {key: given})
        schemas |= schema
        components |= its_components
    return schemas, components


def _schemas_of(
    prefix: str, types: Mapping[str, tuple[TypeAdapter[Any], JsonSchemaMode]]
) -> tuple[dict[str, Schema], dict[str, Schema]]:
    inputs = [(key, mode, adapter) for key, (adapter, mode) in types.items()]
    schemas, common = TypeAdapter.json_schemas(
        inputs, ref_template=f"{_COMPONENTS}{prefix}{{model}}", schema_generator=_Lenient
    )
    components = {f"{prefix}{name}": schema for name, schema in common.get("$defs", {}).items()}
    to_json([components, *schemas.values()])  # raises if a model put in a value that JSON cannot hold
    return {key: schema for (key, _), schema in schemas.items()}, components


def resolved(schema: Schema, components: Mapping[str, Schema]) -> Schema:
    """Return the component that *schema* refers to, or *schema* itself."""
    while schema.keys() == {"$ref"}:
        schema = components[schema["$ref"].removeprefix(_COMPONENTS)]
    return schema


def inline_refs(schema: Schema, components: Mapping[str, Schema]) -> Schema:
    """Return *schema* as a self-contained JSON schema: the *components* that it refers to are in ``$defs``."""
    schema = resolved(schema, components)
    needed: dict[str, Schema] = {}
    pending = list(_references(schema))
    while pending:
        name = pending.pop()
        if name not in needed and name in components:
            needed[name] = components[name]
            pending += _references(components[name])
    rewritten: Schema = _rewrite_refs(schema)
    return (
        {**rewritten, "$defs": {name: _rewrite_refs(needed[name]) for name in sorted(needed)}} if needed else rewritten
    )


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(_COMPONENTS):
        yield value.removeprefix(_COMPONENTS)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _references(item)


def _rewrite_refs(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rewrite_refs(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rewrite_refs(item) for item in value]
    if isinstance(value, str) and value.startswith(_COMPONENTS):
        return "#/$defs/" + value.removeprefix(_COMPONENTS)
    return value
