"""What a request leaves behind goes at once, and not when a collection finds it: those hold up all other requests."""

import gc
import gzip
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from hayhooks.http.body import LimitedReceive
from hayhooks.http.disconnect import _DisconnectWatcher
from hayhooks.http.multipart import FormReader
from hayhooks.http.responses import EventStreamResponse, TextStreamResponse
from hayhooks.http.stream import Stream
from hayhooks.kernel.admission import Lease, Slot
from hayhooks.observability.request_record import RequestRecord
from hayhooks.toolkit.channel import BoundedChannel
from tests.live_server import LiveServer

WRAPPER = """
import asyncio, time
from hayhooks import BasePipelineWrapper, SSEStream


class PipelineWrapper(BasePipelineWrapper):
    request_timeout = 60
    concurrency = 4

    def setup(self):
        pass

    def run_api(self, kind: str, pause: float = 0.0):
        if kind == "text":
            return self.words(pause)
        if kind == "events":
            return SSEStream(self.words(pause))
        if kind == "error":
            raise ValueError("no")
        time.sleep(pause)
        return {"kind": kind}

    def words(self, pause):
        for number in range(5 if pause else 20):
            time.sleep(pause)
            yield f"word{number} "
        if pause == 0.001:
            raise ValueError("broken off")

    async def run_chat_completion_async(self, model, messages, body):
        pause = float(messages[-1]["content"])
        return self.words_async(pause)

    async def words_async(self, pause):
        for number in range(5 if pause else 20):
            await asyncio.sleep(pause)
            yield f"word{number} "
"""

ASYNC = WRAPPER.replace("def run_api(", "async def run_api_async(").replace(
    "        time.sleep(pause)\n        return", "        await asyncio.sleep(pause)\n        return"
)


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


LONG = 0.05  # long enough for a request to be watched for its client's leaving


@contextmanager
def seen_garbage() -> Iterator[list[object]]:
    """What only a collection finds of what is made in this context."""
    found: list[object] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


OURS = (
    BoundedChannel,
    EventStreamResponse,
    FormReader,
    Lease,
    LimitedReceive,
    RequestRecord,
    Slot,
    Stream,
    TextStreamResponse,
    _DisconnectWatcher,
)  # one or more a request


def ask(client: httpx.Client, path: str, body: dict[str, object]) -> str:
    """Status and content of the answer; or that it was cut off."""
    try:
        response = client.post(path, json=body)
    except httpx.RemoteProtocolError:
        return "cut off"
    return f"{response.status_code} {response.text}"


def chat(pause: float, *, stream: bool) -> dict[str, object]:
    return {"model": "it", "stream": stream, "messages": [{"role": "user", "content": str(pause)}]}


ASKED: dict[str, tuple[str, dict[str, object], str]] = {  # and what the answer begins with
    "quick": ("/it/run", {"kind": "value"}, "200 ."),
    "long": ("/it/run", {"kind": "value", "pause": LONG}, "200 ."),
    "text": ("/it/run", {"kind": "text", "pause": 0.0}, "200 ."),
    "slow text": ("/it/run", {"kind": "text", "pause": LONG}, "200 ."),
    "broken text": ("/it/run", {"kind": "text", "pause": 0.001}, "cut off"),
    "events": ("/it/run", {"kind": "events", "pause": LONG}, "200 ."),
    "broken events": ("/it/run", {"kind": "events", "pause": 0.001}, "200 .*broken off"),
    "wrong": ("/it/run", {"kind": 1}, "422 ."),
    "error": ("/it/run", {"kind": "error"}, "500 ."),
    "chat": ("/it/chat", chat(0, stream=False), "200 ."),
    "stream": ("/it/chat", chat(0, stream=True), "200 ."),
    "slow stream": ("/it/chat", chat(LONG, stream=True), "200 ."),
    "by model": ("/v1/chat/completions", chat(LONG, stream=True), "200 ."),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("wrapper", [WRAPPER, ASYNC], ids=["sync", "async"])
def test_a_request_leaves_no_cycle(server: LiveServer, wrapper: str, asked: str) -> None:
    leaves_no_cycle(server, wrapper, *ASKED[asked])


# All of them take longer than they may. A stream is refused before its first item on a slow machine, and ended later
# on a fast one.
TIMED_OUT: dict[str, tuple[str, dict[str, object], str]] = {
    "whole": ("/it/run", {"kind": "value", "pause": 0.4}, "504 "),
    "text": ("/it/run", {"kind": "text", "pause": 0.15}, "504 |cut off"),
    "events": ("/it/run", {"kind": "events", "pause": 0.15}, "504 |200 .*error"),
    "chat": ("/it/chat", chat(0.15, stream=False), "504 "),
    "stream": ("/it/chat", chat(0.15, stream=True), "504 |200 .*error"),
}


@pytest.mark.parametrize("asked", TIMED_OUT)
@pytest.mark.parametrize("wrapper", [WRAPPER, ASYNC], ids=["sync", "async"])
def test_a_request_that_is_told_to_end_leaves_no_cycle(server: LiveServer, wrapper: str, asked: str) -> None:
    leaves_no_cycle(server, wrapper.replace("request_timeout = 60", "request_timeout = 0.25"), *TIMED_OUT[asked])


FORMS = """
from starlette.datastructures import UploadFile
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, files: list[UploadFile] | None = None, number: int = 0, text: str = ""):
        return sum(len(file.file.read()) for file in files or ())
"""
LARGE = 2_000_000
SENT: dict[str, tuple[dict[str, Any], int]] = {  # and the status of the answer
    "small files": ({"files": [("files", b"x")] * 3}, 200),
    "large files": ({"files": [("files", b"x" * LARGE)] * 3}, 200),
    "wrong": ({"files": [("files", b"x")], "data": {"number": "x"}}, 422),
    "cut off": ({"content": b"--b\r\n", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400),
    "too large": ({"data": {"text": "x" * LARGE}}, 413),
    "packed": ({"content": gzip.compress(b"{}"), "headers": {"content-encoding": "gzip"}}, 200),
    "not packed": ({"content": b"{}", "headers": {"content-encoding": "gzip"}}, 400),
    "large JSON": ({"json": {"text": "x" * LARGE}}, 200),
    "large wrong JSON": ({"json": {"number": "x" * LARGE}}, 422),
}


@pytest.mark.parametrize("kind", SENT)
def test_a_form_or_a_large_body_leaves_no_cycle(server: LiveServer, kind: str) -> None:
    sent, status = SENT[kind]
    server.serve("it", FORMS)
    server.client.post("/it/run", **sent)

    with seen_garbage() as garbage:
        answers = [server.client.post("/it/run", **sent).status_code for _ in range(3)]
        server.eventually(lambda: server.app.switch.live.snapshot.deployments["it"].runtime.leases.held == ())

    assert answers == [status] * 3
    assert Counter(type(thing) for thing in garbage if isinstance(thing, OURS)) == Counter()


def leaves_no_cycle(server: LiveServer, wrapper: str, path: str, body: dict[str, object], expected: str) -> None:
    server.serve("it", wrapper)
    ask(server.client, path, body)

    with seen_garbage() as garbage:
        answers = [ask(server.client, path, body) for _ in range(5)]
        server.eventually(lambda: server.app.switch.live.snapshot.deployments["it"].runtime.leases.held == ())

    for answer in answers:
        assert re.match(expected, answer, re.DOTALL), answer
    assert Counter(type(thing) for thing in garbage if isinstance(thing, OURS)) == Counter()
