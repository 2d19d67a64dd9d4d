"""The plug-in contract: routes and background work that a module adds."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol, runtime_checkable

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from hayhooks.kernel.state import Deployment, Snapshot


@runtime_checkable
class ServerRoutes(Protocol):
    """A plug-in with routes of the server."""

    def server_routes(self, snapshot: Snapshot) -> Iterable[BaseRoute]:
        """Return the routes for *snapshot*; called once for each generation."""


@runtime_checkable
class DeploymentRoutes(Protocol):
    """A plug-in with routes below ``/{name}``."""

    def deployment_routes(self, deployment: Deployment) -> Iterable[BaseRoute]:
        """Return the routes of *deployment*; called once, when it is loaded."""


@runtime_checkable
class Lifespan(Protocol):
    """A plug-in with something to start and stop."""

    def lifespan(self, app: Starlette) -> AbstractAsyncContextManager[None]:
        """Return the context to enter when *app* starts; it ends before the deployments are torn down."""


# A module (or object) that offers any of the three functions.
PlugIn = ServerRoutes | DeploymentRoutes | Lifespan


def server_routes(plug_ins: Sequence[PlugIn], snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Yield the server's routes of all *plug_ins*, in their order."""
    for plug_in in plug_ins:
        if isinstance(plug_in, ServerRoutes):
            yield from plug_in.server_routes(snapshot)


def deployment_routes(plug_ins: Sequence[PlugIn], deployment: Deployment) -> Iterator[BaseRoute]:
    """Yield the routes below ``/{name}`` of all *plug_ins*, in their order."""
    for plug_in in plug_ins:
        if isinstance(plug_in, DeploymentRoutes):
            yield from plug_in.deployment_routes(deployment)


@asynccontextmanager
async def lifespans(plug_ins: Sequence[PlugIn], app: Starlette) -> AsyncIterator[None]:
    """Enter the lifespans of all *plug_ins*, in their order."""
    async with AsyncExitStack() as stack:
        for plug_in in plug_ins:
            if isinstance(plug_in, Lifespan):
                await stack.enter_async_context(plug_in.lifespan(app))
        yield
