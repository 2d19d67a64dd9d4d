"""A plug-in may offer any of its three functions."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route
from starlette.testclient import TestClient

from hayhooks import Settings, create_app
from hayhooks.app import Hayhooks
from hayhooks.endpoints import BUILTIN
from hayhooks.kernel.state import Deployment, Snapshot
from tests.live_server import ECHO, replace


class Clock:
    """A plug-in with a lifespan and a route of the server, and none below a deployment."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def server_routes(self, snapshot: Snapshot) -> Iterator[BaseRoute]:
        async def clock(request: Request) -> JSONResponse:
            return JSONResponse(self.calls)

        yield Route("/clock", clock)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        assert isinstance(app, Hayhooks)
        assert app.reconciler is not None
        self.calls.append("start")
        try:
            yield
        finally:
            stopping, alive = app.switch.stopping, app.reconciler.alive
            self.calls.append(f"stop: stopping={stopping}, deployer alive={alive}")


class OnlyBelow:
    """A plug-in with a route below each deployment, and nothing else."""

    def deployment_routes(self, deployment: Deployment) -> Iterator[BaseRoute]:
        async def only(request: Request) -> JSONResponse:
            return JSONResponse(deployment.name)

        yield Route("/only", only)


class OnlyLifespan:
    """A plug-in whose start fails."""

    def lifespan(self, app: Starlette) -> AbstractAsyncContextManager[None]:
        raise RuntimeError("no database")


def test_each_function_is_optional(root: Path):
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    calls: list[str] = []
    app = create_app(Settings(pipelines_dir=root), plug_ins=[*BUILTIN, Clock(calls), OnlyBelow()])
    with TestClient(app) as client:
        assert client.get("/clock").json() == ["start"]
        assert client.get("/echo/only").json() == "echo"
        assert client.get("/echo/clock").status_code == 404
    assert calls == ["start", "stop: stopping=True, deployer alive=True"]


def test_a_lifespan_that_fails_ends_the_start_and_stops_what_was_started(root: Path):
    calls: list[str] = []
    app = create_app(Settings(pipelines_dir=root), plug_ins=[*BUILTIN, Clock(calls), OnlyLifespan()])
    with pytest.raises(RuntimeError, match="no database"), TestClient(app):
        pass
    assert calls == ["start", "stop: stopping=False, deployer alive=True"]
    assert app.reconciler is not None
    assert not app.reconciler.alive
