"""``hayhooks pipeline history``, ``diff``, ``rollback`` and ``restore``, with a real server and without."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hayhooks import Settings, create_app
from tests.cli.commands import pipeline
from tests.faults.traffic import write
from tests.live_server import LiveServer, again, serving

YAML = """
components:
  prompt:
    type: haystack.components.builders.prompt_builder.PromptBuilder
    init_parameters: {template: "Q: {{question}}"}
inputs: {question: prompt.question}
"""


@pytest.fixture
def server(root: Path, tmp_path: Path) -> Iterator[LiveServer]:
    """A server with a state directory, that has served the versions 10 and 11 of "app"."""
    settings = Settings(pipelines_dir=root, state_dir=str(tmp_path / "state"), _env_file=None)
    with serving(root, create_app(settings)) as running:
        for version in (10, 11):
            write(root / "app", version)

            running.eventually(partial(serves, running, version))
        running.eventually(lambda: len(saved(running)) == 2, "both to be saved")
        yield running


def serves(server: LiveServer, version: int) -> bool:
    return bool(server.run("app") == [version] * 3)


def saved(server: LiveServer) -> list[dict[str, object]]:
    found: list[dict[str, object]] = server.client.get("/status/app/revisions").raise_for_status().json()["saved"]
    return found


def run(server: LiveServer, *arguments: str):
    state = str(server.root.parent / "state")
    return pipeline(*arguments, cwd=server.root.parent, port=str(server.port), STATE_DIR=state)


def test_history_lists_what_served(server: LiveServer):
    table = run(server, "history", "app")
    listed = json.loads(run(server, "history", "--json").stdout)

    assert [each["ended"] for each in listed] == [None, "replaced"] == [each["ended"] for each in saved(server)]
    assert [each["revision"] for each in listed] == [each["revision"] for each in saved(server)]
    assert listed[0]["revision"] == server.state("app")["revision"]
    assert listed[0]["files"] == ["data/prompt.txt", "helper.py", "pipeline_wrapper.py"]
    assert [line.split()[1] for line in table.stdout.splitlines()[1:]] == [each["revision"] for each in listed]


def test_diff_shows_what_rollback_takes_back(server: LiveServer):
    first = saved(server)[1]["revision"]
    result = run(server, "diff", "app")
    lines = result.stdout.splitlines()

    assert (result.returncode, result.stderr) == (0, "")
    assert f"--- {first}/helper.py" in lines
    assert "-VERSION = 10" in lines
    assert "+VERSION = 11" in lines
    between = run(server, "diff", "app", *(str(each["revision"]) for each in saved(server)))
    assert "+VERSION = 10" in between.stdout.splitlines()
    assert "no difference" in run(server, "diff", "app", str(saved(server)[0]["revision"])).stdout
    assert "No revision 'ffff' of 'app'" in run(server, "diff", "app", "ffff").stderr


def test_rollback_puts_the_bytes_back_and_reports(server: LiveServer):
    result = run(server, "rollback", "app")

    assert (result.returncode, result.stderr) == (0, "")
    assert server.run("app") == [10, 10, 10]
    assert (server.root / "app/helper.py").read_text() == "VERSION = 10\n"
    server.eventually(lambda: saved(server)[0]["revision"] == server.state("app")["revision"])
    assert run(server, "rollback", "app").returncode == 0
    assert server.run("app") == [11, 11, 11]
    audit = [json.loads(line) for line in (server.root.parent / "state/audit.jsonl").read_text().splitlines()]
    assert [(line["what"], line["name"], line["failed"]) for line in audit] == [("rollback", "app", False)] * 2
    assert all(line["who"] and line["at"] for line in audit)


def test_rollback_of_a_broken_folder(server: LiveServer):
    (server.root / "app/helper.py").write_text("def (")
    server.eventually(lambda: server.state("app")["state"] == "stale")

    assert run(server, "rollback", "app").returncode == 0
    assert server.run("app") == [11, 11, 11]
    assert server.state("app")["state"] == "serving"


def test_rollback_replaces_a_link_only_by_force(server: LiveServer, tmp_path: Path):
    (server.root / "app").rename(tmp_path / "elsewhere")
    (server.root / "app").symlink_to(tmp_path / "elsewhere")
    refused = run(server, "rollback", "app")
    assert (refused.returncode, "use --force" in refused.stderr) == (1, True)
    assert run(server, "rollback", "app", "--force").returncode == 0
    assert not (server.root / "app").is_symlink()
    assert (tmp_path / "elsewhere/helper.py").read_text() == "VERSION = 11\n"


def test_restore_brings_back_what_was_removed(server: LiveServer):
    assert "is there: `hayhooks pipeline rollback app" in run(server, "restore", "app").stderr
    removed = run(server, "undeploy", "app", "--purge")
    assert "pipeline restore app" in removed.stdout
    server.eventually(lambda: saved(server)[0]["ended"] == "undeployed")
    assert "`hayhooks pipeline restore app" in run(server, "rollback", "app").stderr
    assert run(server, "restore", "app").returncode == 0
    assert server.run("app") == [11, 11, 11]


def test_without_a_state_directory(tmp_path: Path):
    result = pipeline("history", cwd=tmp_path, STATE_DIR="")
    assert (result.returncode, "HAYHOOKS_STATE_DIR is empty" in result.stderr) == (1, True)
    assert "No revision has been saved" in pipeline("history", cwd=tmp_path, STATE_DIR=str(tmp_path / "no")).stdout


def test_a_revision_that_failed_its_requests_is_not_brought_back(server: LiveServer):
    write(server.root / "app", 12)
    wrapper = server.root / "app/pipeline_wrapper.py"
    wrapper.write_text(wrapper.read_text().replace("return [VERSION", "return [NOBODY, VERSION"))
    failing = server.eventually(lambda: server.client.post("/app/run", json={}).status_code == 500)
    assert failing
    server.eventually(lambda: server.client.post("/app/run", json={}).status_code == 200)
    server.eventually(lambda: [each["ended"] for each in saved(server)][:2] == [None, "rolled back"])
    assert run(server, "rollback", "app").returncode == 0
    assert server.run("app") == [11, 11, 11]


def test_a_yaml_pipeline_is_restored_and_rolled_back(root: Path, tmp_path: Path):
    yaml = root / "ask.yml"
    yaml.write_text(YAML)
    with again(root, tmp_path / "state") as first:
        first.eventually(lambda: first.run("ask", question="why") == {"prompt": {"prompt": "Q: why"}})
    yaml.write_text(YAML.replace("PromptBuilder", "Nobody"))
    with again(root, tmp_path / "state") as second:
        second.eventually(lambda: second.state("ask")["state"] == "stale")
        assert second.run("ask", question="why") == {"prompt": {"prompt": "Q: why"}}
        assert "+    type: haystack.components.builders.prompt_builder.Nobody" in run(second, "diff", "ask").stdout
        assert run(second, "rollback", "ask").returncode == 0
        assert yaml.read_text() == YAML
        assert second.state("ask")["state"] == "serving"


def folder(root: Path, version: int) -> Path:
    """A folder outside of the pipelines directory."""
    write(root.parent / f"new{version}", version)
    return root.parent / f"new{version}"


def begin_canary(server: LiveServer, version: int = 12, share: str = "50%"):
    new = folder(server.root, version)
    return run(server, "deploy-files", str(new), "-n", "app", "--overwrite", "--no-check", "--canary", share)


def test_a_canary_is_deployed_and_promoted(server: LiveServer):
    before = server.state("app")["revision"]
    result = begin_canary(server)
    canary = server.state("app")["canary"]
    assert (result.returncode, result.stderr) == (0, "")
    assert f"As a canary it gets 50% of the requests, revision {before} the others" in result.stdout
    assert "`hayhooks pipeline promote app" in result.stdout
    assert server.state("app")["revision"] == before
    assert {server.run("app")[0] for _ in range(40)} == {11, 12}

    promoted = run(server, "promote", "app")
    assert (promoted.returncode, promoted.stderr) == (0, "")
    assert f"Revision {canary} of app gets all requests." in promoted.stdout
    assert {server.run("app")[0] for _ in range(10)} == {12}
    assert run(server, "promote", "app").returncode == 1
    assert "'app' has no canary" in run(server, "abort", "app").stderr
    audit = [json.loads(line) for line in (server.root.parent / "state/audit.jsonl").read_text().splitlines()]
    assert [(line["what"], line.get("canary"), line.get("revision")) for line in audit] == [
        ("deploy", 0.5, None),
        ("promote", None, canary),
    ]


def test_a_canary_is_aborted(server: LiveServer):
    before = server.state("app")["revision"]
    begin_canary(server)
    result = run(server, "abort", "app")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"gets no requests: revision {before} has them all" in result.stdout
    assert "pipeline rollback app" in result.stdout
    assert "aborted by " in server.state("app")["error"]
    assert {server.run("app")[0] for _ in range(10)} == {11}
    assert run(server, "rollback", "app").returncode == 0
    assert (server.root / "app/helper.py").read_text() == "VERSION = 11\n"
    assert server.state("app")["error"] is None


def test_a_rollback_is_for_all_at_once(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state", canary=0.5) as server:
        write(root / "app", 10)
        server.eventually(lambda: (state := server.state("app")) and state["revision"])
        write(root / "app", 11)
        server.eventually(lambda: server.state("app")["canary"])
        assert run(server, "promote", "app").returncode == 0
        assert run(server, "rollback", "app").returncode == 0
        assert server.state("app")["canary"] is None
        assert server.run("app") == [10, 10, 10]


def test_a_canary_needs_the_state_directory_of_the_server(server: LiveServer):
    new = str(folder(server.root, 12))
    arguments = ("deploy-files", new, "-n", "app", "--overwrite", "--no-check", "--canary")
    for state, why in {"": "HAYHOOKS_STATE_DIR is empty", "/tmp/other": "set HAYHOOKS_STATE_DIR for both"}.items():
        result = pipeline(*arguments, "10%", cwd=server.root.parent, port=str(server.port), STATE_DIR=state)
        assert (result.returncode, why in result.stderr) == (1, True), result.stderr
    wrong = run(server, *arguments, "110%")
    assert (wrong.returncode, "not a share of the requests: from 0 to 1" in wrong.stderr) == (2, True)
    assert server.run("app") == [11, 11, 11]
