"""What wrappers write into their own folders: no storm, also not between workers, and still the owner's files."""

import itertools
import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.cli.processes import Process, started
from tests.live_server import LiveServer, eventually, replace

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


WRITER = """
import os
from pathlib import Path
from hayhooks import BasePipelineWrapper

HERE = Path(__file__).parent


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        with open(LOADS, "a") as file:
            file.write(f"{os.getpid()} ")

    def run_api(self) -> int:
        with open(HERE / NAME, "a") as file:
            file.write("again")
        return os.getpid()
"""


class Workers:
    """Two of them, whose wrapper writes the file *name*, an expression, at each request."""

    def __init__(self, tmp_path: Path, name: str) -> None:
        self.folder = tmp_path / "pipelines/app"
        self._loads = tmp_path / "loads"
        source = WRITER.replace("LOADS", repr(str(self._loads))).replace("NAME", name)
        replace(self.folder / "pipeline_wrapper.py", source)

    def loads(self) -> list[int]:
        """The process ids of the workers that have loaded it, one for each time."""
        return [int(pid) for pid in self._loads.read_text().split()]

    def write(self, server: Process) -> set[int]:
        """Have both write; their process ids."""
        met: set[int] = set()

        def has_met_both() -> bool:
            met.add(int(httpx.post(f"{server.url}/app/run", json={}).json()["result"]))  # a connection each
            return len(met) == 2

        eventually(has_met_both)
        return met

    def edit(self, name: str) -> None:
        """Change the file *name* until both load it: what comes right after a write may be taken for its end."""
        edits = itertools.count()

        def is_loaded() -> bool:
            before = len(self.loads())
            replace(self.folder / name, f"edit {next(edits)}")
            return eventually(lambda: len(set(self.loads()[before:])) == 2, deadline_s=5)

        eventually(is_loaded, "both to load the edit")


@pytest.mark.slow
@pytest.mark.parametrize("name", ['f"{os.urandom(4).hex()}.json"', '"log.txt"'], ids=["files of its own", "one log"])
def test_what_one_worker_writes_reloads_no_other(tmp_path: Path, name: str):
    workers = Workers(tmp_path, name)
    with started(tmp_path, "run", "--workers", "2", POLL_INTERVAL_MS="100") as server:
        eventually(lambda: len(revisions(server)) == 2)
        for _ in range(60):
            workers.write(server)
        eventually(lambda: len(set(revisions(server))) == 1, "both to serve the same")

        assert len(workers.loads()) <= 4  # each once, and once more for what lay there when it looked first


def test_a_file_that_both_workers_write_is_its_owners_to_edit(tmp_path: Path):
    workers = Workers(tmp_path, '"log.txt"')
    with started(tmp_path, "run", "--workers", "2", POLL_INTERVAL_MS="100") as server:
        eventually(lambda: len(revisions(server)) == 2)
        for _ in range(2):
            workers.write(server)
            workers.edit("log.txt")
        eventually(lambda: len(set(revisions(server))) == 1, "both to serve the same")


def test_a_file_of_a_worker_that_has_died_is_its_owners_to_edit(tmp_path: Path):
    workers = Workers(tmp_path, 'f"{os.getpid()}.txt"')
    with started(tmp_path, "run", "--workers", "2", POLL_INTERVAL_MS="100") as server:
        eventually(lambda: len(revisions(server)) == 2)
        dead, _ = workers.write(server)
        os.kill(dead, signal.SIGKILL)
        eventually(lambda: len(set(workers.loads())) == 3, "another in its place")

        workers.edit(f"{dead}.txt")
        eventually(lambda: len(set(revisions(server))) == 1, "both to serve the same")


def revisions(server: Process) -> list[str]:
    return [worker["revision"] for worker in server.get("/status").json()["workers"]]
