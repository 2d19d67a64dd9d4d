"""OpenAI chat completions: ``/chat/completions``, ``/v1/chat/completions``, and ``/{name}/chat`` for one model."""

from collections.abc import Iterator
from typing import Any

from starlette.routing import BaseRoute

from hayhooks.by_model import Api, check_content
from hayhooks.completions import Completion
from hayhooks.errors import OpenAIError
from hayhooks.kernel.snapshot import Deployment, Snapshot
from hayhooks.openapi import EVENTS, JSON, OPENAI, WORK, Docs, Schema, answer, errors, obj, ref


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


def _completion(model: str, body: dict[str, Any]) -> Completion:
    options = body.get("stream_options") or {}
    return Completion(model, include_usage=options.get("include_usage") is True)


_PART = obj(type={"type": "string", "examples": ["text"]}, text={"type": "string"})

_MESSAGE = obj(
    ["role"],
    role={"type": "string", "examples": ["user", "system", "assistant", "tool"]},
    content={"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}, {"type": "null"}]},
)

_REQUEST: Schema = {
    **obj(
        ["model", "messages"],
        model={"type": "string", "minLength": 1, "description": "The pipeline's name."},
        messages={"type": "array", "items": ref("ChatMessage"), "minItems": 1},
        stream={"type": ["boolean", "null"], "default": False, "description": "Send the answer while it is made."},
        stream_options={
            "anyOf": [obj(include_usage={"type": "boolean"}), {"type": "null"}],
            "description": "`include_usage`: a stream ends with the token counts.",
        },
    ),
    "description": "What else OpenAI's clients send is handed to the pipeline.",
    "examples": [{"messages": [{"role": "user", "content": "Hello"}]}],
}

_TOOL_CALL = obj(
    ["id", "type", "function"],
    id={"type": "string"},
    type={"const": "function"},
    function=obj(["name", "arguments"], name={"type": "string"}, arguments={"type": "string"}),
)

_USAGE = obj(prompt_tokens={"type": "integer"}, completion_tokens={"type": "integer"}, total_tokens={"type": "integer"})


def _completion_schema(kind: str, part: str, **message: Schema) -> Schema:
    """A completion or a chunk of one: they differ in the name of the *part* that a choice has."""
    said = obj(
        role={"type": "string"},
        content={"type": ["string", "null"]},
        reasoning_content={"type": ["string", "null"]},
        **message,
    )
    choice = obj(["index", part], index={"type": "integer"}, **{part: said}, finish_reason={"type": ["string", "null"]})
    return obj(
        ["id", "object", "created", "model", "choices"],
        id={"type": "string"},
        object={"const": kind},
        created={"type": "integer", "description": "Unix seconds."},
        model={"type": "string"},
        choices={"type": "array", "items": choice},
        usage={"anyOf": [_USAGE, {"type": "null"}]},
    )


_DOCS = Docs(
    name="create_chat_completion",
    summary="Chat with a pipeline",
    description="OpenAI's chat completions. `/chat/completions` is the same.",
    tag=OPENAI,
    body={JSON: _REQUEST},
    answers={
        "200": answer(
            "The answer; with `stream` a `ChatCompletionChunk` in each event, and `data: [DONE]` at the end.",
            {JSON: ref("ChatCompletion"), EVENTS: {}},
        ),
        **errors(404, 501, *WORK, body=True),
        "default": answer("What the pipeline says by raising HTTPException", {JSON: ref("Error")}),
    },
    schemas={
        "ChatMessage": _MESSAGE,
        "ChatCompletion": _completion_schema(
            "chat.completion", "message", tool_calls={"type": "array", "items": _TOOL_CALL}
        ),
        "ChatCompletionChunk": obj(
            **_completion_schema("chat.completion.chunk", "delta", tool_calls={"type": "array"})["properties"],
            event={"type": "object", "description": "Of the pipeline, for user interfaces."},
        ),
    },
)

_CHAT = Api(
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
