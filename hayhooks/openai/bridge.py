"""The bridge between the two APIs: a wrapper that implements one of them answers the clients of both.

    body ── Bridge.translate ──> body of the other API ──> the wrapper ── items ──> encoder of the client's API

Only requests are translated. Answers need no translation: ``normalize`` reads the items of either API. Fields of a body
that both APIs have, and those that neither has, are passed on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hayhooks.errors import OpenAIError
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.state import Deployment
from hayhooks.toolkit.conversations import items_of_messages, messages_of_items, stored_reference
from hayhooks.toolkit.generation import chat_parameters

Body = dict[str, Any]  # of a request; every field as the client sent it

CHAT_METHODS = ("run_chat_completion_async", "run_chat_completion")
RESPONSE_METHODS = ("run_response_async", "run_response")


def chat_of(deployment: Deployment) -> Operation | None:
    """Return the operation of *deployment* that answers a chat: that of either API."""
    return deployment.operation(*CHAT_METHODS, *RESPONSE_METHODS)


@dataclass(frozen=True, slots=True)
class Bridge:
    """The way to wrappers that implement the other API only."""

    methods: tuple[str, ...]  # of the other API, the preferred one first
    field: str  # of its body: the messages
    argument: str  # of its methods: the messages
    translate: Callable[[Body], Body]  # raises OpenAIError


def chat_body(body: Body) -> Body:
    """Translate the body of a response to that of a chat completion."""
    if param := stored_reference(body):
        message = f"'{param}' refers to what is not stored here: send the whole conversation, with 'store': false"
        raise OpenAIError(400, message, param=param)
    return _joined(
        body,
        _ONLY_RESPONSES,
        messages=messages_of_items(body["input"], body.get("instructions")),
        **chat_parameters(body),
    )


def response_body(body: Body) -> Body:
    """Translate the body of a chat completion to that of a response."""
    effort, verbosity = body.get("reasoning_effort"), body.get("verbosity")
    format_ = _mapping(body.get("response_format"))
    flat_format = {**_mapping(format_.get("json_schema")), "type": format_["type"]} if format_.get("type") else None
    text = {"format": flat_format, "verbosity": verbosity}
    tools = [flat for tool in _list(body.get("tools")) if (flat := _flat(tool))]
    return _joined(
        body,
        _ONLY_CHAT,
        input=items_of_messages(body["messages"]),
        tools=tools or None,
        tool_choice=_flat_choice(body.get("tool_choice")) if tools else None,
        text={name: value for name, value in text.items() if value is not None} or None,
        reasoning={"effort": effort} if effort is not None else None,
        max_output_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        store=False,
    )


TO_CHAT = Bridge(CHAT_METHODS, "messages", "messages", chat_body)
TO_RESPONSES = Bridge(RESPONSE_METHODS, "input", "input_items", response_body)

# The fields that the other API does not have, or has in another form.
_BOTH_DIFFER = frozenset({"tools", "tool_choice", "stream_options"})
_ONLY_RESPONSES = _BOTH_DIFFER | {
    "background", "context_management", "conversation", "include", "input", "instructions", "max_output_tokens",
    "max_tool_calls", "previous_response_id", "prompt", "reasoning", "text", "truncation",
}  # fmt: skip
_ONLY_CHAT = _BOTH_DIFFER | {
    "logprobs", "max_completion_tokens", "max_tokens", "messages", "reasoning_effort", "response_format", "store",
    "verbosity",
}  # fmt: skip


def _joined(body: Body, left_out: frozenset[str], **fields: Any) -> Body:
    """Return *body* without the fields *left_out*, and with those of *fields* that have a value."""
    kept = {name: value for name, value in body.items() if name not in left_out}
    return kept | {name: value for name, value in fields.items() if value is not None}


# Tools, the choice among them, and the format of the answer: chat completions nest what Responses has flat. Functions
# alone are translated, as in ``chat_parameters``.


def _flat(tool: Any) -> Body | None:
    match tool:
        case {"function": {"name": str()} as function}:
            return {"type": "function", "parameters": None, "strict": None, **function}
        case {"type": "function", "name": str()}:
            return dict(tool)
    return None


def _flat_choice(choice: Any) -> Any:
    match choice:
        case {"allowed_tools": {} as allowed}:
            tools = [
                {"type": "function", "name": flat["name"]}
                for tool in _list(allowed.get("tools"))
                if (flat := _flat(tool))
            ]
            return {"type": "allowed_tools", "mode": allowed.get("mode", "auto"), "tools": tools}
        case {"function": {"name": name}}:
            return {"type": "function", "name": name}
        case {}:
            return None
    return choice


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
