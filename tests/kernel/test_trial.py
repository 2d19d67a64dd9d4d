"""A revision that loads and then fails its requests is rolled back: the one before it serves again."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.live_server import LiveServer, eventually, serving

TRIED = """
from starlette.exceptions import HTTPException
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self, ask: str = ""):
        if ask == "refuse":
            raise HTTPException(409, "not like this")
        if FAILS or ask == "fail":
            return {}["missing"]
        return VERSION

    async def run_chat_completion_async(self, model, messages, body):
        for number in range(3):
            if FAILS and number == 2:
                raise ValueError("breaks off")
            yield f"{VERSION} "

    def teardown(self):
        with open(TORN, "a") as torn:
            torn.write(f"{VERSION} ")
"""


class Tried:
    """A pipeline "it" whose revisions can fail."""

    def __init__(self, server: LiveServer, torn: Path) -> None:
        self.server = server
        self.torn = torn
        torn.touch()

    def save(self, version: int, *, fails: bool = False, code: str = TRIED) -> str:
        """Serve another revision; return its id."""
        self.server.serve("it", code, version=version, fails=fails, torn=str(self.torn))
        return str(self.server.state("it")["revision"])

    def write(self, version: int) -> None:
        self.server.write("it", TRIED, version=version, fails=False, torn=str(self.torn))

    def serves(self, version: int) -> bool:
        return bool(self.server.run("it") == version)

    def ask(self, times: int = 1, **arguments: str) -> list[int]:
        return [self.server.client.post("/it/run", json=arguments).status_code for _ in range(times)]

    def gone(self) -> list[str]:
        """The versions that have been torn down."""
        return self.torn.read_text().split()


@pytest.fixture
def tried(root: Path, tmp_path: Path) -> Iterator[Tried]:
    """A server as ``hayhooks run`` starts it: with a trial of 30 s."""
    with serving(root, trial_seconds=30) as server:
        yield Tried(server, tmp_path / "torn")


def test_a_revision_that_fails_its_requests_is_rolled_back(tried: Tried, logged: list[str]):
    server = tried.server
    first, second = tried.save(1), tried.save(2, fails=True)
    assert tried.ask(4) == [500] * 4
    assert server.state("it")["revision"] == second
    assert tried.ask() == [500]

    state = eventually(lambda: (state := server.state("it"))["state"] == "stale" and state)
    assert (state["revision"], state["failed_revision"]) == (first, second)
    assert server.run("it") == 1
    place = server.root / "it/pipeline_wrapper.py"
    failure = server.client.get("/status/it").json()["failure"]
    line = failure["place"]["line"]
    assert 'return {}["missing"]' in place.read_text().splitlines()[line - 1]
    assert failure["reason"] == (
        f"rolled back after 5 of 5 requests failed: KeyError: 'missing' at pipeline_wrapper.py:{line}"
    )
    assert 'return {}["missing"]' in failure["traceback"]
    assert any(f"Rolled back it {second}; revision {first} serves again" in entry for entry in logged)
    assert 'hayhooks_rollbacks_total{pipeline="it"} 1' in server.client.get("/metrics").text
    newest = server.client.get("/status/it/revisions").json()["revisions"][0]
    assert (newest["outcome"], newest["error"]) == ("failed", failure["reason"])
    eventually(lambda: tried.gone() == ["2"])

    server.eventually(lambda: not server.status()["retired"])
    assert server.state("it")["state"] == "stale"  # the same bytes are not loaded again
    tried.save(3)
    assert server.run("it") == 3
    assert server.state("it")["error"] is None


def test_the_same_bytes_as_before_end_the_failure(tried: Tried):
    first = tried.save(1)
    tried.save(2, fails=True)
    tried.ask(5)
    eventually(lambda: tried.server.state("it")["state"] == "stale")
    tried.write(1)
    state = eventually(lambda: (state := tried.server.state("it"))["state"] == "serving" and state)
    assert (state["revision"], state["error"]) == (first, None)


def test_streams_that_break_off_are_failures(tried: Tried):
    server, message = tried.server, [{"role": "user", "content": "?"}]
    first = tried.save(1)
    tried.save(2, fails=True)
    for _ in range(5):
        body = {"model": "it", "messages": message, "stream": True}
        answer = server.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200
        assert "breaks off" in answer.text
    eventually(lambda: server.state("it")["revision"] == first)
    assert "5 of 5 requests failed: ValueError: breaks off" in server.state("it")["error"]


def test_what_clients_do_wrong_counts_neither_way(tried: Tried):
    server = tried.server
    tried.save(1)
    second = tried.save(2)
    for _ in range(8):
        assert server.client.post("/it/run", json={"ask": 3}).status_code == 422
        assert server.client.post("/it/nothing", json={}).status_code == 404
    assert tried.ask(8, ask="refuse") == [409] * 8
    assert tried.ask(4, ask="fail") == [500] * 4
    assert server.state("it")["revision"] == second
    tried.ask(1, ask="fail")
    eventually(lambda: server.state("it")["state"] == "stale")
    assert "5 of 5" in server.state("it")["error"]


def test_half_of_the_requests_may_fail(tried: Tried):
    tried.save(1)
    second = tried.save(2)
    for _ in range(6):
        assert tried.ask() + tried.ask(ask="fail") == [200, 500]
    assert tried.server.state("it")["revision"] == second
    tried.ask(ask="fail")
    eventually(lambda: "7 of 13" in tried.server.state("it")["error"])


def test_a_revision_that_failed_as_often_is_no_better(tried: Tried):
    tried.save(1, fails=True)
    tried.ask(8)
    second = tried.save(2, fails=True)
    tried.ask(8)
    assert tried.server.state("it")["revision"] == second
    tried.save(3)
    assert tried.server.run("it") == 3


def test_of_two_that_served_in_a_trial_the_better_one_stays(tried: Tried):
    first = tried.save(1)
    tried.save(2, fails=True)
    tried.ask(3)
    tried.save(3, fails=True)  # before the second one was judged
    eventually(lambda: tried.gone() == ["2"])
    tried.ask(5)
    eventually(lambda: tried.server.state("it")["revision"] == first)

    third = tried.save(4)
    tried.ask(3)
    tried.save(5, fails=True)
    eventually(lambda: tried.gone() == ["2", "3", "1"])
    tried.ask(5)
    eventually(lambda: tried.server.state("it")["revision"] == third)


def test_two_revisions_are_in_memory_during_the_trial_and_one_after_it(root: Path, tmp_path: Path):
    with serving(root, trial_seconds=1) as server:
        tried = Tried(server, tmp_path / "torn")
        tried.save(1)
        second = tried.save(2)
        (left,) = server.status()["retired"]
        assert (left["name"], left["why"]) == ("it", "the trial of its successor")
        assert tried.gone() == []
        eventually(lambda: tried.gone() == ["1"])
        server.eventually(lambda: not server.status()["retired"])
        tried.ask(8, ask="fail")
        assert server.state("it")["revision"] == second  # its trial is over


def test_a_wrapper_can_do_without_a_trial(tried: Tried):
    heavy = TRIED.replace("    def setup", "    trial_seconds = 0\n\n    def setup")
    tried.save(1)
    second = tried.save(2, fails=True, code=heavy)
    eventually(lambda: tried.gone() == ["1"])
    tried.ask(8)
    assert tried.server.state("it")["revision"] == second

    tried.server.write("wrong", TRIED.replace("    def setup", "    trial_seconds = -1\n\n    def setup"), version=1)
    eventually(lambda: "trial_seconds of the wrapper is -1" in tried.server.state("wrong")["error"])


def test_what_is_removed_in_its_trial_goes_whole(tried: Tried):
    tried.save(1)
    tried.save(2)
    tried.server.remove("it")
    eventually(lambda: sorted(tried.gone()) == ["1", "2"])


def test_a_server_that_stops_in_a_trial_tears_both_down(root: Path, tmp_path: Path):
    with serving(root, trial_seconds=30) as server:
        tried = Tried(server, tmp_path / "torn")
        tried.save(1)
        tried.save(2)
    assert sorted(tried.gone()) == ["1", "2"]


def test_a_save_while_a_rollback_happens_is_served(tried: Tried):
    with ThreadPoolExecutor(5) as pool:
        for version in range(1, 40, 4):
            tried.save(version)
            tried.save(version + 1, fails=True)
            asked = [pool.submit(tried.ask) for _ in range(8)]  # of which the fifth that fails rolls it back
            tried.write(version + 2)
            eventually(partial(tried.serves, version + 2))
            assert {status for each in asked for status in each.result()} <= {200, 500}
            eventually(lambda: tried.server.state("it")["state"] == "serving")


SLOW = """
import asyncio
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    async def run_api_async(self, number: int):
        await asyncio.sleep(0.01)
        if FAILS:
            raise ValueError("always")
        for _ in range(20):
            yield VERSION
            await asyncio.sleep(0.005)
"""


HANGS = """
import asyncio
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    request_timeout = 0.2

    def setup(self): pass

    async def run_api_async(self):
        await asyncio.sleep(60)
"""


def test_answers_that_take_too_long_are_failures(tried: Tried):
    server = tried.server
    first = tried.save(1)
    tried.save(2, code=HANGS)
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(lambda _: tried.ask(), range(5))) == [[504]] * 5
    eventually(lambda: server.state("it")["revision"] == first)
    assert "5 of 5 requests failed: TimedOutError" in server.state("it")["error"]


def test_clients_that_leave_are_no_failures(tried: Tried):
    tried.save(1)
    second = tried.save(2, code=HANGS.replace("0.2", "30"))

    def six_have_left() -> bool:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{tried.server.url}/it/run", json={}, timeout=0.1)
        return bool(re.search(r'hayhooks_requests_cancelled_total{pipeline="it"} ([6-9]|\d\d)', metrics(tried.server)))

    tried.server.eventually(six_have_left)
    assert tried.server.state("it")["revision"] == second


def metrics(server: LiveServer) -> str:
    return server.client.get("/metrics").text


def test_no_request_is_lost_and_streams_end_on_their_revision(root: Path):
    with serving(root, trial_seconds=30) as server:
        server.serve("it", SLOW, version="1", fails=False)
        stop, answers = threading.Event(), []

        def load(number: int) -> None:
            with httpx.Client(base_url=server.url, timeout=30) as client:
                while not stop.is_set():
                    answer = client.post("/it/run", json={"number": number})
                    answers.append((answer.status_code, answer.headers["x-hayhooks-revision"], answer.text))

        with ThreadPoolExecutor(8) as pool:
            loads = [pool.submit(load, number) for number in range(8)]
            try:
                first = server.state("it")["revision"]
                eventually(lambda: len(answers) > 20)
                for version in "234":
                    server.write("it", SLOW, version=version, fails=version != "4")
                    if version != "4":
                        eventually(lambda: server.state("it")["state"] == "stale")
                        assert server.state("it")["revision"] == first
                eventually(lambda: answers[-1][2] == "4" * 20)
            finally:
                stop.set()
            for each in loads:
                each.result()  # an error would be a lost request
        assert {status for status, _, _ in answers} == {200, 500}
        whole = {(revision, text) for status, revision, text in answers if status == 200}
        assert {text for _, text in whole} == {"1" * 20, "4" * 20}
        assert len(whole) == 2  # each text is of one revision
