"""Streamed responses of wrappers that have timeouts, task groups and clean-up of their own."""

import json
from contextlib import suppress

import httpx
import pytest

from hayhooks.http import responses
from tests.live_server import SharedServer, eventually

CHAT = {"model": "it", "stream": True, "messages": [{"role": "user", "content": "x"}]}
BODY = json.dumps(CHAT).encode()
RAW_CHAT = b"POST /it/chat HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@pytest.fixture
def server(shared_server: SharedServer) -> SharedServer:
    return shared_server


def chat_wrapper(body: str) -> str:
    lines = "\n".join("        " + line for line in body.strip().splitlines())
    return f"""
import asyncio, anyio
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    async def run_chat_completion_async(self, model, messages, body):
{lines}
"""


def test_a_task_group_may_span_the_items(server: SharedServer):
    wrapper = chat_wrapper("""
async with anyio.create_task_group() as group, asyncio.timeout(30):
    task = asyncio.current_task()
    group.start_soon(anyio.sleep_forever)
    for _ in range(3):
        await asyncio.sleep(0.001)
        yield "same " if asyncio.current_task() is task else "another "
    group.cancel_scope.cancel()
""")
    server.serve("it", wrapper)
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT).text
    assert answer.count('"content":"same "') == 3
    assert '"error"' not in answer


def test_a_timeout_that_spans_the_items_is_the_error_of_the_stream(server: SharedServer):
    wrapper = chat_wrapper("""
async with asyncio.timeout(0.05):
    yield "first"
    await asyncio.sleep(60)
""")
    server.serve("it", wrapper)
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT).text
    assert '"content":"first"' in answer
    assert "TimeoutError" in answer
    assert answer.endswith("data: [DONE]\n\n")


def test_a_timeout_while_the_client_does_not_read_cuts_the_stream(server: SharedServer, logged: list[str]):
    wrapper = chat_wrapper("""
async with asyncio.timeout(0.5):
    while True:
        yield "x" * 1_000_000
""")
    server.serve("it", wrapper)
    with server.connected(receive_buffer=4096) as connection:
        connection.sendall(RAW_CHAT)
        eventually(lambda: any("cancelled its own request" in line for line in logged))
        answer = b""
        with suppress(ConnectionResetError):
            while data := connection.recv(65536):
                answer += data
    assert not answer.endswith(b"0\r\n\r\n")
    assert server.status()["status"] == "Up!"


@pytest.mark.parametrize("error", ["SystemExit", "ValueError"])
def test_an_error_of_the_clean_up_after_a_disconnect_is_logged(server: SharedServer, logged: list[str], error: str):
    wrapper = chat_wrapper(f"""
try:
    while True:
        yield "x"
        await asyncio.sleep(0.001)
finally:
    raise {error}("in the clean-up")
""")
    server.serve("it", wrapper)
    with server.connected() as connection:
        connection.sendall(RAW_CHAT)
        assert connection.recv(65536)
    eventually(lambda: any("in the clean-up" in line for line in logged))
    assert server.status()["status"] == "Up!"


def test_a_later_sse_starlette_sends_in_its_own_way(server: SharedServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(responses, "_SENDS_IN_THIS_TASK", False)
    server.serve(
        "it",
        chat_wrapper("""
for _ in range(3):
    await asyncio.sleep(0.001)
    yield "x"
"""),
    )
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT).text
    assert answer.count('"content":"x"') == 3
    assert answer.endswith("data: [DONE]\n\n")
