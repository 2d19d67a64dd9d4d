"""What a request and an edit cost does not grow with the number of deployments: counted, not timed."""

import asyncio
import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

from hayhooks import Settings, create_app
from hayhooks.app import Hayhooks
from hayhooks.kernel.state import Change
from tests.live_server import replace

FEW, MANY = 10, 1_000
WRAPPER = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self) -> str:
        return ANSWER

    async def run_chat_completion_async(self, model, messages, body):
        return ANSWER
"""
CHAT = {"model": "app5", "messages": [{"role": "user", "content": "hello"}]}


@asynccontextmanager
async def deployed(root: Path, count: int, changes: list[Change]):
    """An application that serves *count* deployments, and a client of it."""
    for number in range(count):
        replace(root / f"app{number}/pipeline_wrapper.py", f"ANSWER = 'it'\n{WRAPPER}")
    app = create_app(Settings(pipelines_dir=root, _env_file=None), observe=changes.append)
    async with app.router.lifespan_context(app):
        await until(lambda: len(app.switch.live.snapshot.deployments) == count)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield app, client


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what happens in the deployer's thread sets no asyncio.Event
            await asyncio.sleep(0.01)


async def calls(client: httpx.AsyncClient, method: str, path: str, body: Any) -> Counter[str]:
    """How often each function of ours and of Starlette's is called on the loop, for the second request of its kind."""
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and ("/hayhooks/" in file or "/starlette/" in file):
            counted[f"{Path(file).name}:{frame.f_code.co_name}"] += 1

    assert (await client.request(method, path, json=body)).status_code == 200
    sys.setprofile(count)
    try:
        await client.request(method, path, json=body)
    finally:
        sys.setprofile(None)
    return counted


REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/app5/run", {}),
    ("POST", "/v1/chat/completions", CHAT),
    ("GET", "/status", None),
]


@pytest.mark.slow
def test_requests_and_edits_take_the_same_steps_with_a_thousand_deployments(tmp_path: Path):
    """A request takes the same as with ten, an edit loads one deployment. In one test, for a thousand load slowly."""
    changes: list[Change] = []

    async def counted(client: httpx.AsyncClient) -> list[Counter[str]]:
        return [await calls(client, *request) for request in REQUESTS]

    def deployments(app: Hayhooks) -> dict[str, Any]:
        return dict(app.switch.live.snapshot.deployments)

    async def work() -> None:
        async with deployed(tmp_path / "few", FEW, []) as (_, client):
            few = await counted(client)
        async with deployed(tmp_path / "many", MANY, changes) as (app, client):
            many = await counted(client)
            await until(lambda: len(changes) == MANY)
            before = deployments(app)
            replace(tmp_path / "many/app5/pipeline_wrapper.py", f"ANSWER = 'other'\n{WRAPPER}")
            await until(lambda: len(changes) > MANY)
            after = deployments(app)
        assert min(calls.total() for calls in few) > 10
        assert many == few
        assert [name for name in after if after[name] is not before[name]] == ["app5"]
        assert after["app6"].endpoints is before["app6"].endpoints

    asyncio.run(work())
    assert [change.name for change in changes[MANY:]] == ["app5"]
