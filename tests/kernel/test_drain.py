"""Drains are bounded: requests that go on too long on a replaced revision are cancelled, and logged."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live_server import ECHO, LiveServer, eventually, serving

SLOW = """
import asyncio, time
from pathlib import Path
from hayhooks import BasePipelineWrapper, SSEStream


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def teardown(self):
        Path(TORN).touch()

    async def run_api_async(self, kind: str = "wait"):
        Path(BEGAN).touch()
        if kind == "text":
            return self.words()
        if kind == "sse":
            return SSEStream(self.words())
        if kind == "deaf":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(60)
        await asyncio.sleep(60)

    async def words(self):
        yield "began"
        await asyncio.sleep(60)

    async def run_chat_completion_async(self, model, messages, body):
        Path(BEGAN).touch()
        yield "began"
        await asyncio.sleep(60)
"""

THREAD = """
import time
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def teardown(self):
        Path(TORN).touch()

    def run_api(self):
        Path(BEGAN).touch()
        while not Path(GATE).exists():
            time.sleep(0.005)
        return "late"
"""


@pytest.fixture
def server(root: Path) -> Iterator[LiveServer]:
    with serving(root, drain_timeout=0, poll_interval_ms=50) as server:
        yield server


def begin(server: LiveServer, tmp_path: Path, wrapper: str) -> tuple[Path, Path]:
    began, torn = tmp_path / "began", tmp_path / "torn"
    server.serve("slow", wrapper, began=str(began), torn=str(torn), gate=str(tmp_path / "gate"))
    return began, torn


def test_a_request_is_cancelled_with_a_retryable_503(server: LiveServer, tmp_path: Path, logged):
    began, torn = begin(server, tmp_path, SLOW)
    with server.in_background("/slow/run", {}) as answer:
        eventually(began.exists)
        server.write("slow", ECHO, answer="new ")
        response = answer.result(timeout=30)

    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "replaced or removed, and its drain time is over" in response.json()["detail"]
    eventually(torn.exists)
    assert any("still has 1 request after 0 s: cancelling" in line for line in logged)
    assert server.run("slow", text="x") == "new x"


def test_a_chat_stream_ends_with_an_error_event(server: LiveServer, tmp_path: Path):
    began, torn = begin(server, tmp_path, SLOW)
    body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with server.in_background("/v1/chat/completions", body) as answer:
        eventually(began.exists)
        server.remove("slow")
        events = [event.removeprefix("data: ") for event in answer.result(timeout=30).text.split("\n\n") if event]

    assert events[-1] == "[DONE]"
    assert "replaced or removed, and its drain time is over" in json.loads(events[-2])["error"]["message"]
    assert "began" in "".join(events)
    eventually(torn.exists)


def test_server_sent_events_end_with_an_error_event(server: LiveServer, tmp_path: Path):
    began, _ = begin(server, tmp_path, SLOW)
    with server.in_background("/slow/run", {"kind": "sse"}) as answer:
        eventually(began.exists)
        server.remove("slow")
        events = answer.result(timeout=30).text.split("\n\n")

    assert events[0] == "data: began"
    assert events[1].startswith('event: error\ndata: {"error":')
    assert "replaced or removed, and its drain time is over" in events[1]


def test_a_text_stream_is_cut(server: LiveServer, tmp_path: Path):
    began, torn = begin(server, tmp_path, SLOW)
    with server.in_background("/slow/run", {"kind": "text"}) as answer:
        eventually(began.exists)
        server.remove("slow")
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            answer.result(timeout=30)
    eventually(torn.exists)


def test_a_deployment_lives_until_its_last_thread_ends(server: LiveServer, tmp_path: Path):
    began, torn = begin(server, tmp_path, THREAD)
    revision = server.state("slow")["revision"]
    with server.in_background("/slow/run", {}) as answer:
        eventually(began.exists)
        server.remove("slow")
        assert answer.result(timeout=30).status_code == 503
    retired = eventually(lambda: [entry for entry in retirees(server) if entry["why"] == "run_api in 1 thread"])
    assert (retired[0]["name"], retired[0]["revision"]) == ("slow", revision)
    assert not torn.exists()

    (tmp_path / "gate").touch()

    eventually(torn.exists)
    eventually(lambda: retirees(server) == [])


def test_within_its_time_a_request_is_left_alone(root: Path, tmp_path: Path):
    with serving(root, drain_timeout=60, poll_interval_ms=50) as server:
        began, _ = begin(server, tmp_path, THREAD)
        with server.in_background("/slow/run", {}) as answer:
            eventually(began.exists)
            server.serve("slow", ECHO, answer="new ")
            assert retirees(server)[0]["why"] == "1 request, run_api in 1 thread"
            (tmp_path / "gate").touch()
            assert answer.result(timeout=30).json() == {"result": "late"}


KEPT = """
import builtins
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        builtins.hayhooks_test_kept = [self]

    def run_api(self):
        return 1
"""


def test_status_names_what_keeps_a_retired_wrapper_alive(server: LiveServer, logged):
    import builtins  # noqa: PLC0415 - what the wrapper does to it is undone here

    server.serve("kept", KEPT)
    server.remove("kept")
    try:
        retired = eventually(lambda: [entry for entry in retirees(server) if "still referred" in entry["why"]])
        assert "a list" in retired[0]["why"]
    finally:
        vars(builtins).pop("hayhooks_test_kept")
    eventually(lambda: retirees(server) == [])
    assert any("was torn down, but its memory is still referred to by" in line for line in logged)


def retirees(server: LiveServer) -> Any:
    return server.status()["retired"]
