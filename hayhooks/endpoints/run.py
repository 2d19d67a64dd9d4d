"""``POST /{name}/run``: a wrapper's ``run_api``, its arguments as a JSON object, its result as JSON or as a stream."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hayhooks.encode import encode
from hayhooks.errors import InvalidInputError, PipelineError
from hayhooks.invoke import Stream, invoke, unless_disconnected
from hayhooks.kernel.signature import Operation
from hayhooks.kernel.snapshot import Deployment, Snapshot
from hayhooks.sse import Events, SSEStream, Text, run_events


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Nothing beside the deployments."""
    return iter(())


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve ``/run`` for a deployment that implements ``run_api`` or ``run_api_async``."""
    operation = deployment.operation("run_api_async", "run_api")
    if operation is not None:
        yield Route("/run", _endpoint(deployment, operation), methods=["POST"])


def _endpoint(deployment: Deployment, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def run(request: Request) -> Response:
        arguments = _arguments(operation, await request.body())
        if operation.wants_headers:
            arguments["headers"] = request.headers
        return await unless_disconnected(request.receive, _answer(deployment, operation, arguments))

    return run


def _arguments(operation: Operation, body: bytes) -> dict[str, Any]:
    """The keyword arguments in *body*; none in an empty one."""
    try:
        return operation.arguments.validate_json(body or b"{}")
    except ValidationError as error:
        details = [
            {**detail, "loc": ["body", *detail["loc"]]}
            for detail in error.errors(include_url=False, include_context=False)
        ]
        for detail in details:
            if detail["type"] == "json_invalid":
                del detail["input"]  # that is the whole body, and may be no text at all
        raise InvalidInputError(details) from None


async def _answer(deployment: Deployment, operation: Operation, arguments: dict[str, Any]) -> Response:
    return await _respond(await invoke(deployment, operation, arguments), deployment, operation)


async def _respond(result: Any, deployment: Deployment, operation: Operation) -> Response:
    if isinstance(result, Response):
        return result
    if isinstance(result, SSEStream):
        stream = await Stream.of(deployment, result.stream)
        return Events(run_events(stream), stream)
    if isinstance(result, Stream):
        return Text(result)
    try:
        return Response(b'{"result":' + encode(result, operation) + b"}", media_type="application/json")
    except TypeError as error:
        raise PipelineError(str(error), traceback="") from error
