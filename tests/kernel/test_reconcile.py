"""Loading side by side, and starting cold."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.processes import started
from tests.live_server import ECHO, LiveServer, eventually, replace, serving

SLOW = """
import time
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        Path(BEGAN).touch()
        while not Path(GATE).exists():
            time.sleep(0.01)

    def run_api(self):
        return ANSWER
"""


def test_slow_setups_run_concurrently(server: LiveServer, tmp_path: Path):
    gate = tmp_path / "gate"
    names = [f"slow{number}" for number in range(8)]
    for name in names:
        server.write(name, SLOW, began=str(tmp_path / name), gate=str(gate), answer=name)
    # All of them are in setup at the same time, though fewer may begin at once: those that take long make room.
    eventually(lambda: all((tmp_path / name).exists() for name in names))
    assert {entry["state"] for entry in server.status()["deployments"]} == {"loading"}
    assert server.client.post("/slow0/run", json={}).status_code == 503

    server.serve("quick", answer="at once")
    assert server.run("quick") == "at once"
    gate.touch()
    server.eventually(lambda: len(server.status()["pipelines"]) == 9)
    assert [server.run(name) for name in names] == names


def test_an_edit_during_setup_supersedes_the_load(server: LiveServer, tmp_path: Path):
    began, gate = tmp_path / "began", tmp_path / "gate"
    server.write("chat", SLOW, began=str(began), gate=str(gate), answer="hangs")
    eventually(began.exists)
    server.serve("chat", answer="repaired")
    assert server.run("chat") == "repaired"

    gate.touch()
    assert server.app.reconciler is not None
    retirement = server.app.reconciler.retirement
    server.serve("other")
    eventually(lambda: retirement.pending == 0)
    assert server.run("chat") == "repaired"


def test_requests_wait_while_the_server_starts(root: Path, tmp_path: Path):
    gate = tmp_path / "gate"
    head = f"BEGAN, GATE, ANSWER = {str(tmp_path / 'began')!r}, {str(gate)!r}, 'here'\n"
    replace(root / "slow/pipeline_wrapper.py", head + SLOW)
    with serving(root) as server, ThreadPoolExecutor(2) as pool:
        eventually((tmp_path / "began").exists)
        assert server.client.get("/readyz").status_code == 503
        assert server.client.get("/healthz").status_code == 200
        assert server.state("slow")["state"] == "loading"
        request = pool.submit(server.client.post, "/slow/run", json={})
        assert server.client.post("/nothing/run", json={}).status_code == 404  # what lies there is known
        gate.touch()

        assert request.result().json() == {"result": "here"}
        assert server.client.get("/readyz").status_code == 200


def test_a_root_that_comes_back_is_ready_again(tmp_path: Path):
    root = tmp_path / "pipelines"
    with serving(root, poll_interval_ms=100) as server:
        server.eventually(lambda: "cannot be read" in server.client.get("/readyz").json().get("detail", ""))
        server.serve("chat", answer="here")
        assert server.client.get("/readyz").status_code == 200

        root.rename(tmp_path / "away")
        server.eventually(lambda: server.client.get("/readyz").status_code == 503)
        assert server.run("chat") == "here"
        assert str(root) in server.status()["error"]

        (tmp_path / "away").rename(root)
        server.eventually(lambda: server.client.get("/readyz").status_code == 200)
        server.serve("chat", answer="again")


def test_a_thousand_touches_load_nothing(server: LiveServer):
    server.serve("chat", answer="1")
    generation = server.status()["generation"]
    for _ in range(1000):
        (server.root / "chat/pipeline_wrapper.py").touch()
    server.serve("other")

    assert server.status()["generation"] == generation + 1


def test_the_last_of_many_quick_edits_is_served(server: LiveServer):
    for number in range(200):
        server.write("chat", answer=str(number))
    server.eventually(lambda: server.run("chat") == "199")


# What the eight import of Haystack, each in an order of its own: its packages import their parts when first touched.
PARTS = [
    "haystack.components.generators.chat import MockChatGenerator",
    "haystack.components.retrievers import InMemoryBM25Retriever",
    "haystack.components.builders import ChatPromptBuilder, PromptBuilder",
    "haystack.components.converters import TextFileToDocument",
    "haystack.components.preprocessors import DocumentSplitter, MarkdownHeaderSplitter",
    "haystack.components.writers import DocumentWriter",
    "haystack.document_stores.in_memory import InMemoryDocumentStore",
    "haystack.components.agents import Agent",
    "haystack.components.joiners import DocumentJoiner",
    "haystack.components.routers import ConditionalRouter",
]


@pytest.mark.slow
def test_cold_starts_serve_all_wrappers(tmp_path: Path):
    for number in range(8):
        parts = PARTS[number:] + PARTS[:number]
        imports = "".join(f"from {part}\n" for part in parts[:6])
        late = "".join(f"        from {part}\n" for part in parts[6:])
        source = imports + ECHO.replace("def setup(self):\n", f"def setup(self):\n{late}")
        replace(tmp_path / f"pipelines/w{number}/pipeline_wrapper.py", "ANSWER = ''\n" + source)

    def cold_start(number: int) -> list[str]:
        """What is not served."""
        (tmp_path / str(number)).mkdir()
        with started(tmp_path / str(number), "run", PIPELINES_DIR=str(tmp_path / "pipelines")) as process:
            entries = process.get("/status").json()["deployments"]
            assert len(entries) == 8
            return [entry["error"] for entry in entries if entry["state"] != "serving"]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(cold_start, range(6))) == [[]] * 6


def test_an_idle_server_changes_nothing(server: LiveServer):
    server.serve("chat")
    generation = server.status()["generation"]
    reconciler = server.app.reconciler
    assert reconciler is not None
    snapshot = reconciler.snapshot
    time.sleep(1.2)  # longer than the look-around time: nothing is to happen in it, so there is nothing to wait for

    assert reconciler.snapshot is snapshot
    assert server.status()["generation"] == generation


COUNTING = """
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.data = Path(DATA).read_text()
        if not self.data:
            raise ValueError("no data")

    def run_api(self):
        return self.data
"""


def test_a_reload_loads_what_has_not_changed(server: LiveServer, tmp_path: Path, logged: list[str]):
    data = tmp_path / "data"
    data.write_text("old")
    server.serve("it", COUNTING, data=str(data))
    assert server.app.reconciler is not None
    reload = server.app.reconciler.reload
    revision, generation = server.state("it")["revision"], server.status()["generation"]

    data.write_text("new")
    reload("it")
    eventually(lambda: server.run("it") == "new")
    assert (server.state("it")["revision"], server.status()["generation"]) == (revision, generation + 1)
    assert server.state("it")["state"] == "serving"

    data.write_text("")
    reload("it")
    eventually(lambda: server.state("it")["state"] == "stale")
    server.serve("other")  # a turn later it is still so
    assert (server.state("it")["state"], server.run("it")) == ("stale", "new")
    assert "no data" in server.state("it")["error"]

    data.write_text("newest")
    reload("it")
    eventually(lambda: server.run("it") == "newest")
    assert server.state("it")["state"] == "serving"
    reload("nothing of this name")  # is no harm
    took = [float(line.split(" in ")[1].split()[0]) for line in logged if line.startswith("INFO Deployed it")]
    assert len(took) == 3


def test_a_reload_of_a_failure_tries_it_again(server: LiveServer, tmp_path: Path):
    data = tmp_path / "data"
    data.write_text("")
    server.write("it", COUNTING, data=str(data))
    eventually(lambda: server.state("it")["state"] == "failed")
    data.write_text("there")
    assert server.app.reconciler is not None
    server.app.reconciler.reload("it")
    eventually(lambda: server.run("it") == "there")
