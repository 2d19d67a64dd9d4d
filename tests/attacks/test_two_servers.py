"""Two servers on one directory: what the wrappers of one write does not reload those of the other without end."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.cli.processes import started
from tests.live_server import eventually, replace

WRITER = """
import os, time
from pathlib import Path
from hayhooks import BasePipelineWrapper

HERE = Path(__file__).parent


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        with open(LOADS, "a") as file:
            file.write("x")
        (HERE / "state.json").write_text(f"started by {os.getpid()} at {time.time()}")
        (HERE / f"{os.getpid()}.json").write_text("x")

    def run_api(self) -> str:
        return ANSWER
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_setups_that_write_reload_each_other_a_few_times_at_most(tmp_path: Path, workers: str):
    loads, root = tmp_path / "loads", tmp_path / "pipelines"
    servers = 2 * int(workers)

    def save(answer: str) -> None:
        replace(root / "app/pipeline_wrapper.py", f"LOADS = {str(loads)!r}\nANSWER = {answer!r}\n{WRITER}")

    def wait_until_quiet(change: Callable[[], object], at_least: int) -> None:
        loads.write_text("")
        change()
        eventually(lambda: len(loads.read_text()) >= at_least)
        count, since = 0, time.monotonic()
        while time.monotonic() - since < 1.5:
            if (now := len(loads.read_text())) != count:
                count, since = now, time.monotonic()
            assert count <= 4 * servers
            time.sleep(0.02)

    save("first")
    run = ("run", "--pipelines-dir", str(root), "--workers", workers)
    with started(tmp_path, *run) as one, started(tmp_path, *run) as other:
        wait_until_quiet(lambda: None, at_least=0)
        wait_until_quiet(partial(save, "second"), at_least=servers)
        for server in (one, other):
            eventually(lambda server=server: server.post("/app/run", {}).json() == {"result": "second"})  # type: ignore[misc]
        by_owner = partial(replace, root / "app/state.json", "by its owner")
        wait_until_quiet(by_owner, at_least=1)  # whose setup() writes it anew before the others may have seen it
