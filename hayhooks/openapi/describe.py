"""OpenAPI descriptions: every documented route describes its methods itself, as ``OperationDocs``."""

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
    """What the document says of one method of one route.

    The name is the operation's id, in a deployment's route followed by the deployment's; none of them may begin with
    another one and ``_``.
    """

    name: str
    summary: str
    answers: Mapping[str, Schema]  # by status; response objects, or references to them
    description: str = ""  # CommonMark
    tag: str = SERVER  # a deployment's routes have its name
    parameters: tuple[Schema, ...] = ()
    body: Mapping[str, Schema] = field(default_factory=dict)  # by content type; none takes no body
    body_required: bool = True
    schemas: Mapping[str, Schema] = field(default_factory=dict)  # what the others refer to, by component name
    needs_key: bool = True  # where the server has API keys


class DocumentedRoute(Route):
    """A route that says what it does, for each method that it has: ``Described("/run", run, {"POST": describe})``.

    Args:
        path: as Starlette's.
        endpoint: as Starlette's.
        docs: by HTTP method what gives its description; None for a method that is not to be shown.
        shown: whether the document has it.
        listed: whether ``/status`` has it among a deployment's endpoints; as *shown* if not given.
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
    """What some routes add to the document."""

    paths: Mapping[str, Schema]  # path items by path
    schemas: Mapping[str, Schema]  # components by name


def fragment(routes: Iterable[Any], deployment: str = "") -> OpenApiFragment:
    """What the described ones among *routes* add, below ``/{deployment}`` if there is one.

    A route whose description fails is left out, and the log says why: it shall not take the others with it.
    """
    paths: dict[str, Schema] = {}
    schemas: dict[str, Schema] = {}
    for route in routes:
        if isinstance(route, DocumentedRoute) and route.shown:
            item = paths.setdefault(f"/{deployment}{route.path}" if deployment else route.path, {})
            for method, describe in route.docs.items():
                try:
                    docs = describe()
                # It shows schemas that are made by the user's code.
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
        content = {kind: {"schema": schema} for kind, schema in docs.body.items()}
        operation["requestBody"] = {"required": docs.body_required, "content": content}
    if not docs.needs_key:
        operation["security"] = []
    operation["responses"] = dict(docs.answers)
    return operation


def slug(name: str) -> str:
    """*name* as code generators accept it in names of their own; different for every *name*."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=4).hexdigest()
    return plain if plain == name else f"{plain}_{digest}"


def ref(name: str) -> Schema:
    """A reference to the component *name*."""
    return {"$ref": _COMPONENTS + name}


def object_schema(required: Iterable[str] = (), /, **properties: Schema) -> Schema:
    """The schema of an object that may have more fields."""
    schema: Schema = {"type": "object", "properties": properties}
    if names := list(required):
        schema["required"] = names
    return schema


def parameter(name: str, description: str, place: str = "path", **schema: Any) -> Schema:
    """A parameter object: a text, unless *schema* says otherwise."""
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": {"type": "string", **schema},
    }


def response_object(description: str, content: Mapping[str, Schema] | None = None, **headers: str) -> Schema:
    """A response object: *content* are schemas by content type, *headers* their descriptions, with "_" for "-"."""
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
    detail={"description": "What went wrong: a text, or what the pipeline says."},
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
            input={"description": "What came."},
        ),
    },
)

SHARED: Mapping[str, Schema] = {
    "Error": _ERROR,
    "OpenAIErrorObject": _OPENAI_ERROR_OBJECT,
    "ValidationError": _VALIDATION_ERROR,
}
"""The components that errors have, whatever else is in the document."""

_MEANINGS = {
    400: "The request is malformed, or names a host that is not served",
    401: "No API key, or a wrong one; asked for where the server has keys",
    404: "There is no such pipeline, model or file",
    405: "Another method is needed",
    408: "The request's body did not come in time",
    413: "The body is larger than the server takes",
    415: "The body is of another content type than the endpoint takes",
    500: "The pipeline raised",
    501: "The pipeline, or the server, cannot do that",
    503: "It cannot serve at the moment: being loaded, failed to load, or too busy",
    504: "The pipeline took longer than it may",
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
"""The answers that ``errors`` refers to."""

_ALWAYS = (400, 401, 500)  # what stands before the endpoints can answer these
_WITH_BODY = (408, 413)
_WORK = (500, 503, 504)  # what a pipeline's work can end in


def error_responses(*statuses: int, body: bool = False, key: bool = True) -> dict[str, Schema]:
    """The answers of *statuses*, and those that any endpoint can give.

    Args:
        *statuses: of this one.
        body: whether it takes a body.
        key: whether it needs a key.
    """
    every = sorted({*statuses, *_ALWAYS, *(_WITH_BODY if body else ())} - ({401} if not key else set()))
    return {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in every}


def pipeline_responses(given: Schema, *statuses: int, body: bool = True) -> dict[str, Schema]:
    """The answers where a pipeline works: *given* if it can, else errors of *statuses* and what its work can end in."""
    return {
        "200": given,
        **error_responses(*statuses, *_WORK, body=body),
        "default": response_object("What the pipeline says by raising HTTPException", {JSON: ref("Error")}),
    }


# ------------------------------------------------------------------------------------------------ schemas of types


class _Lenient(GenerateJsonSchema):
    """Where a type has no JSON schema, anything goes: that must not cost the rest its description."""

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> JsonSchemaValue:
        return {}

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Nobody reads them."""


def schemas_of(
    deployment: str, types: Mapping[str, tuple[TypeAdapter[Any], Literal["validation", "serialization"]]]
) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """The schemas of *types*, by the same keys, and the components that they refer to.

    Components are named after the *deployment*: two of them may have different models of the same name. A type whose
    schema fails is ``{}``: anything.
    """
    prefix = f"{slug(deployment)}."
    try:
        return _schemas_of(prefix, types)
    # Models may bring code of their own for this.
    except Exception as error:
        if len(types) <= 1:
            log.warning("{}: a type has no JSON schema: {}", deployment, error)
            return {key: {} for key in types}, {}
    schemas: dict[str, Schema] = {}
    components: dict[str, Schema] = {}
    for key, given in types.items():
        one, its_own = schemas_of(deployment, {key: given})
        schemas |= one
        components |= its_own
    return schemas, components


def _schemas_of(
    prefix: str, types: Mapping[str, tuple[TypeAdapter[Any], JsonSchemaMode]]
) -> tuple[dict[str, Schema], dict[str, Schema]]:
    inputs = [(key, mode, adapter) for key, (adapter, mode) in types.items()]
    schemas, common = TypeAdapter.json_schemas(
        inputs, ref_template=f"{_COMPONENTS}{prefix}{{model}}", schema_generator=_Lenient
    )
    components = {f"{prefix}{name}": schema for name, schema in common.get("$defs", {}).items()}
    to_json([components, *schemas.values()])  # raises where somebody has put in what is no JSON
    return {key: schema for (key, _), schema in schemas.items()}, components


def resolved(schema: Schema, components: Mapping[str, Schema]) -> Schema:
    """What *schema* refers to, if it does nothing else."""
    while schema.keys() == {"$ref"}:
        schema = components[schema["$ref"].removeprefix(_COMPONENTS)]
    return schema


def inline_refs(schema: Schema, components: Mapping[str, Schema]) -> Schema:
    """*schema* as a JSON schema that stands for itself: what it refers to, of *components*, is in its ``$defs``."""
    schema = resolved(schema, components)
    needed: dict[str, Schema] = {}
    waiting = list(_references(schema))
    while waiting:
        name = waiting.pop()
        if name not in needed and name in components:
            needed[name] = components[name]
            waiting += _references(components[name])
    moved: Schema = _moved(schema)
    return {**moved, "$defs": {name: _moved(needed[name]) for name in sorted(needed)}} if needed else moved


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(_COMPONENTS):
        yield value.removeprefix(_COMPONENTS)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _references(item)


def _moved(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _moved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item) for item in value]
    if isinstance(value, str) and value.startswith(_COMPONENTS):
        return "#/$defs/" + value.removeprefix(_COMPONENTS)
    return value
