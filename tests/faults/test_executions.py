"""Executions outlive the death, the stop and the replacement of what runs them."""

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import postgres
from tests.cli.processes import Process, environment, started
from tests.fork_server import HAYHOOKS, popen
from tests.live_server import eventually, replace
from tests.wrappers import source

IMPORTS = (  # of the wrappers, and for them
    "haystack.components.agents.agent",
    "hayhooks.executions.dbos_engine",
    "hayhooks.executions.runtime",
    "hayhooks.toolkit.agent_memo",
    "dbos._sys_db_sqlite",
)
STEPS = ["one", "two", "held", "four"]


class Cluster:
    """Servers over one pipelines directory and one database; a wrapper that notes its steps."""

    def __init__(self, tmp_path: Path, stack: ExitStack, url: str = "") -> None:
        self.path = tmp_path
        self.log, self.gate = tmp_path / "log", tmp_path / "gate"
        self.servers: list[Process] = []
        self._stack = stack
        self._url = url  # of the database; "": a SQLite file
        folder = tmp_path / "pipelines/job"
        folder.mkdir(parents=True)
        head = f"LOG, GATE = {str(self.log)!r}, {str(self.gate)!r}\n"
        (folder / "pipeline_wrapper.py").write_text(head + source("durable_steps"))

    def start(self, **settings: str) -> Process:
        settings = {
            "STATE_DIR": str(self.path / "state"),
            "DURABLE_URL": self._url,
            "DURABLE_ALIVE_MS": "200",
            **settings,
        }
        server = self._stack.enter_context(started(self.path, "run", imports=IMPORTS, **settings))  # type: ignore[arg-type]
        self.servers.append(server)
        return server

    def order(self, server: Process, **request: Any) -> str:
        response = server.post("/job/run-durable", request)
        assert response.status_code == 202, response.text
        execution_id: str = response.json()["execution_id"]
        return execution_id

    def noted(self) -> list[tuple[int, str]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(int(line.split()[0]), line.split()[1]) for line in lines]

    def who_holds(self) -> Process:
        """Wait until a step is held, and return the server that runs it."""
        eventually(lambda: any(name in ("held", "sleeps") for _, name in self.noted()), "a step to be held")
        pid = self.noted()[-1][0]
        return next(server for server in self.servers if server.process.pid == pid)

    def freeze(self, server: Process) -> None:
        """Stop *server* where it has not locked the database."""
        while True:
            os.kill(server.process.pid, signal.SIGSTOP)
            with closing(
                sqlite3.connect(self.path / "state/durable.sqlite", timeout=1, isolation_level=None)
            ) as database:
                try:
                    database.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError:
                    os.kill(server.process.pid, signal.SIGCONT)

    def other(self, server: Process) -> Process:
        return next(each for each in self.servers if each is not server)

    def ended(self, server: Process, execution_id: str, name: str = "job") -> Any:
        """Wait until an execution has ended, and return it."""
        found = {}

        def has_ended() -> bool:
            found.update(server.get(f"/{name}/executions/{execution_id}").json())
            return found["status"] in ("completed", "failed", "canceled")

        eventually(has_ended, "its end", 60)
        return found


@pytest.fixture(scope="module")
def instance() -> Iterator[postgres.Postgres]:
    with postgres.running() as instance:
        yield instance


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(tmp_path, stack)


@pytest.fixture(params=["sqlite", "postgres"])
def any_cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    url = request.getfixturevalue("instance").database() if request.param == "postgres" else ""
    with ExitStack() as stack:
        yield Cluster(tmp_path, stack, url)


@pytest.mark.parametrize("kind", ["steps", "pipeline", "pipeline_async"])
def test_another_server_goes_on_where_one_was_killed(cluster: Cluster, kind: str):
    server = cluster.start()
    cluster.start()
    execution_id = cluster.order(server, kind=kind, names=STEPS)

    holder = cluster.who_holds()
    survivor = cluster.other(holder)
    holder.process.kill()
    cluster.gate.touch()
    execution = cluster.ended(survivor, execution_id)

    assert (execution["status"], execution["error"]) == ("completed", None)
    assert execution["result"] == {"done": STEPS, "attempt": 2}
    assert [name for _, name in cluster.noted()] == ["one", "two", "held", "held", "four"]  # the done ones once
    assert [each["outcome"] for each in execution["attempts"]] == [None, "completed"]


def test_who_watches_sees_the_end_after_a_kill_and_a_restart(cluster: Cluster):
    server = cluster.start()
    execution_id = cluster.order(server, kind="steps", names=["one", "held"])
    command = [HAYHOOKS, "executions", "watch", execution_id, "--port", str(server.port)]
    told, result = cluster.path / "told", cluster.path / "result"
    with (
        told.open("w") as err,
        result.open("w") as out,
        popen(command, cwd=cluster.path, env=environment(), stdout=out, stderr=err) as watching,
    ):
        eventually(lambda: "running" in told.read_text(), "the stream to begin")
        cluster.who_holds().process.kill()
        eventually(lambda: "waiting for the server" in told.read_text(), "the end of the server to be noticed")
        cluster.gate.touch()
        cluster.start(port=server.port)  # type: ignore[arg-type]
        assert watching.wait(60) == 0, told.read_text()

    assert json.loads(result.read_text()) == {"done": ["one", "held"], "attempt": 2}


def test_what_was_ordered_before_a_kill_runs_after_the_next_start(any_cluster: Cluster):
    server = any_cluster.start()
    held = any_cluster.order(server, kind="steps", names=["held"])
    queued = any_cluster.order(server, kind="steps", names=["one"])  # one runs at a time
    any_cluster.who_holds().process.kill()
    any_cluster.gate.touch()

    again = any_cluster.start()

    assert any_cluster.ended(again, held)["result"] == {"done": ["held"], "attempt": 2}
    assert any_cluster.ended(again, queued)["result"] == {"done": ["one"], "attempt": 1}


def test_a_server_that_stops_hands_over(any_cluster: Cluster):
    server = any_cluster.start(DURABLE_GRACE="0")
    any_cluster.start(DURABLE_GRACE="0")
    execution_id = any_cluster.order(server, kind="sleeps")
    holder = any_cluster.who_holds()
    survivor = any_cluster.other(holder)

    assert holder.stop(signal.SIGTERM) == 0
    eventually(lambda: [name for _, name in any_cluster.noted()] == ["sleeps", "sleeps"], "the other one to go on")
    canceled = survivor.post(f"/job/executions/{execution_id}/cancel", {})
    execution = any_cluster.ended(survivor, execution_id)

    assert canceled.status_code == 202
    assert [each["outcome"] for each in execution["attempts"]] == ["handed back", "canceled"]


@pytest.mark.slow
def test_what_kills_its_process_fails_after_three_attempts(cluster: Cluster):
    server = cluster.start(WORKERS="2")
    execution_id = cluster.order(server, kind="dies")

    def result() -> Any:
        try:
            return server.get(f"/job/executions/{execution_id}").json()
        except httpx.TransportError:  # its worker has died
            return {}

    eventually(lambda: result().get("status") == "failed", "the execution to fail", 60)

    assert [name for _, name in cluster.noted()] == ["dies"] * 3
    assert result()["error"]["code"] == "run_attempts_exhausted"
    assert server.process.poll() is None
    assert server.post("/job/run-durable", {"kind": "steps", "names": []}).status_code == 202  # it is not to blame


def test_a_run_in_the_background_goes_on_with_the_component_that_was_killed(cluster: Cluster):
    server = cluster.start()
    cluster.start()
    response = httpx.post(f"{server.url}/job/run", json={"names": []}, headers={"Prefer": "respond-async"}, timeout=30)
    assert (response.status_code, response.headers["preference-applied"]) == (202, "respond-async")
    holder = cluster.who_holds()
    survivor = cluster.other(holder)
    holder.process.kill()
    cluster.gate.touch()
    execution = cluster.ended(survivor, response.json()["execution_id"])

    assert (execution["kind"], execution["result"]) == ("run", STEPS)
    assert [name for _, name in cluster.noted()] == ["one", "two", "held", "held", "four"]


def deploy(cluster: Cluster, name: str) -> Path:
    """Add a wrapper of ``tests/wrappers`` as the deployment "job" of *cluster*."""
    file = cluster.path / "pipelines/job/pipeline_wrapper.py"
    file.write_text(f"LOG, GATE = {str(cluster.log)!r}, {str(cluster.gate)!r}\n{source(name)}")
    return file


def test_what_was_killed_goes_on_on_a_wrapper_that_was_saved_meanwhile(cluster: Cluster):
    file = deploy(cluster, "durable_typed")
    server = cluster.start()
    execution_id = cluster.order(server, text="said")
    cluster.who_holds().process.kill()
    file.write_text(file.read_text() + "\n# another revision\n")
    cluster.gate.touch()

    execution = cluster.ended(cluster.start(), execution_id)

    assert (execution["error"], execution["result"]) == (None, ["said one two held four"])
    assert [name for _, name in cluster.noted()] == ["one", "two", "held", "held", "four"]


@pytest.mark.parametrize("kind", ["run-durable", "run", "response"])
def test_an_agent_that_was_killed_goes_on_after_its_last_tool(cluster: Cluster, kind: str):
    deploy(cluster, "durable_agent")
    server = cluster.start()
    path, body, headers = {
        "run-durable": ("/job/run-durable", {"text": "go"}, {}),
        "run": ("/job/run", {"text": "go"}, {"Prefer": "respond-async"}),
        "response": ("/v1/responses", {"model": "job", "input": "go", "background": True}, {}),
    }[kind]
    order = httpx.post(server.url + path, json=body, headers=headers, timeout=30).json()
    cluster.who_holds().process.kill()
    cluster.gate.touch()

    again = cluster.start()
    execution = cluster.ended(again, order["id"].removeprefix("resp_") if kind == "response" else order["execution_id"])

    assert execution["error"] is None
    if kind == "response":
        assert again.get(f"/v1/responses/{order['id']}").json()["output"][0]["content"][0]["text"] == "a b"
    else:
        assert execution["result"] == {"text": "a b", "attempt": 2} if kind == "run-durable" else "a b"
    assert [name for _, name in cluster.noted()] == ["model", "a", "model", "b", "held", "held"]


YAML = """
components:
  one: {type: noting.Note, init_parameters: {name: one}}
  two: {type: noting.Note, init_parameters: {name: two}}
  held: {type: noting.Note, init_parameters: {name: held}}
  four: {type: noting.Note, init_parameters: {name: four}}
connections:
- {sender: one.words, receiver: two.words}
- {sender: two.words, receiver: held.words}
- {sender: held.words, receiver: four.words}
inputs: {words: one.words}
outputs: {words: four.words}
"""

NOTING = """
import os, time
from haystack import component

@component
class Note:
    def __init__(self, name: str):
        self.name = name

    @component.output_types(words=list[str])
    def run(self, words: list[str]):
        with open(LOG, "a") as file:
            file.write(f"{os.getpid()} {self.name}\\n")
        while self.name == "held" and not os.path.exists(GATE):
            time.sleep(0.02)
        return {"words": [*words, self.name]}
"""


def test_a_yaml_pipeline_in_the_background_goes_on_with_the_component_that_was_killed(cluster: Cluster):
    library = cluster.path / "library"
    library.mkdir()
    (library / "noting.py").write_text(f"LOG, GATE = {str(cluster.log)!r}, {str(cluster.gate)!r}\n{NOTING}")
    (cluster.path / "pipelines/words.yml").write_text(YAML)
    server = cluster.start(ADDITIONAL_PYTHON_PATH=str(library))
    order = httpx.post(f"{server.url}/words/run", json={"words": []}, headers={"Prefer": "respond-async"}, timeout=30)
    assert order.status_code == 202, order.text
    cluster.who_holds().process.kill()
    cluster.gate.touch()

    again = cluster.start(ADDITIONAL_PYTHON_PATH=str(library))
    execution = cluster.ended(again, order.json()["execution_id"], "words")

    assert (execution["error"], execution["result"]) == (None, {"four": {"words": ["one", "two", "held", "four"]}})
    assert [name for _, name in cluster.noted()] == ["one", "two", "held", "held", "four"]


def save(cluster: Cluster, old: str, new: str) -> None:
    file = cluster.path / "pipelines/job/pipeline_wrapper.py"
    replace(file, file.read_text().replace(old, new))


def test_what_outlives_the_drain_of_its_revision_goes_on_on_the_new_one(cluster: Cluster):
    server = cluster.start(DRAIN_TIMEOUT="1", TRIAL_SECONDS="0")
    execution_id = cluster.order(server, kind="sleeps")
    cluster.who_holds()
    save(cluster, "class Work", "# saved\n\n\nclass Work")
    eventually(lambda: [name for _, name in cluster.noted()] == ["sleeps", "sleeps"], "the next attempt", 60)
    server.post(f"/job/executions/{execution_id}/cancel", {})
    execution = cluster.ended(server, execution_id)

    assert [each["outcome"] for each in execution["attempts"]] == ["again", "canceled"]
    assert len({each["revision"] for each in execution["attempts"]}) == 2


def test_an_order_that_the_model_no_longer_takes_fails(cluster: Cluster):
    server = cluster.start()
    held = cluster.order(server, kind="steps", names=["held"])
    cluster.who_holds()
    queued = cluster.order(server, kind="steps", names=["one"])  # one runs at a time
    revision = server.get("/status/job").json()["revision"]
    save(cluster, "    kind: str", "    kind: int")
    eventually(lambda: server.get("/status/job").json()["revision"] != revision, "the new revision", 60)
    cluster.gate.touch()

    assert cluster.ended(server, held)["status"] == "completed"  # on its revision
    assert cluster.ended(server, queued)["error"]["code"] == "input_incompatible"
    assert [name for _, name in cluster.noted()] == ["held"]


def test_a_process_that_only_seems_dead_cannot_write(cluster: Cluster):
    server = cluster.start()
    cluster.start()
    execution_id = cluster.order(server, kind="steps", names=STEPS)
    holder = cluster.who_holds()
    with closing(sqlite3.connect(cluster.path / "state/durable.sqlite")) as database:
        ((executor,),) = database.execute(
            "SELECT executor_id FROM workflow_status WHERE workflow_uuid = ?", (f"job~{execution_id}",)
        )
    cluster.freeze(holder)  # else it might take over itself what it has lost
    (cluster.path / "state/durable.sqlite.alive" / executor).unlink()  # by which the others know that it lives
    eventually(lambda: [name for _, name in cluster.noted()].count("held") == 2, "the other one to take it over", 60)
    os.kill(holder.process.pid, signal.SIGCONT)
    cluster.gate.touch()
    execution = cluster.ended(cluster.other(holder), execution_id)

    assert execution["result"] == {"done": STEPS, "attempt": 2}
    assert [name for _, name in cluster.noted()] == ["one", "two", "held", "held", "four"]  # nobody did it twice
    assert holder.get("/healthz").status_code == 200
