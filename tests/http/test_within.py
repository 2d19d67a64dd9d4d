"""Requests within the process."""

import asyncio
from pathlib import Path

import pytest

from hayhooks import Settings, create_app
from hayhooks.app import Hayhooks
from hayhooks.http.within import Answer, request_within
from tests.live_server import eventually, replace
from tests.wrappers import source


@pytest.fixture
def app(root: Path) -> Hayhooks:
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'You said: '\n" + source("echo"))
    replace(root / "stream/pipeline_wrapper.py", source("stream"))
    replace(root / "waits/pipeline_wrapper.py", f"GATE = {str(root.parent / 'gate')!r}\n" + source("waits"))
    # It needs no key, where clients do.
    return create_app(Settings(pipelines_dir=root, api_keys=["0123456789abcdef0123"], _env_file=None))


def test_it_is_answered_as_a_clients_request(app: Hayhooks) -> None:
    async def ask() -> list[Answer]:
        async with app.router.lifespan_context(app):
            await app.switch.wait_until_ready()
            return [
                await request_within(app, "POST", "/echo/run", b'{"text": "hello"}'),
                await request_within(app, "POST", "/echo/run", b"[]"),
                await request_within(app, "GET", "/nothing"),
            ]

    echoed, invalid, missing = asyncio.run(ask())
    assert echoed == Answer(200, "application/json", b'{"result":"You said: hello"}')
    assert (invalid.status, missing.status) == (422, 404)


def test_the_parts_of_a_stream_are_handed_over(app: Hayhooks) -> None:
    parts: list[bytes] = []

    async def hear(part: bytes) -> None:
        parts.append(part)

    async def ask() -> Answer:
        async with app.router.lifespan_context(app):
            await app.switch.wait_until_ready()
            await request_within(app, "POST", "/echo/run", b"{}", on_chunk=hear)  # which is whole
            return await request_within(app, "POST", "/stream/run", b'{"text": "b"}', on_chunk=hear)

    answer = asyncio.run(ask())
    assert (answer.body, b"".join(parts), answer.cut_by) == (b"ab", b"ab", "")


@pytest.mark.parametrize("leaves", ["cancelled", "left"])
def test_whoever_leaves_stops_the_pipeline(app: Hayhooks, root: Path, leaves: str) -> None:
    async def ask() -> None:
        async with app.router.lifespan_context(app):
            await app.switch.wait_until_ready()
            left = asyncio.Event()
            asking = asyncio.create_task(request_within(app, "POST", "/waits/run", b'{"number": 4}', left=left))
            await asyncio.to_thread(eventually, (root.parent / "gate-begun-4").exists)
            if leaves == "left":
                left.set()
                assert (await asking).status in (0, 499)
            else:
                asking.cancel()
            await asyncio.to_thread(eventually, (root.parent / "gate-cancelled-4").exists)

    asyncio.run(ask())
