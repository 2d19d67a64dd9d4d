"""Canaries met at the wrong moment, with odd marks and limits; none of it takes away what serves."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from hayhooks import Settings, create_app
from hayhooks.kernel.revision_store import RevisionStore
from tests.cli.commands import hayhooks, pipeline
from tests.faults.traffic import write
from tests.kernel.test_canary import Tried, saved
from tests.live_server import LiveServer, again, eventually, serving

LIMITED = """
import asyncio
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    canary = 0.5
    request_timeout = TIMEOUT_S
    concurrency = CONCURRENCY
    queue_size = 0

    def setup(self): pass

    async def run_chat_completion_async(self, model, messages, body):
        await asyncio.sleep(DELAY_S)
        return str(VERSION)
"""


class Commands:
    """A server with a state directory, that serves version 11 of "app", and the commands."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.first = str(eventually(lambda: (state := server.state("app")) and state["revision"]))
        eventually(lambda: saved(server, "app"))

    def __call__(self, *arguments: str):
        server = self.server
        state = str(server.root.parent / "state")
        result = pipeline(*arguments, cwd=server.root.parent, port=str(server.port), STATE_DIR=state)
        assert result.returncode == 0, result.stdout + result.stderr
        return result

    def begin(self, version: int) -> None:
        new = self.server.root.parent / f"new{version}"
        write(new, version)
        self("deploy-files", str(new), "-n", "app", "--overwrite", "--no-check", "--canary", "50%")

    @property
    def serving(self) -> tuple[str, str | None]:
        """What serves, and the canary."""
        state = self.server.state("app")
        return state["revision"], state["canary"]


@pytest.fixture
def commands(root: Path, tmp_path: Path) -> Iterator[Commands]:
    settings = Settings(pipelines_dir=root, state_dir=str(tmp_path / "state"), _env_file=None)
    write(root / "app", 11)
    with serving(root, create_app(settings)) as server:
        yield Commands(server)


def test_a_rollback_ends_a_canary_and_leaves_the_history_as_it_was(commands: Commands):
    commands.begin(12)
    commands("rollback", "app")
    assert commands.serving == (commands.first, None)
    eventually(lambda: [ended for _, ended in saved(commands.server, "app")] == [None, "not promoted"])


def test_a_canary_that_ended_without_a_server_is_listed_so(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        first, second = tried.serve(1), tried.begin(2)
        eventually(lambda: saved(server) == [(second, "canary"), (first, None)])
    tried.write(1)
    with again(root, tmp_path / "state") as server:
        eventually(lambda: saved(server) == [(first, None), (second, "not promoted")])


@pytest.mark.parametrize("how", ["rollback", "deploy"])
def test_files_that_serve_already_are_no_canary(commands: Commands, how: str):
    (commands.server.root / "app/pipeline_wrapper.py").write_text("this is no Python")
    eventually(lambda: commands.server.state("app")["error"])
    commands("rollback", "app") if how == "rollback" else commands.begin(11)
    assert commands.serving == (commands.first, None)
    assert saved(commands.server, "app") == [(commands.first, None)]


@pytest.mark.parametrize("how", ["rollback", "restore"])
def test_what_was_never_promoted_is_not_brought_back(commands: Commands, how: str):
    commands.begin(12)
    commands.begin(13)
    if how == "restore":
        commands("undeploy", "app")
    commands(how, "app")
    assert commands.serving == (commands.first, None)


@pytest.mark.parametrize("kept", [1, 2])
def test_canaries_do_not_push_out_what_serves(root: Path, tmp_path: Path, kept: int):
    with again(root, tmp_path / "state", revisions_kept=kept) as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        for version in range(2, 5):
            tried.begin(version)
    server.write("it", "this is no Python")
    with again(root, tmp_path / "state") as server:
        eventually(lambda: (state := server.state("it")) and state["state"] == "stale")
        assert server.state("it")["revision"] == first


def test_a_canary_that_was_put_back_leaves_the_history_as_it_was(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        second = tried.begin(2, share=1, fails=True)
        tried.ask(5)
        eventually(lambda: saved(server) == [(first, None), (second, "rolled back")])


def test_a_first_revision_is_told_to_be_no_canary(commands: Commands):
    new = commands.server.root.parent / "new"
    write(new, 12)
    result = commands("deploy-files", str(new), "-n", "other", "--no-check", "--canary", "10%")
    assert "It is no canary, and gets all requests: the files are those that serve already, or nothing" in result.stderr


def test_a_share_that_was_asked_for_a_deploy_that_failed_is_forgotten(commands: Commands):
    new = commands.server.root.parent / "new"
    write(new, 12)
    allowed = commands.server.root.parent / "allowed"
    (new / "helper.py").write_text(f"import os\nVERSION = 12\nos.stat({str(allowed)!r})\n")
    deploy = ("deploy-files", str(new), "-n", "app", "--overwrite", "--no-check")
    with pytest.raises(AssertionError, match="No such file"):
        commands(*deploy, "--canary", "50%")
    allowed.touch()
    commands(*deploy)
    assert commands.serving[0] != commands.first


def test_what_was_restored_takes_its_own_place(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state") as server:
        first = Tried(server, tmp_path / "torn").serve(1)
        eventually(lambda: saved(server))
    server.write("it", "this is no Python")
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        eventually(lambda: (state := server.state("it")) and state["state"] == "stale")
        tried.write(1)
        eventually(lambda: server.state("it")["state"] == "serving")
        assert (server.state("it")["revision"], tried.canary()) == (first, None)


def test_one_that_fails_all_of_a_few_requests_is_put_back(root: Path, tmp_path: Path):
    with serving(root, trial_seconds=0, canary_requests=2) as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        tried.begin(2, share=1, fails=True)
        tried.ask(2)
        eventually(lambda: tried.canary() is None)
        assert server.state("it")["revision"] == first


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "5", "", "no number", "\0"])
def test_a_damaged_mark_harms_nothing(root: Path, tmp_path: Path, text: str):
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        first, second = tried.serve(1), tried.begin(2)
        eventually(lambda: len(saved(server)) == 2)
        (mark,) = (tmp_path / "state").glob("names/*/.*-canary")
        mark.write_text(text)
    with again(root, tmp_path / "state") as server:
        eventually(lambda: (state := server.state("it")) and state["canary"] == second)
        assert server.state("it")["revision"] == first
        assert [each["share"] for each in server.status()["canaries"]] == [0.5]  # the wrapper's


def test_a_state_directory_that_goes_costs_the_marks_alone(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        first, second = tried.serve(1), tried.begin(2)
        eventually(lambda: len(saved(server)) == 2)
        (tmp_path / "state").rename(tmp_path / "gone")
        (tmp_path / "state").write_text("no directory")
        assert set(tried.ask(20)) == {first, second}
        third = tried.begin(3)
        assert set(tried.ask(20)) == {first, third}


def ask(server: LiveServer, text: str) -> tuple[int, str]:
    body = {"messages": [{"role": "user", "content": text}]}
    answer = httpx.post(f"{server.url}/it/chat", json=body, timeout=30)
    return answer.status_code, answer.headers["x-hayhooks-revision"]


def test_a_conversation_has_the_timeout_of_its_revision(root: Path):
    with serving(root, trial_seconds=0) as server:
        server.write("it", LIMITED, timeout_s=0.2, concurrency=0, delay_s=0, version=1)
        first = eventually(lambda: server.state("it")["revision"])
        server.write("it", LIMITED, timeout_s=30, concurrency=0, delay_s=0.4, version=2)
        second = eventually(lambda: server.state("it")["canary"])
        with ThreadPoolExecutor(16) as pool:
            answers = set(pool.map(lambda number: ask(server, f"Number {number}?"), range(16)))
        assert answers == {(200, first), (200, second)}


def test_a_full_canary_refuses_only_its_own_conversations(root: Path):
    with serving(root, trial_seconds=0) as server:
        server.write("it", LIMITED, timeout_s=30, concurrency=0, delay_s=0, version=1)
        first = eventually(lambda: server.state("it")["revision"])
        server.write("it", LIMITED, timeout_s=30, concurrency=1, delay_s=0.5, version=2)
        second = eventually(lambda: server.state("it")["canary"])
        asked = {ask(server, text)[1]: text for text in "abcdef"}
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(ask, server, asked[second])
            eventually(lambda: 'in_flight{pipeline="it"} 1' in server.client.get("/metrics").text)
            assert {ask(server, asked[first]) for _ in range(12)} == {(200, first)}
            assert not running.done()
            assert ask(server, asked[second]) == (503, second)
            assert running.result() == (200, second)


def is_serving(server: LiveServer, revision: str) -> bool:
    return bool(server.state("it")["revision"] == revision)


def test_one_that_has_just_begun_can_be_promoted(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        tried.serve(1)
        for version in range(2, 6):
            new = tried.begin(version)
            (store := RevisionStore(tmp_path / "state", 5)).promote("it", str(store.canary_of("it", new)))
            eventually(partial(is_serving, server, new), deadline_s=5)


def test_a_canary_outlives_the_rollback_of_what_serves_beside_it(root: Path, tmp_path: Path):
    with serving(root, trial_seconds=30) as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        tried.write(2, share=0)
        eventually(lambda: server.run("it") == 2)
        third = tried.begin(3, share=0.001)
        for _ in range(8):
            server.client.post("/it/run", json={"ask": "fail"})
        eventually(partial(is_serving, server, first))
        eventually(lambda: tried.gone() == ["2"])
        assert tried.canary() == third
        outcomes = [each["outcome"] for each in server.client.get("/status/it/revisions").json()["revisions"]]
        assert outcomes.count("canary") == 1


@pytest.mark.parametrize(("share", "said"), [(0.0004, "0.04%"), (1, "100%"), (1 / 3, "33.3%")])
def test_its_share_is_told_as_it_is(root: Path, tmp_path: Path, logged: list[str], share: float, said: str):
    with serving(root) as server:
        tried = Tried(server, tmp_path / "torn")
        tried.serve(1)
        tried.begin(2, share=share)
        assert any(f"as a canary: it gets {said} of the requests" in line for line in logged)
        result = hayhooks("status", cwd=tmp_path, PORT=str(server.port))
        assert f"has got {said} of the requests" in result.stdout


def test_the_trial_after_its_promotion_counts_from_there(root: Path, tmp_path: Path):
    with serving(root, trial_seconds=30, canary_requests=30) as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        second = tried.begin(2, share=1)
        tried.ask(30)
        eventually(partial(is_serving, server, second))
        for _ in range(6):
            server.client.post("/it/run", json={"ask": "fail"})
        eventually(partial(is_serving, server, first))
        assert "rolled back after 5 of 5 requests failed" in server.state("it")["error"]
