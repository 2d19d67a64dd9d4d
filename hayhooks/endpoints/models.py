"""``/models``: the deployments that can chat, as OpenAI lists models."""

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from hayhooks.errors import OpenAIError
from hayhooks.kernel.snapshot import Deployment, Snapshot

_METHODS = ("run_chat_completion", "run_chat_completion_async")


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the list and each model, with and without ``/v1``."""
    models = {name: _model(d) for name, d in snapshot.deployments.items() if d.operation(*_METHODS)}

    async def list_models(request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": list(models.values())})

    async def retrieve_model(request: Request) -> JSONResponse:
        name = request.path_params["name"]
        if name not in models:
            message = f"The model {name!r} does not exist"
            raise OpenAIError(404, message, param="model", code="model_not_found")
        return JSONResponse(models[name])

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
