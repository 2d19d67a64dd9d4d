"""What wrappers write into their own folders: no storm, also not between workers, and still the owner's files."""

from pathlib import Path

import httpx

from tests.cli.processes import Process, started
from tests.server import LiveServer, eventually, replace

DEFAULTS = """
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        config = Path(__file__).parent / "config.txt"
        if not config.exists():
            config.write_text("default")
        self.config = config.read_text()

    def run_api(self):
        return self.config
"""


def test_a_file_that_the_wrapper_once_wrote_is_its_owners_to_edit(server: LiveServer):
    server.serve("app", DEFAULTS)
    assert server.run("app") == "default"

    for edit in ("mine", "mine again"):
        replace(server.root / "app/config.txt", edit)
        server.eventually(lambda edit=edit: server.run("app") == edit)  # type: ignore[misc]


CACHE = """
import os
from pathlib import Path
from hayhooks import BasePipelineWrapper

HERE = Path(__file__).parent


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        with open(LOADS, "a") as file:
            file.write("x")

    def run_api(self) -> int:
        (HERE / f"{os.urandom(4).hex()}.json").write_text("{}")
        return os.getpid()
"""


def test_what_one_worker_writes_reloads_no_other(tmp_path: Path):
    loads = tmp_path / "loads"
    replace(tmp_path / "pipelines/app/pipeline_wrapper.py", f"LOADS = {str(loads)!r}\n{CACHE}")
    with started(tmp_path, "run", "--workers", "2", LOOK_AROUND_MS="100") as server:
        eventually(lambda: len(revisions(server)) == 2)
        met: set[str] = set()

        def has_met_both() -> bool:
            met.add(httpx.post(f"{server.url}/app/run", json={}).json()["result"])  # a connection each
            return len(met) == 2

        eventually(has_met_both)
        for _ in range(40):
            has_met_both()
        eventually(lambda: len(set(revisions(server))) == 1, "both to serve the same")

        assert len(loads.read_text()) <= 4  # each once, and once more for what lay there when it looked first


def revisions(server: Process) -> list[str]:
    return [worker["revision"] for worker in server.get("/status").json()["workers"]]
