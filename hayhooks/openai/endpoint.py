"""Requests of OpenAI's APIs: the body names the deployment as its ``model``, and errors are told in OpenAI's shape."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from hayhooks.errors import OpenAIError, PipelineError, safe_str
from hayhooks.http.body import read_body
from hayhooks.http.disconnect import cancel_on_disconnect
from hayhooks.http.dispatch import model_not_served_error, serve_with_lease, switch_of, wait_for_deployment
from hayhooks.http.invoke import Stream, collect, invoke
from hayhooks.http.json import JSONBytesResponse
from hayhooks.http.responses import EventStreamResponse, StreamEncoder
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.observability.log import log
from hayhooks.observability.request_record import record_error
from hayhooks.openai.normalize import to_delta
from hayhooks.openapi.describe import DocumentedRoute, OperationDocs, Schema, object_schema

# Of wrappers that are models for OpenAI's clients.
_METHODS = ("run_chat_completion", "run_chat_completion_async", "run_response", "run_response_async")


def is_model(deployment: Deployment) -> bool:
    """Whether *deployment* can chat or respond, and so is a model for OpenAI's clients."""
    return deployment.operation(*_METHODS) is not None


class AnswerEncoder(StreamEncoder, Protocol):
    """One answer in the making; as a writer it makes the server-sent events."""

    def whole(self, items: Iterable[Any]) -> bytes:
        """The JSON of an answer that consists of *items*."""


@dataclass(frozen=True, slots=True)
class OpenAIEndpoint:
    """One of OpenAI's APIs."""

    path: str  # below "/v1" and without it
    short_path: str  # below "/{name}", where the path decides the model
    title: str
    short_name: str  # of the operation on the short path
    methods: tuple[str, ...]  # of wrappers, the preferred one first
    check: Callable[[dict[str, Any]], None]  # raises OpenAIError if its own fields of the body do not fit
    main_field: str  # of the body: what the model is asked
    arguments: Callable[[dict[str, Any]], dict[str, Any]]  # of the method, from the body; model and body are added
    answer: Callable[[str, dict[str, Any]], AnswerEncoder]  # from model and body
    docs: OperationDocs  # of the path on which the body names the model

    def server_routes(self, snapshot: Snapshot) -> Iterator[BaseRoute]:
        """Serve the paths on which the body names the model."""
        yield Route(self.path, _ByModel(self), methods=["POST"])
        yield DocumentedRoute(f"/v1{self.path}", _ByModel(self), {"POST": partial(self._docs_by_model, snapshot)})

    def deployment_routes(self, deployment: Deployment) -> Iterator[BaseRoute]:
        """Serve the path of one deployment; it says so where the wrapper has none of the methods."""
        operation = deployment.operation(*self.methods)
        docs = {"POST": partial(self._docs_of, operation)}
        yield DocumentedRoute(self.short_path, _OfOne(self, deployment), docs, shown=operation is not None)

    def _docs_by_model(self, snapshot: Snapshot) -> OperationDocs:
        """What the API pages say; the example names a model that there is."""
        able = (deployment.name for deployment in snapshot.deployments.values() if deployment.operation(*self.methods))
        return replace(self.docs, body=self._body(model=next(able, "my_pipeline")))

    def _docs_of(self, operation: Operation | None) -> OperationDocs:
        """The same where the path decides: the body need not name the model, and the method may have a docstring."""
        assert operation is not None
        return replace(
            self.docs,
            name=self.short_name,
            summary=operation.summary or self.docs.summary,
            description=operation.description,
            body=self._body(model=None),
        )

    def _body(self, model: str | None) -> dict[str, Schema]:
        ((kind, schema),) = self.docs.body.items()
        required = [name for name in schema["required"] if name != "model" or model]
        examples = [{**({"model": model} if model else {}), **example} for example in schema["examples"]]
        return {kind: {**schema, "required": required, "examples": examples}}

    async def body(self, receive: Receive) -> dict[str, Any]:
        """The checked body; every field as the client sent it.

        Raises:
            OpenAIError: it is no JSON object, or a field does not fit.
        """
        try:
            body = from_json(await read_body(receive), allow_inf_nan=False, cache_strings="keys")
        except ValueError as error:
            raise OpenAIError(400, f"The body is not valid JSON: {error}") from None
        if not isinstance(body, dict):
            raise OpenAIError(400, "The body must be a JSON object")
        self.check(body)
        if not isinstance(body.get("stream"), bool | None):
            raise OpenAIError(400, "'stream' must be true, false or null", param="stream")
        if not isinstance(body.get("stream_options"), dict | None):
            raise OpenAIError(400, "'stream_options' must be an object or null", param="stream_options")
        return body


def check_content(message: dict[str, Any], param: str) -> None:
    """Check what every wrapper relies on in the ``content`` of a *message*, which *param* names in the body.

    Raises:
        OpenAIError: it is neither text nor null nor a list of parts, or a text is none.
    """
    content = message.get("content")
    if not isinstance(content, str | list | None):
        raise OpenAIError(400, f"'{param}.content' must be a text, a list of parts or null", param=f"{param}.content")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        text = part.get("text", "") if isinstance(part, dict) else part
        if not isinstance(text, str):
            name = f"{param}.content[{index}]"
            raise OpenAIError(400, f"'{name}' must be an object, and its 'text' a string", param=name)


def content_schema(kind: str) -> Schema:
    """What ``check_content`` lets pass, for the API pages; parts of a text are of the type *kind*."""
    part = object_schema(type={"type": "string", "examples": [kind]}, text={"type": "string"})
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": part}, {"type": "null"}]}


def request_schema(field: str, schema: Schema, stream_options: Schema, example: Any) -> Schema:
    """The body of a request, for the API pages: *field* is what the model is asked."""
    return {
        **object_schema(
            ["model", field],
            model={"type": "string", "minLength": 1, "description": "The pipeline's name."},
            **{field: schema},
            stream={"type": ["boolean", "null"], "default": False, "description": "Send the answer while it is made."},
            stream_options=stream_options,
        ),
        "description": "What else OpenAI's clients send is handed to the pipeline.",
        "examples": [{field: example}],
    }


class _ByModel:
    """Ask the deployment that the body names; an ASGI app, for the lease must last to the last byte."""

    def __init__(self, api: OpenAIEndpoint) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._api.body(receive)
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise OpenAIError(400, "'model' must be a string that names a model", param="model")
        deployment = await wait_for_deployment(scope, model)
        if deployment is None:
            raise model_not_served_error(switch_of(scope).live.snapshot, model)
        await serve_with_lease(deployment, partial(_ask, self._api, deployment, body), scope, receive, send)


class _OfOne:
    """Ask one deployment; an ASGI app, for what Starlette does around a function costs 4 microseconds."""

    def __init__(self, api: OpenAIEndpoint, deployment: Deployment) -> None:
        self._api = api
        self._deployment = deployment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._api.body(receive)
        body["model"] = self._deployment.name
        await _ask(self._api, self._deployment, body, scope, receive, send)


async def _ask(
    api: OpenAIEndpoint, deployment: Deployment, body: dict[str, Any], scope: Scope, receive: Receive, send: Send
) -> None:
    operation = deployment.operation(*api.methods)
    if operation is None:
        message = f"The pipeline {deployment.name!r} does not implement {api.title} ({' or '.join(api.methods)})"
        raise OpenAIError(501, message, param="model", code="not_implemented", retry=False)
    try:
        # While the wrapper works nothing is read from the client but the news that it has gone.
        response = await cancel_on_disconnect(receive, _answer(api, deployment, operation, body, scope))
    except PipelineError as error:
        if error.__cause__ is not None and _was_reading_messages(error.__cause__.__traceback__):
            param = api.main_field
            raise OpenAIError(400, f"The pipeline cannot use '{param}': {error}", param=param) from error
        record_error(error)
        log.opt(exception=error.__cause__ or error).error("{}: {} failed: {}", deployment.name, api.title, error)
        raise OpenAIError(500, str(error), type="server_error", retry=False) from error
    await response(scope, receive, send)


async def _answer(
    api: OpenAIEndpoint, deployment: Deployment, operation: Operation, body: dict[str, Any], scope: Scope
) -> Response:
    arguments = operation.accepted({"model": deployment.name, **api.arguments(body), "body": body})
    if operation.wants_headers:
        arguments["headers"] = Headers(scope=scope)
    result = await invoke(deployment, operation, arguments)
    if isinstance(result, Response):
        return result
    stream = result if isinstance(result, Stream) else Stream([result])
    answer = api.answer(deployment.name, body)
    if not body.get("stream"):
        return JSONBytesResponse(_whole(answer, await collect(stream)))
    try:
        for item in stream.first[:1]:
            to_delta(item)  # raises while there is still a status to say so
    except PipelineError:
        await stream.aclose()
        raise
    return EventStreamResponse(answer, stream)


def _whole(answer: AnswerEncoder, items: list[Any]) -> bytes:
    try:
        return answer.whole(items)
    except PipelineError:
        raise
    except Exception as error:  # an item may raise anything when it is looked at, and hold what is no JSON
        raise PipelineError(safe_str(error), traceback="") from error


def _was_reading_messages(traceback: TracebackType | None) -> bool:
    """Whether the wrapper was turning the client's messages into Haystack's when it raised: they are at fault then."""
    while traceback is not None:
        module, name = traceback.tb_frame.f_globals.get("__name__"), traceback.tb_frame.f_code.co_name
        if (module, name) == ("haystack.dataclasses.chat_message", "from_openai_dict_format"):
            return True
        if module == "hayhooks.toolkit.messages":
            return True
        traceback = traceback.tb_next
    return False
