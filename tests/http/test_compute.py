"""What is computed once for a deployment."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.live_server import LiveServer, eventually

HANGING = """
import time
from pathlib import Path

from haystack import Pipeline
from haystack.components.builders import PromptBuilder

from hayhooks import BasePipelineWrapper


class Hanging(Pipeline):
    def walk(self):
        if READY.exists():
            Path(GATE + "-begun").touch()
            while not Path(GATE).exists():
                time.sleep(0.02)
        return super().walk()


READY = Path(GATE + "-ready")


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Hanging()
        self.pipeline.add_component("prompt", PromptBuilder("x"))

    def run_api(self) -> str:
        return "here"
"""

FAILING = """
from haystack import Pipeline
from haystack.components.builders import PromptBuilder

from hayhooks import BasePipelineWrapper

asked = []


class Failing(Pipeline):
    def walk(self):
        if READY:
            asked.append(1)
            if len(asked) == 1:
                raise ValueError("not yet")
        return super().walk()


READY = False


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Failing()
        self.pipeline.add_component("prompt", PromptBuilder("x"))

    def run_api(self) -> int:
        global READY
        READY = True
        return len(asked)
"""


def test_all_who_ask_for_what_hangs_wait_for_one_thread(server: LiveServer, tmp_path: Path):
    gate = tmp_path / "gate"
    server.serve("hanging", HANGING, gate=str(gate))
    server.serve("other")
    Path(f"{gate}-ready").touch()
    with ThreadPoolExecutor(12) as pool:
        drawings = [pool.submit(httpx.get, server.url + "/draw/hanging", timeout=60) for _ in range(12)]
        eventually(Path(f"{gate}-begun").exists)
        for path in ("/openapi.json", "/hanging/schema", "/other/schema", "/status"):
            assert server.client.get(path).status_code == 200
        assert server.run("hanging") == "here"
        threads = [thread for thread in threading.enumerate() if thread.name == "hayhooks server"]
        assert len(threads) <= 1 + 1 + 4  # that hangs, that is kept, and those for the other work
        gate.touch()
        assert {drawing.result().status_code for drawing in drawings} == {200}


def test_an_error_is_not_kept(server: LiveServer):
    server.serve("failing", FAILING)
    assert server.run("failing") == 0
    assert server.client.get("/draw/failing").status_code == 500
    assert server.client.get("/draw/failing").status_code == 200
    asked = server.run("failing")
    assert server.client.get("/draw/failing").status_code == 200
    assert server.run("failing") == asked
