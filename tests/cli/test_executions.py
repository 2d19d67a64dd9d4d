"""``hayhooks executions`` against a running server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.cli.commands import hayhooks
from tests.live_server import LiveServer, eventually, serving
from tests.wrappers import source

Executions = Callable[..., "CompletedProcess[str]"]


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    state = str(tmp_path_factory.mktemp("state"))
    with serving(tmp_path_factory.mktemp("pipelines"), state_dir=state, durable_poll_ms=50) as server:
        server.serve("it", source("durable_actions"), gate="/nowhere")
        yield server


@pytest.fixture
def executions(durable: LiveServer, tmp_path: Path) -> Executions:
    port = durable.url.rpartition(":")[2]
    return lambda *arguments: hayhooks("executions", *arguments, "--port", port, cwd=tmp_path)


def order(server: LiveServer, **body: object) -> str:
    execution_id: str = server.client.post("/it/run-durable", json=body).json()["execution_id"]
    return execution_id


def test_a_question_is_found_answered_and_watched(durable: LiveServer, executions: Executions):
    execution_id = order(durable, action="ask", value=4)
    eventually(lambda: execution_id[:12] in executions("list", "--status", "waiting").stdout)
    shown = executions("show", execution_id[:12])
    resumed = executions("resume", execution_id, '{"approved": true}')
    watched = executions("watch", execution_id)

    assert "May I?" in shown.stdout
    assert "progress" in shown.stdout
    # It may have begun, or ended, before the answer.
    assert (resumed.returncode, any(state in resumed.stdout for state in ("queued", "running", "completed"))) == (
        0,
        True,
    )
    assert (watched.returncode, json.loads(watched.stdout)["note"]) == (0, "True True")
    assert json.loads(executions("show", execution_id, "--json").stdout)["status"] == "completed"
    assert [each["execution_id"] for each in json.loads(executions("list", "it", "--json").stdout)] == [execution_id]


def test_a_failure_is_tried_again_and_deleted(durable: LiveServer, executions: Executions):
    execution_id = order(durable, action="fail")
    watched = executions("watch", execution_id)
    again = executions("retry", execution_id)
    executions("watch", execution_id)
    deleted = executions("delete", execution_id)

    assert (watched.returncode, json.loads(watched.stdout)["type"]) == (1, "ValueError")
    assert again.returncode == 0
    assert deleted.stdout == f"Deleted {execution_id}.\n"
    assert executions("show", execution_id).stderr.startswith(f"Error: There is no execution {execution_id!r}")


def test_errors_of_the_server_are_told(durable: LiveServer, executions: Executions):
    execution_id = order(durable, action="ask")
    eventually(lambda: "waiting" in executions("show", execution_id).stdout)

    assert "approved: " in executions("resume", execution_id, '{"approved": "perhaps"}').stderr
    assert (
        executions("delete", execution_id).stderr
        == "Error: only ended executions can be deleted: cancel it first (409)\n"
    )
    assert "is no JSON" in executions("resume", execution_id, "yes").stderr
    assert "canceled" in executions("cancel", execution_id, "--reason", "enough").stdout
    assert executions("list", "nothing").stderr.startswith("Error: ")
