"""Several processes that serve one directory."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.processes import Process, hayhooks, started
from tests.faults.traffic import write
from tests.live_server import eventually


def workers(server: Process) -> list[dict[str, object]]:
    found: list[dict[str, object]] = server.get("/status").json()["workers"]
    return found


def agree(server: Process, count: int = 3) -> bool:
    found = workers(server)
    return len(found) == count and len({worker["revision"] for worker in found}) == 1 and all(w["ready"] for w in found)


@pytest.mark.slow
def test_all_workers_serve_the_same_and_one_that_dies_is_replaced(tmp_path: Path):
    write(tmp_path / "pipelines/app", 10)
    with started(tmp_path, "run", "--workers", "3") as server:
        eventually(lambda: agree(server), "three workers that serve the same", 60)
        first = workers(server)[0]["revision"]
        write(tmp_path / "pipelines/app", 11)
        eventually(lambda: workers(server)[0]["revision"] != first and agree(server))
        answers = [server.post("/app/run", {}).json()["result"] for _ in range(10)]
        assert answers == [[11, 11, 11]] * 10

        dead = workers(server)[0]["pid"]
        assert isinstance(dead, int)
        os.kill(dead, signal.SIGKILL)

        eventually(lambda: dead not in [worker["pid"] for worker in workers(server)] and agree(server), "a new one", 60)
        assert [server.post("/app/run", {}).json()["result"] for _ in range(10)] == [[11, 11, 11]] * 10
        assert server.stop() == 0


@pytest.mark.slow
def test_the_command_line_says_when_workers_differ(tmp_path: Path):
    """One worker cannot load what the other can: it serves an older revision."""
    choosy = "import os\nif os.path.exists(TAKEN): raise RuntimeError('only the first')\nopen(TAKEN, 'x').close()\n"
    write(tmp_path / "pipelines/app", 10)
    with started(tmp_path, "run", "--workers", "2") as server:
        port = str(server.port)

        def same() -> bool:  # the two start with nothing, which is the same, and load at different moments
            told = hayhooks("status", "--port", port, cwd=tmp_path)
            return (told.returncode, "do not serve the same" in told.stdout, "app" in told.stdout) == (0, False, True)

        eventually(lambda: len(workers(server)) == 2 and same(), "both to serve the same", 60)
        head = f"TAKEN = {str(tmp_path / 'taken')!r}\n{choosy}"
        (tmp_path / "pipelines/app/pipeline_wrapper.py").write_text(
            head + (tmp_path / "pipelines/app/pipeline_wrapper.py").read_text()
        )
        eventually(lambda: len({worker["revision"] for worker in workers(server)}) == 2)

        differ = hayhooks("status", "--port", str(server.port), cwd=tmp_path)

        assert "The workers do not serve the same" in differ.stdout
        assert differ.returncode == 2
        told = json.loads(hayhooks("status", "--json", "--port", str(server.port), cwd=tmp_path).stdout)
        assert len(told["workers"]) == 2


ANSWERS = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self):
        return {answer}
"""


@pytest.mark.slow
def test_all_workers_follow_the_first_that_rolls_back_and_so_does_one_that_starts(tmp_path: Path):
    file = tmp_path / "pipelines/app/pipeline_wrapper.py"
    file.parent.mkdir(parents=True)
    file.write_text(ANSWERS.format(answer="1"))
    with started(tmp_path, "run", "--workers", "3") as server:
        eventually(lambda: agree(server), "three workers that serve the same", 60)
        first = workers(server)[0]["revision"]
        file.write_text(ANSWERS.format(answer="{}['missing']"))
        eventually(lambda: workers(server)[0]["revision"] != first and agree(server))

        with server.client() as client:  # one connection, so one worker
            answers = [client.post("/app/run", json={}).status_code for _ in range(5)]
        assert answers == [500] * 5
        eventually(lambda: agree(server) and workers(server)[0]["revision"] == first)

        def is_told() -> bool:
            """Whether any worker tells it; one says what it serves to the others before its own requests get that."""
            entries = [server.get("/status").json()["deployments"][0] for _ in range(10)]
            why = "rolled back after 5 of 5 requests failed: KeyError: 'missing'"
            return all(entry["state"] == "stale" and why in entry["error"] for entry in entries)

        eventually(is_told)

        dead = workers(server)[0]["pid"]
        assert isinstance(dead, int)
        os.kill(dead, signal.SIGKILL)
        eventually(lambda: dead not in [each["pid"] for each in workers(server)] and agree(server), "a new one", 60)
        assert [server.post("/app/run", {}).json()["result"] for _ in range(20)] == [1] * 20

        file.write_text(ANSWERS.format(answer="3"))
        eventually(lambda: agree(server) and workers(server)[0]["revision"] != first)
        assert [server.post("/app/run", {}).json()["result"] for _ in range(10)] == [3] * 10
        assert {server.get("/status").json()["deployments"][0]["state"] for _ in range(10)} == {"serving"}


@pytest.mark.slow
def test_a_canary_is_that_of_all_workers_and_outlives_them(tmp_path: Path):
    file = tmp_path / "pipelines/app/pipeline_wrapper.py"
    file.parent.mkdir(parents=True)
    file.write_text(ANSWERS.format(answer="1"))
    state: Any = {"STATE_DIR": str(tmp_path / "state")}
    with started(tmp_path, "run", "--workers", "2", CANARY="50%", **state) as server:
        eventually(lambda: agree(server, 2), "two workers that serve the same", 60)
        first = server.get("/status").json()["deployments"][0]["revision"]
        file.write_text(ANSWERS.format(answer="2"))

        def canary() -> str | None:
            """The canary, if all workers have it."""
            entry = server.get("/status").json()["deployments"][0]
            return entry["canary"] if agree(server, 2) and entry["revision"] == first else None

        def answers() -> dict[str, set[int]]:
            """What each session gets, from new connections and so from any worker."""
            sessions = [f"s{number}" for number in range(8)]
            return {session: {ask(server, {"X-Hayhooks-Session": session}) for _ in range(4)} for session in sessions}

        second = eventually(canary)
        before = answers()
        assert all(len(each) == 1 for each in before.values())
        assert set.union(*before.values()) == {1, 2}

        dead = min(pids(server))
        os.kill(dead, signal.SIGKILL)
        eventually(lambda: dead not in pids(server) and canary() == second, "another", 60)
        others = pids(server)
        assert answers() == before
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: not others & pids(server) and canary(), "new workers", 60)
        assert answers() == before

        done = hayhooks("pipeline", "promote", "app", "--port", str(server.port), cwd=tmp_path, **state)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"Revision {second} of app gets all requests." in done.stdout
        assert set.union(*answers().values()) == {2}


def pids(server: Process) -> set[int]:
    return {int(str(worker["pid"])) for worker in workers(server)}


def ask(server: Process, headers: dict[str, str]) -> int:
    return int(httpx.post(f"{server.url}/app/run", json={}, headers=headers).raise_for_status().json()["result"])
