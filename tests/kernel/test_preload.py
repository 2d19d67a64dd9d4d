"""What is there before the first wrapper is loaded, and that no collection looks at it."""

import gc
import sys
import threading
from pathlib import Path

import pytest

from hayhooks.kernel.preload import Preloader
from hayhooks.kernel.scan import EVERYTHING, Scanner
from tests.cli.processes import started
from tests.live_server import ECHO, eventually, replace, serving

HEAD = """
import gc
{imports}
from hayhooks import BasePipelineWrapper

class Mine: pass

class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass
"""

LOOK = """
    def run_api(self) -> dict:
        from haystack import Pipeline
        seen = gc.get_objects()
        return {"frozen": gc.get_freeze_count(), "haystack": any(it is Pipeline for it in seen),
                "mine": any(it is Mine for it in seen), "enabled": gc.isenabled()}
"""


@pytest.mark.parametrize("imports", ["from haystack import Pipeline", "import haystack.core.pipeline", ""])
def test_collections_pass_over_haystack(imports: str, tmp_path: Path) -> None:
    """Collections pass over haystack and find what belongs to a revision."""
    replace(tmp_path / "pipelines/it/pipeline_wrapper.py", HEAD.format(imports=imports) + LOOK)

    with started(tmp_path, "run") as process:
        result = eventually(lambda: process.post("/it/run", {}).json()["result"])

    assert result.pop("frozen") > 10_000
    assert result == {"haystack": False, "mine": True, "enabled": True}


def test_what_haystack_lacks_is_told_by_the_wrapper_that_wants_it(tmp_path: Path) -> None:
    replace(tmp_path / "pipelines/bad/pipeline_wrapper.py", HEAD.format(imports="from haystack.no.part import It"))
    replace(tmp_path / "pipelines/good/pipeline_wrapper.py", "ANSWER = 'good'\n" + ECHO)

    with started(tmp_path, "run") as process:
        eventually(lambda: process.post("/good/run", {}).json() == {"result": "good"})
        entries = {entry["name"]: entry for entry in process.get("/status").json()["deployments"]}

    assert "No module named 'haystack.no'" in entries["bad"]["error"]


def test_in_the_process_of_somebody_else_nothing_is_frozen(root: Path) -> None:
    with serving(root) as server:
        before = gc.get_freeze_count()  # what the tests have frozen themselves
        server.serve("echo", answer="it ")
        assert gc.get_freeze_count() <= before  # frozen objects may still be freed


def test_an_import_that_hangs_does_not_keep_wrappers_waiting(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, begun = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "hangs", (begun, hangs), raising=False)
    replace(tmp_path / "haystack_integrations/hangs.py", "import sys\nsys.hangs[0].set()\nsys.hangs[1].wait(60)")
    monkeypatch.syspath_prepend(tmp_path)
    replace(root / "it/pipeline_wrapper.py", "import haystack_integrations.hangs")
    scanner = Scanner(root, debounce_s=0, removal_grace_s=0)
    frozen = gc.get_freeze_count()
    preloader = Preloader(freeze=True, stuck_after_s=0.01)
    loaded = threading.Event()
    try:
        preloader.when_done(loaded.set)
        preloader.start(scanner.scan(1.0, EVERYTHING).revisions.values())
        assert begun.wait(60)
        assert not loaded.is_set()
        while not loaded.wait(0.01):
            preloader.tick()
        assert gc.isenabled()
    finally:
        hangs.set()
    assert gc.get_freeze_count() <= frozen


def test_an_import_that_takes_long_is_told(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    replace(
        tmp_path / "path/haystack_integrations/slow.py",
        f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)",
    )
    replace(tmp_path / "pipelines/it/pipeline_wrapper.py", "import haystack_integrations.slow\n" + ECHO)
    with started(tmp_path, "dev", variables={"PYTHONPATH": str(tmp_path / "path")}, ready=503) as server:
        eventually(lambda: server.get("/status").json()["loading"][0]["why"] == "waits for the import of Haystack")
        server.prints("Importing Haystack has taken ")
        gate.touch()
        server.prints("✓ it")
