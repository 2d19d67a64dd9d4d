"""Base of chat completions and Responses: routes, checks, the call, errors.

``ModelRoute`` or ``PipelineRoute`` call the API's own ``parse`` and ``handle``. ``handle`` calls
``OpenAIEndpoint.respond``, which calls the wrapper and picks the response.
"""

import json
import sys
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from hayhooks.errors import InvalidMessagesError, OpenAIError, PipelineError, closest, safe_str
from hayhooks.http.canary import choose
from hayhooks.http.context import deployment_of, switch_of
from hayhooks.http.disconnect import cancel_on_disconnect
from hayhooks.http.dispatch import serve_instead, serve_with_lease
from hayhooks.http.invoke import collect, invoke
from hayhooks.http.json import JSONBytesResponse, encode_part
from hayhooks.http.lookup import model_not_served_error, wait_for_deployment
from hayhooks.http.request_json import json_problem, read_json
from hayhooks.http.responses import EventStreamResponse, StreamEncoder
from hayhooks.http.stream import Stream
from hayhooks.http.user_code import log_failure, raise_pipeline_error
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.kernel.threads import server_threads
from hayhooks.openai.bridge import Body, Bridge
from hayhooks.openai.delta import Delta
from hayhooks.openai.normalize import to_delta, unusable_error
from hayhooks.openai.schemas import docs_by_model, docs_of_pipeline
from hayhooks.openapi.describe import DocumentedRoute, OperationDocs

_MAX_FIELDS = 50  # of a body that are compared with a missing one

Parse = Callable[[bytes], Body]
Handle = Callable[[Deployment, Body, Scope, Receive, Send], Awaitable[None]]


class AnswerEncoder(StreamEncoder):
    """Encode one answer: whole as JSON, streamed as server-sent events."""

    def whole(self, items: list[Any]) -> bytes:
        """Return the JSON of an answer that consists of *items*."""
        try:
            ready = self.ready_object(items[0]) if len(items) == 1 else None
            return encode_part(self.answer_object(map(to_delta, items)) if ready is None else ready)
        except BaseException as error:  # an item may raise anything when it is read, and hold what JSON cannot
            raise_pipeline_error(error)

    @abstractmethod
    def ready_object(self, item: Any) -> dict[str, Any] | None:
        """Return *item* if it is a whole answer object of this API."""

    @abstractmethod
    def answer_object(self, deltas: Iterable[Delta]) -> dict[str, Any]:
        """Return the answer object that *deltas* add up to."""


@dataclass(frozen=True, slots=True)
class OpenAIEndpoint:
    """Definition of one API."""

    path: str  # below "/v1" and without it
    short_path: str  # below "/{name}", where the path decides the model
    title: str
    short_name: str  # of the operation on the short path, for OpenAPI
    methods: tuple[str, ...]  # of wrappers, the preferred one first
    field: str  # of the body: the messages
    argument: str  # of the method: the messages
    bridge: Bridge  # to wrappers without the methods
    docs: OperationDocs  # of the path on which the body names the model
    parse: Parse  # checks the body; raises OpenAIError
    handle: Handle

    def server_routes(self, snapshot: Snapshot) -> Iterator[BaseRoute]:
        """Serve the paths on which the body names the model."""
        methods = (*self.methods, *self.bridge.methods)
        models = (name for name, deployment in snapshot.deployments.items() if deployment.operation(*methods))
        docs = partial(docs_by_model, self.docs, next(models, "my_pipeline"))  # no snapshot: a stream keeps its route
        yield Route(self.path, ModelRoute(self.parse, self.handle), methods=["POST"])
        yield DocumentedRoute(f"/v1{self.path}", ModelRoute(self.parse, self.handle), {"POST": docs})

    def deployment_routes(self, deployment: Deployment) -> Iterator[BaseRoute]:
        """Serve the path of one deployment; listed if it answers, described if the wrapper has the methods itself."""
        operation = deployment.operation(*self.methods)
        docs = partial(docs_of_pipeline, self.docs, self.short_name, operation) if operation else None
        route = PipelineRoute(deployment, self.parse, self.handle)
        answers = deployment.operation(*self.methods, *self.bridge.methods) is not None
        yield DocumentedRoute(self.short_path, route, {"POST": docs}, shown=operation is not None, listed=answers)

    async def respond(
        self,
        deployment: Deployment,
        body: Body,
        messages: list[Any],
        new_encoder: Callable[[], AnswerEncoder],
        scope: Scope,
        receive: Receive,
    ) -> Response:
        """Call the wrapper's method with *messages*, or one of the other API; return the response to send.

        Raises:
            OpenAIError: 501 without any such method, 400 for unreadable messages, else 500.
        """
        is_streamed = bool(body["stream"])  # read first: the wrapper may change its body
        operation, messages, arguments = self._call(deployment, body, messages)
        if operation.wants_headers:
            arguments["headers"] = Headers(scope=scope)

        async def answer() -> Response:
            result = await invoke(deployment, operation, arguments)
            if isinstance(result, Response):
                return self._passed_through(result, operation)
            if result is None:
                raise unusable_error(result)
            stream = result if isinstance(result, Stream) else Stream([result])
            encoder = new_encoder()
            if not is_streamed:
                return JSONBytesResponse(encoder.whole(await collect(stream)))
            try:
                for item in stream.first[:1]:
                    to_delta(item)  # an item of no use raises now, while the status can still say so
            except BaseException as error:
                await stream.aclose()
                raise_pipeline_error(error)
            return EventStreamResponse(encoder, stream)

        try:
            # While the wrapper works, nothing but a disconnect is read from the client.
            return await cancel_on_disconnect(receive, answer())
        except PipelineError as error:
            if await _are_unreadable(messages, error.__cause__):
                field = getattr(error.__cause__, "field", "") or self.field
                raise OpenAIError(400, f"The pipeline cannot use '{field}': {error}", param=field) from error
            log_failure(error, f"{deployment.name}: {self.title} failed", operation)
            raise OpenAIError(500, str(error), type="server_error", retry=False) from error

    def _call(
        self, deployment: Deployment, body: Body, messages: list[Any]
    ) -> tuple[Operation, list[Any], dict[str, Any]]:
        """Return the method to call, the messages in its form, and its arguments."""
        operation, argument = deployment.operation(*self.methods), self.argument
        if operation is None and (operation := deployment.operation(*self.bridge.methods)):
            body, argument = self.bridge.translate(body), self.bridge.argument
            messages = body[self.bridge.field]
        if operation is None:
            message = f"The pipeline {deployment.name!r} does not implement {self.title} ({' or '.join(self.methods)})"
            raise OpenAIError(501, message, param="model", code="not_implemented", retry=False)
        return operation, messages, operation.accepted({"model": deployment.name, argument: messages, "body": body})

    def _passed_through(self, response: Response, operation: Operation) -> Response:
        if operation.name not in self.methods and response.status_code < 400:
            message = f"{operation.name} sends an answer of its own, which cannot become one of {self.title}"
            raise PipelineError(message, traceback="")
        return response


class ModelRoute:
    """ASGI app: call the deployment that the body names, under a lease."""

    def __init__(self, parse: Parse, handle: Handle) -> None:
        self._parse = parse
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = await read_json(scope, receive, self._parse)
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise OpenAIError(400, "'model' must be a string that names a model", param="model")
        conversation = _conversation_of(body) if model in switch_of(scope).live.snapshot.canaries else b""
        deployment = await wait_for_deployment(scope, model, conversation)
        if deployment is None:
            raise model_not_served_error(switch_of(scope).live.snapshot, model)
        await serve_with_lease(deployment, partial(self._handle, deployment, body), scope, receive, send)


class PipelineRoute:
    """ASGI app: call one deployment, whatever model the body names."""

    def __init__(self, deployment: Deployment, parse: Parse, handle: Handle) -> None:
        self._deployment = deployment
        self._parse = parse
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = await read_json(scope, receive, self._parse)  # dispatch has taken the lease
        body["model"] = name = self._deployment.name
        chosen = None
        if name in switch_of(scope).live.snapshot.canaries:  # now that the conversation is known
            chosen = choose(scope, switch_of(scope).live.snapshot, name, _conversation_of(body))
        if chosen is not None and chosen is not deployment_of(scope):
            await serve_instead(chosen, partial(self._handle, chosen, body), scope, receive, send)
            return
        await self._handle(self._deployment, body, scope, receive, send)


def _conversation_of(body: Body) -> bytes:
    """Return what each turn of a conversation has: its id, or the user's first message; ``b""`` without."""
    messages = body.get("messages") or body.get("input")
    if isinstance(messages, list):
        users = (item.get("content") for item in messages if isinstance(item, dict) and item.get("role") == "user")
        messages = next(users, None)
    first = body.get("conversation") or messages
    return json.dumps(first, sort_keys=True).encode() if first else b""


def parse_object(content: bytes) -> Body:
    """Parse a request's JSON object."""
    try:
        body = from_json(content, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise OpenAIError(400, f"The body is not valid JSON: {json_problem(content) or error}") from None
    if not isinstance(body, dict):
        raise OpenAIError(400, "The body must be a JSON object")
    return body


def sent_instead(body: Body, field: str) -> str:
    """Return the end of an error about *field* that names what *body* has in its place."""
    sent = "" if field in body else closest(field, islice(body, _MAX_FIELDS))
    return f"; you sent {sent!r}" if sent else ""


def check_content(message: dict[str, Any], param: str) -> None:
    """Check the ``content`` of a *message*, which *param* names in the body."""
    content = message.get("content")
    if not isinstance(content, str | list | None):
        raise OpenAIError(400, f"'{param}.content' must be a string, a list of parts or null", param=f"{param}.content")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        text = part.get("text", "") if isinstance(part, dict) else part
        if not isinstance(text, str):
            name = f"{param}.content[{index}]"
            raise OpenAIError(400, f"'{name}' must be an object, and its 'text' a string", param=name)


def check_stream(body: Body) -> None:
    """Check the types of the fields that ask for a stream; ``stream`` is false if the client did not send it."""
    if not isinstance(body.setdefault("stream", False), bool | None):
        raise OpenAIError(400, "'stream' must be true, false or null", param="stream")
    if not isinstance(body.get("stream_options"), dict | None):
        raise OpenAIError(400, "'stream_options' must be an object or null", param="stream_options")


async def _are_unreadable(messages: list[Any], cause: BaseException | None) -> bool:
    """Whether the wrapper raised *cause* because it could not read *messages*.

    The toolkit has a type for that error. Haystack's ``ChatMessage.from_openai_dict_format`` raises many types, so it
    reads *messages* once more: they are unreadable if it refuses one of them with the same error.
    """
    if isinstance(cause, InvalidMessagesError):
        return True
    chat_message = getattr(sys.modules.get("haystack.dataclasses"), "ChatMessage", None)
    if not isinstance(cause, Exception) or chat_message is None:
        return False

    def is_refused(message: Any) -> bool:
        try:
            chat_message.from_openai_dict_format(message)
        except Exception as error:  # see above
            return type(error) is type(cause) and safe_str(error) == safe_str(cause)
        return False

    return await server_threads.run(lambda: any(map(is_refused, messages)))
