"""Errors and items whose classes raise: what ends nothing when it is raised elsewhere ends no request here."""

from textwrap import dedent, indent
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer, SharedServer

CLASSES = """
import asyncio

from hayhooks import BasePipelineWrapper


class Other(BaseException):
    pass


class OfNoClass(Exception):
    @property
    def __class__(self):
        raise Other


class NoText(SystemExit):
    def __str__(self):
        raise Other


class Attributes:
    def __getattr__(self, name):
        raise KeyboardInterrupt


class Dump:
    def model_dump(self, **options):
        raise SystemExit(1)


class Kind:
    type = "a"

    @property
    def data(self):
        raise Other


class Pretends:
    __class__ = dict


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass
"""

MESSAGES = [{"role": "user", "content": "x"}]


@pytest.fixture
def server(shared_server: SharedServer) -> LiveServer:
    return shared_server


def serve(server: LiveServer, methods: str) -> None:
    server.serve("it", CLASSES + indent(dedent(methods), "    "))


def chat(server: LiveServer, *, stream: bool) -> httpx.Response:
    body: dict[str, Any] = {"messages": MESSAGES, "stream": stream}
    return server.client.post("/it/chat", json=body, timeout=60)


@pytest.mark.parametrize("error", ["OfNoClass()", "NoText()"])
@pytest.mark.parametrize("how", ["def run_api", "async def run_api_async"])
def test_an_error_is_a_500_whatever_its_class_does(server: LiveServer, error: str, how: str):
    serve(server, f"{how}(self):\n    raise {error}")

    response = server.client.post("/it/run", json={}, timeout=60)

    assert response.status_code == 500
    assert error.removesuffix("()") in response.json()["detail"]


@pytest.mark.parametrize("error", ["OfNoClass()", "NoText()"])
@pytest.mark.parametrize("how", ["def run_chat_completion", "async def run_chat_completion_async"])
def test_so_it_is_in_a_stream(server: LiveServer, error: str, how: str):
    serve(server, f"{how}(self, model, messages, body):\n    yield 'a'\n    raise {error}")

    whole, streamed = chat(server, stream=False), chat(server, stream=True)

    assert whole.status_code == 500
    assert streamed.text.count('"error":') == 1
    assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("error", ["OfNoClass()", "NoText()"])
def test_so_it_is_in_setup(server: LiveServer, error: str):
    head, _, _ = CLASSES.rpartition("pass\n")
    server.write("bad", f"{head}raise {error}")

    server.eventually(lambda: server.state("bad")["state"] == "failed")


@pytest.mark.parametrize("item", ["Attributes()", "Dump()", "Kind()", "Pretends()"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_only_item_is_a_500_whatever_its_class_does(server: LiveServer, item: str, stream: bool):
    serve(server, f"def run_chat_completion(self, model, messages, body):\n    yield {item}")

    response = chat(server, stream=stream)

    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("item", ["Attributes()", "Dump()", "Kind()", "Pretends()"])
def test_a_later_item_ends_its_stream_alone(server: LiveServer, item: str):
    """Items of a burst are encoded in a callback of the event loop, which SystemExit would end."""
    serve(
        server,
        f"""
        async def run_chat_completion_async(self, model, messages, body):
            for _ in range(20):
                yield "x"
            yield {item}
            await asyncio.sleep(0.05)
            yield "never"
        """,
    )

    answer = chat(server, stream=True).text

    assert answer.count('"error":') == 1
    assert answer.endswith("data: [DONE]\n\n")
    assert "never" not in answer


@pytest.mark.parametrize("item", ["Attributes()", "Pretends()", "[Attributes()]", "{'a': Pretends()}"])
def test_a_result_is_a_500_whatever_its_class_does(server: LiveServer, item: str):
    serve(server, f"def run_api(self) -> object:\n    return {item}")

    response = server.client.post("/it/run", json={}, timeout=60)

    assert response.status_code == 500
    assert response.json()["detail"].startswith("Pipeline execution failed")
