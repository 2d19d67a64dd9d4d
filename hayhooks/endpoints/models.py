"""``/models``: the deployments that can chat or respond, as OpenAI lists models."""

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from hayhooks.errors import OpenAIError
from hayhooks.kernel.snapshot import Deployment, Snapshot

_METHODS = ("run_chat_completion", "run_chat_completion_async", "run_response", "run_response_async")


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the list and each model, with and without ``/v1``."""

    async def list_models(request: Request) -> JSONResponse:
        models = [_model(deployment) for deployment in snapshot.deployments.values() if deployment.operation(*_METHODS)]
        return JSONResponse({"object": "list", "data": models})

    async def retrieve_model(request: Request) -> JSONResponse:
        name = request.path_params["name"]
        deployment = snapshot.deployments.get(name)
        if deployment is None or not deployment.operation(*_METHODS):
            message = f"The model {name!r} does not exist"
            raise OpenAIError(404, message, param="model", code="model_not_found")
        return JSONResponse(_model(deployment))

    for prefix in ("", "/v1"):
        yield Route(f"{prefix}/models", list_models)
        yield Route(f"{prefix}/models/{{name}}", retrieve_model)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Nothing below a deployment."""
    return iter(())


def _model(deployment: Deployment) -> dict[str, Any]:
    created = int(deployment.loaded_at)
    return {
        "id": deployment.name,
        "object": "model",
        "created": created,
        "owned_by": "hayhooks",
        "name": deployment.name,
    }
