"""OpenAI chat completions: ``/chat/completions``, ``/v1/chat/completions``, and ``/{name}/chat`` for one model."""

from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from hayhooks.completions import Completion, piece_of
from hayhooks.errors import NotFoundError, OpenAIError, PipelineError
from hayhooks.invoke import Stream, collect, invoke, unless_disconnected
from hayhooks.kernel.signature import Operation
from hayhooks.kernel.snapshot import Deployment, Snapshot
from hayhooks.logger import log
from hayhooks.router import find, lend, missing, switch_of
from hayhooks.sse import Events

_METHODS = ("run_chat_completion_async", "run_chat_completion")


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the paths on which the body names the model."""
    for path in ("/chat/completions", "/v1/chat/completions"):
        yield Route(path, _ByModel(), methods=["POST"])


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve ``/chat``, on which the path decides the model; it says so where the wrapper cannot chat."""
    can_chat = deployment.operation(*_METHODS) is not None

    async def chat(request: Request) -> Response:
        body = _parse(await request.body())
        return await _complete(deployment, {**body, "model": deployment.name}, request)

    yield Route("/chat", chat, methods=["POST"], include_in_schema=can_chat)


class _ByModel:
    """Chat with the deployment that the body names; an ASGI app, for the lease must last to the last byte."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = _parse(await request.body())
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise OpenAIError(400, "'model' must be a string that names a model", param="model")
        deployment = await find(scope, model)
        if deployment is None:
            raise _unknown_model(switch_of(scope).live.snapshot, model)
        chosen = deployment

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            response = await _complete(chosen, body, request)
            await response(scope, receive, send)

        await lend(chosen, answer, scope, receive, send)


def _unknown_model(snapshot: Snapshot, model: str) -> OpenAIError:
    error = missing(snapshot, model)
    if isinstance(error, NotFoundError):
        return OpenAIError(404, f"The model {model!r} does not exist", param="model", code="model_not_found")
    return OpenAIError(503, str(error), type="server_error", param="model", code="model_not_ready")


def _parse(content: bytes) -> dict[str, Any]:
    """The body as a dict with valid ``messages`` and ``stream``; every other field as the client sent it."""
    try:
        body = from_json(content, cache_strings="keys")
    except ValueError as error:
        raise OpenAIError(400, f"The body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise OpenAIError(400, "The body must be a JSON object")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise OpenAIError(400, "'messages' must be a list of at least one message", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            param = f"messages[{index}]"
            raise OpenAIError(400, f"'{param}' must be an object with a 'role'", param=param)
    if not isinstance(body.get("stream"), bool | None):
        raise OpenAIError(400, "'stream' must be true, false or null", param="stream")
    return body


async def _complete(deployment: Deployment, body: dict[str, Any], request: Request) -> Response:
    operation = deployment.operation(*_METHODS)
    if operation is None:
        message = f"The pipeline {deployment.name!r} does not implement chat completions ({' or '.join(_METHODS)})"
        raise OpenAIError(501, message, param="model", code="not_implemented", retry=False)
    try:
        # While the wrapper works nothing is read from the client but the news that it has gone.
        answer: Response = await unless_disconnected(request.receive, _answer(deployment, operation, body, request))
        return answer
    except PipelineError as error:
        log.opt(exception=error.__cause__ or error).error("{}: the chat failed: {}", deployment.name, error)
        raise OpenAIError(500, str(error), type="server_error", retry=False) from error


async def _answer(deployment: Deployment, operation: Operation, body: dict[str, Any], request: Request) -> Response:
    arguments: dict[str, Any] = {"model": deployment.name, "messages": body["messages"], "body": body}
    arguments = operation.accepted(arguments)
    if operation.wants_headers:
        arguments["headers"] = request.headers
    result = await invoke(deployment, operation, arguments)
    if isinstance(result, Response):
        return result
    completion = Completion(deployment.name)
    if not body.get("stream"):
        items = await collect(result) if isinstance(result, Stream) else [result]
        return JSONResponse(completion.whole(map(piece_of, items)))
    if not isinstance(result, Stream):
        result = Stream([result])
    try:
        for item in result.first[:1]:
            piece_of(item)  # raises while there is still a status to say so
    except PipelineError:
        await result.aclose()
        raise
    return Events(completion.events(result))
