"""OpenAI chat completions: ``/chat/completions``, ``/v1/chat/completions``, and ``/{name}/chat`` for one model."""

from collections.abc import Iterator
from typing import Any

from starlette.routing import BaseRoute

from hayhooks.errors import OpenAIError
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.openai.completions import ChatCompletionEncoder
from hayhooks.openai.endpoint import OpenAIEndpoint, check_content, content_schema, request_schema
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
    return _CHAT.server_routes(snapshot)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve ``/chat``, on which the path decides the model."""
    return _CHAT.deployment_routes(deployment)


def _check(body: dict[str, Any]) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise OpenAIError(400, "'messages' must be a list of at least one message", param="messages")
    for index, message in enumerate(messages):
        param = f"messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise OpenAIError(400, f"'{param}' must be an object with a 'role'", param=param)
        check_content(message, param)


def _arguments(body: dict[str, Any]) -> dict[str, Any]:
    return {"messages": body["messages"]}


def _completion(model: str, body: dict[str, Any]) -> ChatCompletionEncoder:
    options = body.get("stream_options") or {}
    return ChatCompletionEncoder(model, include_usage=options.get("include_usage") is True)


_MESSAGE = object_schema(
    ["role"],
    role={"type": "string", "examples": ["user", "system", "assistant", "tool"]},
    content=content_schema("text"),
)

_STREAM_OPTIONS: Schema = {
    "anyOf": [object_schema(include_usage={"type": "boolean"}), {"type": "null"}],
    "description": "`include_usage`: a stream ends with the token counts.",
}

_REQUEST = request_schema(
    "messages",
    {"type": "array", "items": ref("ChatMessage"), "minItems": 1},
    _STREAM_OPTIONS,
    [{"role": "user", "content": "Hello"}],
)

_TOOL_CALL = object_schema(
    ["id", "type", "function"],
    id={"type": "string"},
    type={"const": "function"},
    function=object_schema(["name", "arguments"], name={"type": "string"}, arguments={"type": "string"}),
)

_USAGE = object_schema(
    prompt_tokens={"type": "integer"}, completion_tokens={"type": "integer"}, total_tokens={"type": "integer"}
)


def _completion_schema(kind: str, part: str, **message: Schema) -> Schema:
    """A completion or a chunk of one: they differ in the name of the *part* that a choice has."""
    said = object_schema(
        role={"type": "string"},
        content={"type": ["string", "null"]},
        reasoning_content={"type": ["string", "null"]},
        **message,
    )
    choice = object_schema(
        ["index", part], index={"type": "integer"}, **{part: said}, finish_reason={"type": ["string", "null"]}
    )
    return object_schema(
        ["id", "object", "created", "model", "choices"],
        id={"type": "string"},
        object={"const": kind},
        created={"type": "integer", "description": "Unix seconds."},
        model={"type": "string"},
        choices={"type": "array", "items": choice},
        usage={"anyOf": [_USAGE, {"type": "null"}]},
    )


_DOCS = OperationDocs(
    name="create_chat_completion",
    summary="Chat with a pipeline",
    description="OpenAI's chat completions. `/chat/completions` is the same.",
    tag=OPENAI,
    body={JSON: _REQUEST},
    answers=pipeline_responses(
        response_object(
            "The answer; with `stream` a `ChatCompletionChunk` in each event, and `data: [DONE]` at the end.",
            {JSON: ref("ChatCompletion"), EVENTS: {}},
        ),
        404,
        501,
    ),
    schemas={
        "ChatMessage": _MESSAGE,
        "ChatCompletion": _completion_schema(
            "chat.completion", "message", tool_calls={"type": "array", "items": _TOOL_CALL}
        ),
        "ChatCompletionChunk": object_schema(
            **_completion_schema("chat.completion.chunk", "delta", tool_calls={"type": "array"})["properties"],
            event={"type": "object", "description": "Of the pipeline, for user interfaces."},
        ),
    },
)

_CHAT = OpenAIEndpoint(
    path="/chat/completions",
    short_path="/chat",
    title="chat completions",
    short_name="chat",
    methods=("run_chat_completion_async", "run_chat_completion"),
    main_field="messages",
    check=_check,
    arguments=_arguments,
    answer=_completion,
    docs=_DOCS,
)
