"""OpenAI chat completions: ``/chat/completions``, ``/v1/chat/completions``, and ``/{name}/chat`` for one model."""

from collections.abc import Iterator
from typing import Any

from starlette.routing import BaseRoute

from hayhooks.by_model import Api, check_content
from hayhooks.completions import Completion
from hayhooks.errors import OpenAIError
from hayhooks.kernel.snapshot import Deployment, Snapshot


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the paths on which the body names the model."""
    return _CHAT.server_routes()


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


_CHAT = Api(
    path="/chat/completions",
    short_path="/chat",
    title="chat completions",
    methods=("run_chat_completion_async", "run_chat_completion"),
    main_field="messages",
    check=_check,
    arguments=_arguments,
    answer=_completion,
)
