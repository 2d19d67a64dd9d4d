"""``/models``: the deployments that can chat or respond, as OpenAI lists models."""

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from hayhooks.http.api_keys import may_call, refuse_call
from hayhooks.http.context import context_of
from hayhooks.http.lookup import model_not_found_error
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.openai.bridge import chat_of
from hayhooks.openapi.describe import (
    JSON,
    OPENAI,
    DocumentedRoute,
    OperationDocs,
    error_responses,
    object_schema,
    parameter,
    ref,
    response_object,
)


def is_model(deployment: Deployment) -> bool:
    """Whether *deployment* can chat or respond."""
    return chat_of(deployment) is not None


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the list of models and each model, with ``/v1`` and without."""

    async def list_models(request: Request) -> JSONResponse:
        key = context_of(request.scope).api_key
        served = snapshot.deployments.values()
        models = [_model(each) for each in served if is_model(each) and may_call(key, each.name)]
        return JSONResponse({"object": "list", "data": models})

    async def retrieve_model(request: Request) -> JSONResponse:
        name = request.path_params["name"]
        refuse_call(context_of(request.scope).api_key, name)
        deployment = snapshot.deployments.get(name)
        if deployment is None or not is_model(deployment):
            raise model_not_found_error(name)
        return JSONResponse(_model(deployment))

    yield Route("/models", list_models)
    yield Route("/models/{name}", retrieve_model)
    yield DocumentedRoute("/v1/models", list_models, {"GET": lambda: _LIST})
    yield DocumentedRoute("/v1/models/{name}", retrieve_model, {"GET": lambda: _RETRIEVE})


def _model(deployment: Deployment) -> dict[str, Any]:
    return {
        "id": deployment.name,
        "object": "model",
        "created": int(deployment.loaded_at),
        "owned_by": "hayhooks",
        "name": deployment.name,
    }


_SCHEMAS = {
    "Model": object_schema(
        ["id", "object", "created", "owned_by"],
        id={"type": "string", "description": "The pipeline's name."},
        object={"const": "model"},
        created={"type": "integer", "description": "When it was loaded, in Unix seconds."},
        owned_by={"type": "string"},
    )
}

_LIST = OperationDocs(
    name="list_models",
    summary="The pipelines that can chat or respond",
    description="`/models` is the same.",
    tag=OPENAI,
    answers={
        "200": response_object(
            "OpenAI's list of models",
            {
                JSON: object_schema(
                    ["object", "data"], object={"const": "list"}, data={"type": "array", "items": ref("Model")}
                )
            },
        ),
        **error_responses(openai=True),
    },
    schemas=_SCHEMAS,
)

_RETRIEVE = OperationDocs(
    name="retrieve_model",
    summary="One model",
    description="`/models/{name}` is the same.",
    tag=OPENAI,
    parameters=(parameter("name", "The pipeline's name."),),
    answers={
        "200": response_object("OpenAI's model object", {JSON: ref("Model")}),
        **error_responses(404, openai=True),
    },
    schemas=_SCHEMAS,
)
