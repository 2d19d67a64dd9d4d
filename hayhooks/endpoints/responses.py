"""OpenAI Responses: ``/responses``, ``/v1/responses``, and ``/{name}/responses`` for one model. None is kept."""

from collections.abc import Iterator
from typing import Any

from starlette.routing import BaseRoute

from hayhooks.by_model import Api, check_content
from hayhooks.errors import OpenAIError
from hayhooks.kernel.snapshot import Deployment, Snapshot
from hayhooks.responses import Reply


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the paths on which the body names the model."""
    return _RESPONSES.server_routes()


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


_RESPONSES = Api(
    path="/responses",
    short_path="/responses",
    title="responses",
    methods=("run_response_async", "run_response"),
    main_field="input",
    check=_check,
    arguments=_arguments,
    answer=Reply,
)
