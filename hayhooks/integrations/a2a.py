"""``/{name}/a2a``: each deployment that can chat as an agent of the Agent2Agent protocol, and the agents' cards.

The SDK is imported by ``hayhooks.integrations.a2a_server``, when the first client comes.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from hayhooks.errors import NotFoundError, UnavailableError
from hayhooks.http.api_keys import may_call
from hayhooks.http.context import context_of, deployment_of
from hayhooks.http.dispatch import CarryingRoute
from hayhooks.integrations.extra import Extra
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.openai.bridge import chat_of

if TYPE_CHECKING:
    from hayhooks.integrations.a2a_server import AgentServer

EXTRA = Extra("a2a", "A2A", "hayhooks.integrations.a2a_server")

_CARD = "/.well-known/agent-card.json"
_CARDS = (_CARD, "/.well-known/agent.json")  # the second one is that of clients before version 0.3


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Keep the agents' server, which the first request makes, and end its tasks."""
    app.state.a2a = endpoint = _Endpoint(app)
    try:
        yield
    finally:
        app.state.a2a = None
        if endpoint.made is not None:
            await endpoint.made.stop()


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the list of cards, and the card of the only agent."""
    yield Route("/a2a/agents", _list_cards, include_in_schema=False)
    for path in _CARDS:
        yield Route(path, _only_card, include_in_schema=False)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve the card and JSON-RPC of an agent; JSON-RPC at ``/{name}/`` too, where that is not a YAML's ``run``."""
    if not is_agent(deployment):
        for path in ("/a2a", *_CARDS):
            yield Route(path, _refuse, methods=["GET", "POST"], include_in_schema=False)
        return
    for path in _CARDS:
        yield Route(path, _card, include_in_schema=False)
    yield CarryingRoute("/a2a", _serve_rpc)
    if not getattr(deployment.wrapper, "takes_components", False):
        yield CarryingRoute("/", _serve_rpc)


def is_agent(deployment: Deployment) -> bool:
    """Whether *deployment* can chat, and its wrapper does not want to be left out."""
    return not _is_left_out(deployment) and chat_of(deployment) is not None


def _is_left_out(deployment: Deployment) -> bool:
    return deployment.wrapper.skip_a2a or not deployment.wrapper.a2a


class _Endpoint:
    """Makes the ``AgentServer`` of one application for its first request."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self.made: AgentServer | None = None

    async def server(self) -> "AgentServer":
        module = await EXTRA.load()
        if self.made is None:
            self.made = module.AgentServer(self._app)
        return self.made


async def _server_of(scope: Scope) -> "AgentServer":
    endpoint: _Endpoint | None = getattr(scope["app"].state, "a2a", None)
    if endpoint is None:
        raise UnavailableError("there are no agents: the application's lifespan does not run")
    return await endpoint.server()


async def _serve_rpc(scope: Scope, receive: Receive, send: Send) -> None:
    server = await _server_of(scope)
    await server(scope, receive, send)


async def _refuse(request: Request) -> Response:
    deployment = deployment_of(request.scope)
    reason = "its wrapper has a2a = False" if _is_left_out(deployment) else "it cannot chat"
    raise NotFoundError(f"{deployment.name!r} is not an agent of A2A: {reason}")


async def _card(request: Request) -> Response:
    server = await _server_of(request.scope)
    return await server.card_response(deployment_of(request.scope), request)


async def _agents(request: Request) -> list[Deployment]:
    """Return the agents that the client may call."""
    context = context_of(request.scope)
    snapshot = await context.switch.wait_until_ready()
    return [each for name, each in snapshot.deployments.items() if is_agent(each) and may_call(context.api_key, name)]


async def _list_cards(request: Request) -> Response:
    server = await _server_of(request.scope)
    return JSONResponse({"agents": [server.card(deployment, request) for deployment in await _agents(request)]})


async def _only_card(request: Request) -> Response:
    server, agents = await _server_of(request.scope), await _agents(request)
    if len(agents) != 1:
        root_path = request.scope.get("root_path", "")
        paths = f"each has its card at {root_path}/NAME{_CARD}, and {root_path}/a2a/agents lists them"
        raise HTTPException(404, f"This server has {len(agents) or 'no'} agents: {paths}")
    return await server.card_response(agents[0], request)
