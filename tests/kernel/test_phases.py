"""User code that hangs outside of requests can be seen: in /status and in the log, with its line."""

from pathlib import Path
from typing import Any

import pytest

from tests.live_server import LiveServer, eventually, replace, serving

HANGING = """
import asyncio, time
from pathlib import Path
from hayhooks import BasePipelineWrapper


def wait():
    while not Path(GATE).exists(): time.sleep(0.01)  # this line


async def wait_async():
    while not Path(GATE).exists():
        try:
            await asyncio.sleep(0.01)  # that line
        except asyncio.CancelledError:
            pass


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass
    def run_api(self): return "hanging"
    {method}


{code}
"""


def unfinished(server: LiveServer, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in server.status()[kind] if entry["name"] == "app"]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def line_of(server: LiveServer, method: str = "") -> str:
    source = (server.root / "app/pipeline_wrapper.py").read_text().splitlines()
    mark = "# that line" if "async" in method else "# this line"
    return next(f"pipeline_wrapper.py:{n}: {line.strip()}" for n, line in enumerate(source, 1) if mark in line)


@pytest.mark.parametrize(
    ("name", "method", "code"),
    [
        ("setup()", "def setup(self): wait()", ""),
        ("check()", "def check(self): wait()", ""),
        ("check()", "async def check(self): await wait_async()", ""),
        ("import", "", "wait()"),
    ],
    ids=["setup", "check", "async check", "import"],
)
def test_a_load_that_hangs(server: LiveServer, gate: Path, logged: list[str], name: str, method: str, code: str):
    wrapper = HANGING.format(method=method, code=code)
    if not method:
        wrapper = wrapper.replace("# this line", "").replace("time.sleep(0.01)", "time.sleep(0.01)  # this line", 1)
    server.write("app", wrapper, gate=str(gate))
    line = line_of(server, method)
    [loading] = eventually(lambda: [entry for entry in unfinished(server, "loading") if line in entry["why"]])
    assert loading["why"].startswith(f"{name} at /")
    assert loading["since"] > 0

    server.serve("app", answer="")

    [retired] = eventually(lambda: unfinished(server, "retired"))
    assert (retired["revision"], line in retired["why"]) == (loading["revision"], True)
    assert unfinished(server, "loading") == []
    eventually(lambda: any("is not wanted any more" in entry and line in entry for entry in logged))
    gate.touch()
    eventually(lambda: not unfinished(server, "retired"))
    assert sum("is not wanted any more" in entry for entry in logged) == 1


def test_a_teardown_that_hangs(server: LiveServer, gate: Path, logged: list[str]):
    server.serve("app", HANGING.format(method="def teardown(self): wait()", code=""), gate=str(gate))
    line = line_of(server)

    server.serve("app", answer="")

    [retired] = eventually(lambda: [entry for entry in unfinished(server, "retired") if line in entry["why"]])
    assert retired["why"].startswith("teardown() at /")
    eventually(lambda: any("teardown() at /" in entry and line in entry for entry in logged))
    gate.touch()
    eventually(lambda: not unfinished(server, "retired"))


@pytest.mark.parametrize("method", ["def check(self): wait()", "async def check(self): await wait_async()"])
def test_a_check_that_goes_on_after_its_timeout(root: Path, gate: Path, logged: list[str], method: str):
    with serving(root, check_timeout=1) as server:
        server.write("app", HANGING.format(method=method, code=""), gate=str(gate))
        eventually(lambda: server.state("app")["state"] == "failed")

        [retired] = unfinished(server, "retired")
        assert retired["why"].startswith("check() at /")
        assert line_of(server, method) in retired["why"]
        eventually(lambda: any("is not wanted any more" in entry for entry in logged))
        gate.touch()
        eventually(lambda: not unfinished(server, "retired"))


def test_a_warm_up_that_hangs_is_at_the_line_of_its_component(server: LiveServer, gate: Path):
    component = f"""
import time
from pathlib import Path
from haystack import component


@component
class Slow:
    def warm_up(self):
        while not Path({str(gate)!r}).exists():
            time.sleep(0.01)

    @component.output_types(value=int)
    def run(self, value: int):
        return {{"value": value}}
"""
    wrapper = """
from haystack import Pipeline
from hayhooks import BasePipelineWrapper
from slow import Slow


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("slow", Slow())

    def run_api(self): ...
"""
    server.write("app", wrapper, {"slow.py": component})
    try:
        eventually(lambda: "slow.py:1" in unfinished(server, "loading")[0]["why"])
        assert unfinished(server, "loading")[0]["why"].startswith("warm_up() at /")
    finally:
        gate.touch()


@pytest.mark.slow
def test_a_load_that_takes_long_is_logged_at_some_ages(server: LiveServer, gate: Path, logged: list[str]):
    server.write("app", HANGING.format(method="def setup(self): wait()", code=""), gate=str(gate))
    line = line_of(server)
    told = eventually(lambda: [entry for entry in logged if "has been loading for 2." in entry])
    assert told[0].startswith("INFO app ")
    assert ": setup() at /" in told[0]
    assert told[0].endswith(line)
    told = eventually(lambda: [entry for entry in logged if "has been loading for 10." in entry])
    assert told[0].startswith("WARNING app ")
    gate.touch()
    eventually(lambda: server.state("app")["state"] == "serving")
    assert sum("has been loading for" in entry for entry in logged) == 2


def test_a_busy_loop_is_seen(server: LiveServer, tmp_path: Path):
    replace(tmp_path / "on", "")
    busy = f"import os\nwhile os.path.exists({str(tmp_path / 'on')!r}): pass\n"
    server.write("app", busy)
    try:
        eventually(lambda: "import at /" in unfinished(server, "loading")[0]["why"])
        assert "pipeline_wrapper.py:2: while" in unfinished(server, "loading")[0]["why"]
    finally:
        (tmp_path / "on").unlink()
