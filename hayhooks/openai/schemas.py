"""The OpenAPI descriptions of chat completions and Responses."""

from dataclasses import replace
from typing import Any

from hayhooks.errors import OpenAIError
from hayhooks.kernel.operations import Operation
from hayhooks.openapi.describe import (
    EVENTS,
    JSON,
    OPENAI,
    OperationDocs,
    Schema,
    error_response,
    error_responses,
    object_schema,
    parameter,
    pipeline_responses,
    ref,
    response_object,
)


def docs_by_model(docs: OperationDocs, model: str) -> OperationDocs:
    """Return *docs* with *model* in the example of the body."""
    ((kind, schema),) = docs.body.items()
    examples = [{"model": model, **example} for example in schema["examples"]]
    return replace(docs, body={kind: {**schema, "examples": examples}})


def docs_of_pipeline(docs: OperationDocs, name: str, operation: Operation) -> OperationDocs:
    """Return *docs* for a pipeline's own path, where the body need not name it."""
    ((kind, schema),) = docs.body.items()
    required = [field for field in schema["required"] if field != "model"]
    return replace(
        docs,
        name=name,
        summary=operation.summary or docs.summary,
        description=operation.description,
        body={kind: {**schema, "required": required}},
    )


_EVENT = object_schema(
    ["type", "data"],
    type={"type": "string", "examples": ["status", "source"]},
    data={"description": "By its type; a `source` has `source`, `document` and `metadata`, as open-webui reads them."},
)
_EVENT["description"] = "An event of the pipeline for user interfaces."
_EVENT_LIST: Schema = {
    "type": "array",
    "items": ref("PipelineEvent"),
    "description": "The events of a whole answer, in their order, sources among them; missing if there are none.",
}


def _content(text_type: str) -> Schema:
    """Return the schema of a ``content`` that ``endpoint.check_content`` accepts."""
    part = object_schema(type={"type": "string", "examples": [text_type]}, text={"type": "string"})
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": part}, {"type": "null"}]}


def _request(field: str, schema: Schema, stream_options: Schema, example: Any) -> Schema:
    return {
        **object_schema(
            ["model", field],
            model={"type": "string", "minLength": 1, "description": "The pipeline's name."},
            **{field: schema},
            stream={"type": ["boolean", "null"], "default": False, "description": "Send the answer while it is made."},
            stream_options=stream_options,
        ),
        "description": "All other fields are passed to the pipeline.",
        "examples": [{field: example}],
    }


def _answer(kind: str, created: str, token_counts: tuple[str, str], required: list[str], **fields: Schema) -> Schema:
    """Return the schema of the answer *kind*; *created* and *token_counts* name fields."""
    usage = object_schema(**{name: {"type": "integer"} for name in (*token_counts, "total_tokens")})
    return object_schema(
        ["id", "object", created, "model", *required],
        id={"type": "string"},
        object={"const": kind},
        **{created: {"type": "integer", "description": "Unix seconds."}},
        model={"type": "string"},
        **fields,
        usage=usage,
    )


def _answers(api: str, description: str, schema: str, example: Schema) -> dict[str, Schema]:
    """Return the responses of an *api*: the whole answer of *schema*, or events."""
    success = response_object(description, {JSON: ref(schema), EVENTS: {}})
    success["content"][JSON]["example"] = example
    message = f"The pipeline 'NAME' does not implement {api}"
    missing = OpenAIError(501, message, param="model", code="not_implemented")
    return {
        **pipeline_responses(success, 404, 501),
        "501": error_response(501, missing.body(), "The pipeline does not implement it"),
    }


# ------------------------------------------------------------------------------------------------ chat completions

_MESSAGE = object_schema(
    ["role"],
    role={"type": "string", "examples": ["user", "system", "assistant", "tool"]},
    content=_content("text"),
)

_STREAM_OPTIONS: Schema = {
    "anyOf": [object_schema(include_usage={"type": "boolean"}), {"type": "null"}],
    "description": "`include_usage`: a stream ends with the token counts.",
}

_TOOL_CALL = object_schema(
    ["id", "type", "function"],
    id={"type": "string"},
    type={"const": "function"},
    function=object_schema(["name", "arguments"], name={"type": "string"}, arguments={"type": "string"}),
)


def _completion(kind: str, message_field: str, tool_calls: Schema, **events: Schema) -> Schema:
    """Return the schema of a completion or chunk; *message_field* names the choice's message."""
    message = object_schema(
        role={"type": "string"},
        content={"type": ["string", "null"]},
        reasoning_content={"type": ["string", "null"]},
        tool_calls=tool_calls,
    )
    choice = object_schema(
        ["index", message_field],
        index={"type": "integer"},
        **{message_field: message},
        finish_reason={"type": ["string", "null"]},
    )
    token_counts = ("prompt_tokens", "completion_tokens")
    return _answer(kind, "created", token_counts, ["choices"], choices={"type": "array", "items": choice}, **events)


CHAT = OperationDocs(
    name="create_chat_completion",
    summary="Chat with a pipeline",
    description="OpenAI's chat completions. `/chat/completions` is the same.",
    tag=OPENAI,
    body={
        JSON: _request(
            "messages",
            {"type": "array", "items": ref("ChatMessage"), "minItems": 1},
            _STREAM_OPTIONS,
            [{"role": "user", "content": "Hello"}],
        )
    },
    answers=_answers(
        "chat completions (run_chat_completion_async or run_chat_completion)",
        "The answer; with `stream` a `ChatCompletionChunk` in each event, and `data: [DONE]` at the end.",
        "ChatCompletion",
        {
            "id": "chatcmpl-46d5b5",
            "object": "chat.completion",
            "created": 1795839558,
            "model": "NAME",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"},
            ],
            "usage": {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10},
        },
    ),
    schemas={
        "ChatMessage": _MESSAGE,
        "ChatCompletion": _completion(
            "chat.completion", "message", {"type": "array", "items": _TOOL_CALL}, events=_EVENT_LIST
        ),
        "ChatCompletionChunk": object_schema(
            **_completion("chat.completion.chunk", "delta", {"type": "array"}, event=ref("PipelineEvent"))["properties"]
        ),
        "PipelineEvent": _EVENT,
    },
)

# ------------------------------------------------------------------------------------------------ Responses

_INPUT_ITEM: Schema = {
    "anyOf": [
        object_schema(
            ["role"],
            type={"const": "message"},
            role={"type": "string", "examples": ["user", "system", "assistant"]},
            content=_content("input_text"),
        ),
        object_schema(
            ["type"],
            type={"type": "string", "not": {"const": "message"}, "examples": ["function_call_output"]},
            content=_content("input_text"),
        ),
    ]
}

_OUTPUT_ITEM = object_schema(["type"], type={"type": "string", "examples": ["message", "reasoning", "function_call"]})

RESPONSES = OperationDocs(
    name="create_response",
    summary="Ask a pipeline for a response",
    description="OpenAI's Responses. `/responses` is the same.",
    tag=OPENAI,
    body={
        JSON: _request(
            "input",
            {"anyOf": [{"type": "string"}, {"type": "array", "items": ref("ResponseInputItem"), "minItems": 1}]},
            {"type": ["object", "null"]},
            "Hello",
        )
    },
    answers=_answers(
        "responses (run_response_async or run_response)",
        "The response; with `stream` named events, from `response.created` to `response.completed`.",
        "Response",
        {
            "id": "resp_46d5b5",
            "object": "response",
            "created_at": 1795839558,
            "status": "completed",
            "model": "NAME",
            "output": [
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello!"}]},
            ],
            "usage": {"input_tokens": 8, "output_tokens": 2, "total_tokens": 10},
        },
    ),
    schemas={
        "Response": _answer(
            "response",
            "created_at",
            ("input_tokens", "output_tokens"),
            ["status", "output"],
            status={"enum": ["completed", "incomplete", "failed", "in_progress"]},
            output={"type": "array", "items": _OUTPUT_ITEM},
            events=_EVENT_LIST,
        ),
        "PipelineEvent": _EVENT,
        "ResponseInputItem": _INPUT_ITEM,
    },
)


def stored_docs(name: str) -> OperationDocs:
    """Return the docs of what is done with a stored response; *name*: retrieve, delete, cancel or input_items."""
    parameters = [parameter("response_id", "The response's id.", pattern="^resp_")]
    if name == "retrieve":
        parameters += [
            parameter("stream", "Send its events again.", "query", type="boolean"),
            parameter("starting_after", "Only those above this sequence_number.", "query", type="integer"),
        ]
    answers = {
        "retrieve": ("Retrieve a stored response", ref("Response")),
        "cancel": ("Cancel a response in the background", ref("Response")),
        "delete": ("Delete a stored response", object_schema(["id", "deleted"], deleted={"type": "boolean"})),
        "input_items": ("List what a stored response was asked", object_schema(["data"], data={"type": "array"})),
    }
    summary, schema = answers[name]
    return OperationDocs(
        name=f"{name}_response",
        summary=summary,
        tag=OPENAI,
        parameters=tuple(parameters),
        answers={
            "200": response_object("What is stored, in OpenAI's shape", {JSON: schema}),
            **error_responses(404, 409, 503, openai=True),
        },
        schemas=RESPONSES.schemas,
    )
