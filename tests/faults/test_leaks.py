"""A process that reloads again and again has in the end what it had in the beginning."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fork_server import run_code
from tests.live_server import HAYSTACK

PROCESS = '''
import gc, json, logging, os, sys, threading
from pathlib import Path
from haystack import component
from tests.live_server import ECHO, replace, serving

TYPES = """
import logging
from enum import Enum
from typing import Optional
from haystack import Document, Pipeline, component
from pydantic import BaseModel
from hayhooks import BasePipelineWrapper
import helper

logger = logging.getLogger(__name__)
VERSION = %d


class Kind(Enum):
    A = "a"


class Question(BaseModel):
    text: str = ""
    kind: Optional[Kind] = None
    more: "Optional[Question]" = None
    held: str = "x" * 1_000_000 + str(VERSION)


@component
class Double:
    @component.output_types(value=int)
    def run(self, value: int):
        return {"value": 2 * value}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("double", Double())
        self.held = bytearray(HELD)
        self.held[::4096] = b"x" * len(self.held[::4096])

    def run_api(self, question: Optional[Question] = None, documents: Optional[list[Document]] = None) -> Optional[int]:
        logger.debug("asked")
        return self.pipeline.run({"double": {"value": VERSION}})["double"]["value"]
""".replace("HELD", sys.argv[2])
FAILING = TYPES.replace("self.pipeline.add", "raise ValueError(self, Question); self.pipeline.add")
kind, rounds = sys.argv[3], int(sys.argv[4])


def counts():
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "resident": int(status["VmRSS"].split()[0]) // 1024,
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "modules": len(sys.modules),
        "loggers": len(logging.Logger.manager.loggerDict),
        "packages": len({name.partition(".")[0] for name in sys.modules if name.startswith("_hayhooks_")}),
        "wrappers": sum(type(found).__name__ == "PipelineWrapper" for found in gc.get_objects()),
        "components": sum(path.startswith("_hayhooks_") for path in component.registry),
    }


with serving(Path(sys.argv[1])) as server:
    def good(version):
        server.serve("app", TYPES % version, {"helper.py": ""})
        assert server.run("app", question={"text": "x"}) == 2 * version
        server.eventually(lambda: server.app.reconciler.retirement.pending == 0)

    def failing(version):
        server.write("app", FAILING % version, {"helper.py": ""})
        server.eventually(lambda: server.state("app")["failed_revision"] not in failed)
        failed.add(server.state("app")["failed_revision"])
        assert server.run("app") == 0

    failed = {None}
    good(0)
    act = good if kind == "good" else failing
    warm_up = rounds // 3
    for version in range(1, warm_up):
        act(version)
    server.eventually(lambda: not server.status()["retired"])
    before = counts()
    for version in range(warm_up, rounds):
        act(version)
    server.eventually(lambda: not server.status()["retired"] and counts()["wrappers"] == 1)
    print(json.dumps([before, counts()]))
'''


def told_by(code: str, *arguments: str) -> Any:
    """What *code*, in a process of its own, tells as JSON."""
    root = Path(__file__).parent.parent.parent
    result = run_code(code, *arguments, cwd=root, env=os.environ, imports=("tests.live_server", *HAYSTACK))
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rounds", "held", "growth_mb"),
    [("good", 150, 5_000_000, 80), ("good", 90, 100_000, 40), ("failing", 90, 100_000, 40)],
    ids=["150 of 5 MB", "90 with types", "90 that fail"],
)
def test_reloads_leave_nothing(tmp_path: Path, kind: str, rounds: int, held: int, growth_mb: int):
    """What stayed of 100 reloads of 5 MB would be 500 MB; the bounds are what the allocator may keep."""
    before, after = told_by(PROCESS, str(tmp_path), str(held), kind, str(rounds))

    assert (after["packages"], after["wrappers"], after["components"]) == (1, 1, 1)
    assert after["modules"] <= before["modules"] + 3, (before, after)
    assert after["loggers"] <= before["loggers"] + 3, (before, after)
    assert after["threads"] <= before["threads"] + 3, (before, after)
    assert after["descriptors"] <= before["descriptors"] + 5, (before, after)
    assert after["resident"] <= before["resident"] + growth_mb, (before, after)


LARGE = """
import gc, json, sys
from pathlib import Path
from tests.live_server import ECHO, replace, serving


def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20


root = Path(sys.argv[1])
with serving(root) as server:
    for number in range(50):
        replace(root / "app/large.py", f"VERSION = {number}\\n# {'x' * 2_000_000}")
        server.serve("app", "import large\\n" + ECHO, answer=number)
        if number == 10:
            before = resident()
    print(json.dumps([before, resident()]))
"""


@pytest.mark.slow
def test_the_sources_of_old_revisions_are_forgotten(tmp_path: Path):
    """What stayed of 39 reloads with 2 MB of source would be 78 MB."""
    before, after = told_by(LARGE, str(tmp_path))

    assert after <= before + 40, (before, after)
