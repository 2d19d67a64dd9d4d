"""Extras: what needs an SDK, with and without it."""

import asyncio
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hayhooks import Settings, create_app
from hayhooks.endpoints import BUILTIN
from hayhooks.integrations.extra import Extra
from hayhooks.kernel.state import Snapshot
from tests.live_server import LiveServer, serving

_numbers = itertools.count()


class PlugIn:
    """Serves ``/needy``, which needs an extra."""

    def __init__(self, extra: Extra) -> None:
        self._extra = extra

    def server_routes(self, snapshot: Snapshot) -> Iterator[Route]:
        async def needy(request: Request) -> Response:
            return JSONResponse((await self._extra.load()).ANSWER)

        yield Route("/needy", needy)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the source of a module is expected, which another one imports."""
    (tmp_path / "modules").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    path = tmp_path / "modules" / f"needs_sdk_{next(_numbers)}.py"
    yield path
    sys.modules.pop(path.stem, None)


@pytest.fixture
def server(root: Path, module: Path) -> Iterator[LiveServer]:
    app = create_app(
        Settings(pipelines_dir=root, _env_file=None),
        plug_ins=[*BUILTIN, PlugIn(Extra("sdk", "The needy", module.stem))],
    )
    with serving(root, app) as server:
        yield server


def test_the_missing_extra_is_named(server: LiveServer, module: Path) -> None:
    """And what is installed later is found, without a restart."""
    answer = server.client.get("/needy")
    assert (answer.status_code, answer.json()) == (
        501,
        {"detail": 'The needy needs an extra: pip install "hayhooks[sdk]"'},
    )
    module.write_text("ANSWER = 42")
    assert server.client.get("/needy").json() == 42


def test_an_sdk_of_another_version_is_told_of(server: LiveServer, module: Path) -> None:
    module.write_text("from json import no_such_name")
    detail = server.client.get("/needy").json()["detail"]
    assert detail.startswith('The needy needs an extra: pip install "hayhooks[sdk]" (cannot import name')


def test_others_are_served_during_the_import(server: LiveServer, module: Path, tmp_path: Path) -> None:
    """All who need it wait for one import; a client that leaves does not spoil it."""
    count, gate = tmp_path / "count", tmp_path / "gate"
    module.write_text(
        f"from pathlib import Path\nimport time\nwith open({str(count)!r}, 'a') as count: count.write('x')\n"
        f"while not Path({str(gate)!r}).exists(): time.sleep(0.01)\nANSWER = 42\n"
    )

    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            impatient = asyncio.create_task(client.get("/needy"))
            patient = [asyncio.create_task(client.get("/needy")) for _ in range(5)]
            await asyncio.to_thread(server.eventually, count.exists)
            impatient.cancel()
            assert (await client.get("/healthz")).status_code == 200
            assert not any(task.done() for task in patient)
            gate.touch()
            return [(await task).json() for task in patient]

    assert asyncio.run(ask()) == [42] * 5
    assert count.read_text() == "x"
