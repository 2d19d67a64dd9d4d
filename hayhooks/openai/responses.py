"""OpenAI Responses: ``/responses``, ``/v1/responses``, and ``/{name}/responses`` for one model. None is kept."""

from collections.abc import Iterator
from typing import Any

from starlette.routing import BaseRoute

from hayhooks.errors import OpenAIError
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.openai.endpoint import OpenAIEndpoint, check_content, content_schema, request_schema
from hayhooks.openai.reply import ResponsesEncoder
from hayhooks.openapi.describe import (
    EVENTS,
    JSON,
    OPENAI,
    OperationDocs,
    Schema,
    object_schema,
    pipeline_responses,
    ref,
    response_object,
)


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the paths on which the body names the model."""
    return _RESPONSES.server_routes(snapshot)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve ``/responses``, on which the path decides the model."""
    return _RESPONSES.deployment_routes(deployment)


def _check(body: dict[str, Any]) -> None:
    given = body.get("input")
    if isinstance(given, str):
        return
    if not isinstance(given, list) or not given:
        raise OpenAIError(400, "'input' must be a text or a list of at least one item", param="input")
    for index, item in enumerate(given):
        param = f"input[{index}]"
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if not isinstance(kind, str) or (kind == "message" and not isinstance(item.get("role"), str)):
            raise OpenAIError(
                400, f"'{param}' must be an object with a 'type', or a message with a 'role'", param=param
            )
        check_content(item, param)


def _arguments(body: dict[str, Any]) -> dict[str, Any]:
    """Wrappers get items in any case; a text is a message of the user."""
    given = body["input"]
    items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given
    return {"input_items": items}


_ITEM: Schema = {
    "anyOf": [
        object_schema(
            ["role"],
            type={"const": "message"},
            role={"type": "string", "examples": ["user", "system", "assistant"]},
            content=content_schema("input_text"),
        ),
        object_schema(
            ["type"],
            type={"type": "string", "not": {"const": "message"}, "examples": ["function_call_output"]},
            content=content_schema("input_text"),
        ),
    ]
}

_REQUEST = request_schema(
    "input",
    {"anyOf": [{"type": "string"}, {"type": "array", "items": ref("ResponseInputItem"), "minItems": 1}]},
    {"type": ["object", "null"]},
    "Hello",
)

_RESPONSE = object_schema(
    ["id", "object", "created_at", "status", "model", "output"],
    id={"type": "string"},
    object={"const": "response"},
    created_at={"type": "integer", "description": "Unix seconds."},
    status={"enum": ["completed", "incomplete", "failed", "in_progress"]},
    model={"type": "string"},
    output={
        "type": "array",
        "items": object_schema(
            ["type"], type={"type": "string", "examples": ["message", "reasoning", "function_call"]}
        ),
    },
    usage={
        "anyOf": [
            object_schema(
                input_tokens={"type": "integer"}, output_tokens={"type": "integer"}, total_tokens={"type": "integer"}
            ),
            {"type": "null"},
        ]
    },
)

_DOCS = OperationDocs(
    name="create_response",
    summary="Ask a pipeline for a response",
    description="OpenAI's Responses. `/responses` is the same.",
    tag=OPENAI,
    body={JSON: _REQUEST},
    answers=pipeline_responses(
        response_object(
            "The response; with `stream` named events, from `response.created` to `response.completed`.",
            {JSON: ref("Response"), EVENTS: {}},
        ),
        404,
        501,
    ),
    schemas={"Response": _RESPONSE, "ResponseInputItem": _ITEM},
)

_RESPONSES = OpenAIEndpoint(
    path="/responses",
    short_path="/responses",
    title="responses",
    short_name="respond",
    methods=("run_response_async", "run_response"),
    main_field="input",
    check=_check,
    arguments=_arguments,
    answer=ResponsesEncoder,
    docs=_DOCS,
)
