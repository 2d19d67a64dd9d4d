"""What was replaced goes, and only when nobody uses it any more. In a process of its own: memory is counted."""

import json
import subprocess
import sys
from pathlib import Path

from tests.live_server import LiveServer, eventually

RELOADS = """
import gc, json, sys, threading
from pathlib import Path
from tests.live_server import serving

WRAPPER = '''
from haystack import Pipeline, component
from pydantic import BaseModel
from hayhooks import BasePipelineWrapper
import helper


class Question(BaseModel):
    text: str


@component
class Times:
    @component.output_types(value=int)
    def run(self, value: int):
        return {"value": value * VERSION}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.held = bytearray(5_000_000)
        self.held[::4096] = b"x" * len(self.held[::4096])
        self.pipeline = Pipeline()
        self.pipeline.add_component("times", Times())

    def run_api(self, question: Question | None = None) -> int:
        return self.pipeline.run({"times": {"value": 1}})["times"]["value"]
'''


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def counts():
    gc.collect()
    from haystack import component
    return {
        "packages": len({name.partition(".")[0] for name in sys.modules if name.startswith("_hayhooks_")}),
        "wrappers": sum(type(found).__name__ == "PipelineWrapper" for found in gc.get_objects()),
        "components": sum(path.startswith("_hayhooks_") for path in component.registry),
        "threads": threading.active_count(),
        "resident": resident(),
    }


root = Path(sys.argv[1])
with serving(root) as server:
    def reload(version):
        server.serve("chat", WRAPPER, {"helper.py": ""}, version=version)
        assert server.run("chat") == version
        server.eventually(lambda: server.app.reconciler.retirement.pending == 0)

    for version in range(40):  # memory has its plateau by then: some revisions wait to be collected together
        reload(version)
    before = counts()
    for version in range(40, 140):
        reload(version)
    server.eventually(lambda: counts()["wrappers"] == 1)
    print(json.dumps([before, counts()]))
"""


def test_reloads_free_the_memory_of_old_revisions(tmp_path: Path):
    result = subprocess.run(
        [sys.executable, "-c", RELOADS, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr[-3000:]
    before, after = json.loads(result.stdout)

    assert (after["packages"], after["wrappers"], after["components"]) == (1, 1, 1)
    assert after["threads"] <= before["threads"] + 2
    # The allocator keeps what some revisions held that waited to be collected together; a hundred that stay are 500 MB.
    assert after["resident"] < before["resident"] + 80, (before, after)


TEARDOWN = """
from pathlib import Path
import time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self, gate: str):
        yield "began"
        while not Path(gate).exists():
            time.sleep(0.005)
        yield " ended"

    def teardown(self):
        Path(TORN).touch()
        raise SystemExit("a teardown that fails")
"""


def test_a_deployment_is_torn_down_after_its_last_byte(server: LiveServer, tmp_path: Path):
    gate, torn = tmp_path / "gate", tmp_path / "torn"
    server.serve("slow", TEARDOWN, torn=str(torn))
    with server.client.stream("POST", "/slow/run", json={"gate": str(gate)}) as response:
        pieces = response.iter_text()
        assert next(pieces) == "began"
        server.remove("slow")
        server.eventually(lambda: server.client.get("/status/slow").status_code == 404)
        assert not torn.exists()
        gate.touch()
        assert "".join(pieces) == " ended"

    eventually(torn.exists)
    eventually(lambda: server.app.reconciler and server.app.reconciler.retirement.pending == 0)
    assert not any(name.startswith("_hayhooks_slow_") for name in sys.modules)
