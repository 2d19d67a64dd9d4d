"""``/mcp``: the deployments as tools of the Model Context Protocol, over Streamable HTTP.

The SDK is imported by ``hayhooks.integrations.mcp_server``, when the first client comes.
"""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from hayhooks.errors import UnavailableError
from hayhooks.http.hooks import Hooks
from hayhooks.integrations.extra import Extra
from hayhooks.kernel.state import Snapshot

if TYPE_CHECKING:
    from hayhooks.integrations.mcp_server import ToolServer

EXTRA = Extra("mcp", "MCP", "hayhooks.integrations.mcp_server")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Keep the server of the protocol, which the first request starts, and end it."""
    hooks: Hooks = app.hooks  # type: ignore[attr-defined]  # a Hayhooks
    app.state.mcp = endpoint = _Endpoint(app)
    loop = asyncio.get_running_loop()
    with hooks.use(on_publish=endpoint.note_snapshot, on_stop=lambda: loop.call_soon_threadsafe(endpoint.begin_stop)):
        try:
            yield
        finally:
            await endpoint.stop()


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/mcp``."""
    yield Route("/mcp", _ROUTE, methods=["POST", "GET", "DELETE"], include_in_schema=False)


class _Route:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint: _Endpoint | None = getattr(scope["app"].state, "mcp", None)
        if endpoint is None:
            raise UnavailableError("there are no tools: the application's lifespan does not run")
        server = await endpoint.server()
        await server(scope, receive, send)


_ROUTE = _Route()


class _Endpoint:
    """Starts the ``ToolServer`` of one application at its first request, and passes on what happens."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._context = contextvars.copy_context()  # not that of the request that starts it
        self._server: ToolServer | None = None
        self._running: asyncio.Task[None] | None = None

    async def server(self) -> "ToolServer":
        module = await EXTRA.load()
        if self._server is None:
            self._server = module.ToolServer(self._app)
            self._running = asyncio.create_task(self._server.run(), context=self._context)
        await self._server.started.wait()
        return self._server

    def note_snapshot(self, snapshot: Snapshot) -> None:
        if self._server is not None:
            self._server.note_snapshot(snapshot)

    def begin_stop(self) -> None:
        if self._server is not None:
            self._server.end_streams()

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
