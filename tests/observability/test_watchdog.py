"""What blocks the event loop is logged with its line, and measured."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from hayhooks import Settings, create_app
from hayhooks.observability.watchdog import Watchdog
from tests.live_server import LiveServer, eventually, serving

BLOCKING = """
import time
from hayhooks import BasePipelineWrapper
from waiting import wait


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): ...

    async def run_api(self, seconds: float):
        if seconds < 0:
            wait(-seconds)
        time.sleep(max(seconds, 0))

    def run_chat_completion(self, model, messages, body):
        time.sleep(1)
        return "not on the loop"
"""
WAITING = (
    "import time\n\n\ndef wait(seconds):\n    while seconds > 0:\n        time.sleep(0.01)\n        seconds -= 0.01\n"
)
MARK = "event loop blocked"


@pytest.fixture
def server(root: Path) -> Iterator[LiveServer]:
    app = create_app(Settings(pipelines_dir=root, _env_file=None))
    app.watch_event_loop(0.2)
    with serving(root, app) as server:
        yield server


def test_a_blocked_loop_is_logged_with_the_line_once(server: LiveServer, logged: list[str]):
    server.serve("handbook", BLOCKING, {"waiting.py": WAITING})
    number = next(n for n, line in enumerate(BLOCKING.splitlines(), 1) if "max(" in line)
    server.run("handbook", seconds=0.6)
    [line] = eventually(lambda: [line for line in logged if MARK in line])
    assert (
        f"s by handbook, pipeline_wrapper.py:{number}: time.sleep(max(seconds, 0)): use def, or asyncio.to_thread"
        in line
    )
    assert float(line.split(MARK)[1].split()[0]) > 0.4

    server.run("handbook", seconds=0.6)
    server.run("handbook", seconds=-0.6)  # in another file
    eventually(lambda: any("by handbook, waiting.py:" in line for line in logged))
    assert sum(f"pipeline_wrapper.py:{number}" in line for line in logged) == 1


def test_the_longest_lag_is_a_metric(server: LiveServer):
    server.serve("handbook", BLOCKING, {"waiting.py": WAITING})
    server.run("handbook", seconds=0.5)

    def lag() -> float:
        text = server.client.get("/metrics").text
        return float(text.split("\nhayhooks_event_loop_lag_seconds ")[1].split()[0])

    eventually(lambda: lag() > 0.3)


def test_threads_of_sync_methods_block_nothing(server: LiveServer, logged: list[str]):
    server.serve("handbook", BLOCKING, {"waiting.py": WAITING})
    body = {"messages": [{"role": "user", "content": "x"}]}
    assert server.client.post("/handbook/chat", json=body).status_code == 200
    assert not any("by handbook" in line for line in logged)


def test_code_that_holds_the_interpreter_is_named(server: LiveServer, logged: list[str]):
    matching = """
import re
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): ...

    def run_api(self, size: int):
        return bool(re.match(r"(a+)+$", "a" * size + "b"))
"""
    server.serve("regular", matching)
    size = 20
    while not any(MARK in line for line in logged):
        size += 1  # twice as long as before
        server.run("regular", size=size)

    def named() -> list[str]:
        server.run("regular", size=size)  # the watchdog may get the interpreter only after another thread
        return [
            line for line in logged if MARK in line and "s by regular, pipeline_wrapper.py:10: return bool(" in line
        ]

    assert eventually(named)[0].endswith(": it holds the interpreter lock in a thread")


def test_nobody_watches_the_loop_of_an_application_that_did_not_ask(own_server: LiveServer, logged: list[str]):
    own_server.serve("handbook", BLOCKING, {"waiting.py": WAITING})
    own_server.run("handbook", seconds=1.5)
    assert not any(MARK in line for line in logged)
    assert "hayhooks_event_loop_lag_seconds" not in own_server.client.get("/metrics").text


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_each_kind_of_loop_is_watched(logged: list[str], new_loop: Callable[[], asyncio.AbstractEventLoop]):
    async def block() -> float:
        watchdog = Watchdog(0.1, list)
        with watchdog.running():
            await asyncio.sleep(0.3)
            time.sleep(1.2)  # noqa: ASYNC251 - this is the test
            await asyncio.sleep(0.3)
            return watchdog.longest_lag()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(block()) > 1
    [line] = eventually(lambda: [line for line in logged if MARK in line])
    assert f"s at {__file__}:" in line
    assert "time.sleep(1.2)" in line
