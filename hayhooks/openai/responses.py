"""OpenAI Responses: ``/v1/responses`` and ``/{name}/responses``. What is stored is in ``stored_responses``.

routes -> ``parse`` -> ``handle`` -> the wrapper -> ``ResponsesEncoder``.
"""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from pydantic_core import from_json
from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope, Send

from hayhooks.errors import OpenAIError
from hayhooks.http.json import JSONBytesResponse
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.openai import schemas, stored_responses
from hayhooks.openai.bridge import RESPONSE_METHODS, TO_CHAT, Body
from hayhooks.openai.endpoint import OpenAIEndpoint, check_content, check_stream, parse_object, sent_instead
from hayhooks.openai.response_encoder import RECENT_ITEMS, ResponsesEncoder


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the paths on which the body names the model."""
    yield from _RESPONSES.server_routes(snapshot)
    yield from stored_responses.routes("/responses")
    yield from stored_responses.routes("/v1/responses", shown=True)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve ``/{name}/responses``."""
    yield from _RESPONSES.deployment_routes(deployment)
    yield from stored_responses.routes("/responses")


def parse(content: bytes) -> Body:
    """Parse and check a request's body; an error names the field that is wrong."""
    body = parse_object(content)
    items = body.get("input")
    if not isinstance(items, str | list) or items == []:
        message = f"'input' must be a string or a list of at least one item{sent_instead(body, 'input')}"
        raise OpenAIError(400, message, param="input")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        param = f"input[{index}]"
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if not isinstance(kind, str) or (kind == "message" and not isinstance(item.get("role"), str)):
            message = f"'{param}' must be an object with a 'type', or a message with a 'role'"
            raise OpenAIError(400, message, param=param)
        check_content(item, param)
    check_stream(body)
    if not isinstance(body.get("background"), bool | None):
        raise OpenAIError(400, "'background' must be true, false or null", param="background")
    return body


async def handle(deployment: Deployment, body: Body, scope: Scope, receive: Receive, send: Send) -> None:
    """Call the wrapper with a checked *body*, encode its answer and send it."""
    if body.get("background"):
        await stored_responses.order(deployment, body, scope, receive, send)
        return
    keeps = body.get("store") is True
    asked = dict(body)  # the wrapper may change its body
    await stored_responses.add_previous(body, scope)
    items = body["input"]
    if isinstance(items, str):
        items = [{"type": "message", "role": "user", "content": items}]
    else:
        body["input"] = items = RECENT_ITEMS.resolve(items)
    encoder = ResponsesEncoder(deployment.name, body)
    response = await _RESPONSES.respond(deployment, body, items, lambda: encoder, scope, receive)
    if keeps and isinstance(response, JSONBytesResponse):
        await stored_responses.keep(deployment, asked, from_json(bytes(response.body)), scope)
    elif keeps:
        send = _keeping(encoder, partial(stored_responses.keep, deployment, asked), scope, send)
    await response(scope, receive, send)


def _keeping(encoder: ResponsesEncoder, keep: Callable[..., Awaitable[None]], scope: Scope, send: Send) -> Send:
    """Return a *send* that keeps a streamed response before the client is told of its end."""

    async def keep_and_send(message: Message) -> None:
        if encoder.final is not None:
            final, encoder.final = encoder.final, None
            await keep(final, scope)
        await send(message)

    return keep_and_send


_RESPONSES = OpenAIEndpoint(
    path="/responses",
    short_path="/responses",
    title="responses",
    short_name="respond",
    methods=RESPONSE_METHODS,
    field="input",
    argument="input_items",
    bridge=TO_CHAT,
    docs=schemas.RESPONSES,
    parse=parse,
    handle=handle,
)
