"""A canary gets a share of the requests beside the revision that serves; then it gets all of them, or none."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from hayhooks import Settings
from hayhooks.setting_fields import problems
from tests.live_server import LiveServer, again, eventually, serving

TRIED = """
import asyncio
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    canary = SHARE

    def setup(self): pass

    async def run_api_async(self, ask: str = ""):
        await asyncio.sleep(DELAY_S)
        if FAILS or ask == "fail":
            return {}["missing"]
        return VERSION

    async def run_chat_completion_async(self, model, messages, body):
        for word in str(VERSION), " ", "!":
            yield word
            await asyncio.sleep(DELAY_S)

    def teardown(self):
        with open(TORN, "a") as torn:
            torn.write(f"{VERSION} ")
"""


class Tried:
    """A pipeline "it" whose revisions begin as canaries."""

    def __init__(self, server: LiveServer, torn: Path) -> None:
        self.server = server
        self.torn = torn
        torn.touch()

    def write(self, version: int, *, share: float = 0.5, fails: bool = False, delay_s: float = 0.0) -> None:
        values: dict[str, Any] = {
            "version": version,
            "share": share,
            "fails": fails,
            "delay_s": delay_s,
            "torn": str(self.torn),
        }
        self.server.write("it", TRIED, **values)

    def serve(self, version: int) -> str:
        """Serve the first revision; return its id."""
        self.write(version)
        return str(eventually(lambda: (state := self.server.state("it")) and state["revision"]))

    def begin(self, version: int, *, share: float = 0.5, fails: bool = False, delay_s: float = 0.0) -> str:
        """Begin a canary; return its id."""
        before = self.canary()
        self.write(version, share=share, fails=fails, delay_s=delay_s)
        return str(eventually(lambda: self.canary() not in (None, before) and self.canary()))

    def canary(self) -> str | None:
        return self.server.state("it")["canary"]  # type: ignore[no-any-return]

    def ask(self, times: int, **headers: str) -> Counter[str]:
        """Ask several times; return how often each revision has answered, whatever the status."""
        answers = [self.server.client.post("/it/run", json={}, headers=headers) for _ in range(times)]
        return Counter(answer.headers["x-hayhooks-revision"] for answer in answers)

    def chat(self, text: str, path: str = "/v1/chat/completions", **headers: str) -> str:
        """Return which revision answers the second turn of a conversation, if it answers the first one too."""
        messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}]
        turns = [messages, [*messages, {"role": "assistant", "content": "!"}, {"role": "user", "content": "And?"}]]
        answers = [
            self.server.client.post(path, json={"model": "it", "messages": turn}, headers=headers) for turn in turns
        ]
        revisions = {answer.headers["x-hayhooks-revision"] for answer in answers}
        assert len(revisions) == 1
        assert all(answer.headers.get_list("x-hayhooks-revision") == [*revisions] for answer in answers)
        return revisions.pop()

    def gone(self) -> list[str]:
        """The versions that have been torn down."""
        return self.torn.read_text().split()


def saved(server: LiveServer, name: str = "it") -> list[tuple[str, str | None]]:
    """The saved revisions of *name*, the last first, and how each ended."""
    listed = server.client.get(f"/status/{name}/revisions").raise_for_status().json()["saved"]
    return [(each["revision"], each["ended"]) for each in listed]


@pytest.fixture
def tried(root: Path, tmp_path: Path) -> Iterator[Tried]:
    with serving(root, trial_seconds=0, canary_requests=20) as server:
        yield Tried(server, tmp_path / "torn")


def test_a_canary_that_does_as_well_gets_all_requests(tried: Tried, logged: list[str]):
    first = tried.serve(1)
    second = tried.begin(2)
    state = tried.server.state("it")
    assert (state["state"], state["revision"], state["error"]) == ("serving", first, None)
    answers = tried.ask(16)
    assert set(answers) == {first, second}
    (figures,) = tried.server.status()["canaries"]
    assert (figures["name"], figures["share"]) == ("it", 0.5)
    for whose, revision in (("canary", second), ("serving", first)):
        assert figures[whose]["revision"] == revision
        assert figures[whose]["requests"] == answers[revision]
        assert figures[whose]["failed"] == 0
        assert figures[whose]["p95_ms"] > 0
    rows = tried.server.client.get("/metrics").text
    assert f'hayhooks_deployment_info{{pipeline="it",revision="{second}",state="canary"}} 1' in rows
    assert tried.gone() == []

    tried.ask(40)
    eventually(lambda: tried.server.state("it")["revision"] == second)
    assert tried.canary() is None
    assert set(tried.ask(10)) == {second}
    eventually(lambda: tried.gone() == ["1"])
    assert any(f"Deployed it {second} as a canary: it gets 50% of the requests" in line for line in logged)
    assert any(f"Promoted it {second}" in line for line in logged)
    outcomes = [each["outcome"] for each in tried.server.client.get("/status/it/revisions").json()["revisions"]]
    assert outcomes == ["deployed", "canary", "deployed"]


def test_after_its_promotion_it_is_on_trial(root: Path, tmp_path: Path):
    with serving(root, trial_seconds=30, canary_requests=5) as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        second = tried.begin(2, share=1)
        tried.ask(5)
        eventually(lambda: server.state("it")["revision"] == second)
        assert [each["why"] for each in server.status()["retired"]] == ["the trial of its successor"]
        for _ in range(20):
            server.client.post("/it/run", json={"ask": "fail"})
        eventually(lambda: server.state("it")["revision"] == first)


def test_one_that_fails_its_requests_is_put_back(tried: Tried, logged: list[str]):
    first = tried.serve(1)
    second = tried.begin(2, fails=True)
    while tried.canary():
        assert set(tried.ask(2)) <= {first, second}
    state = eventually(lambda: (state := tried.server.state("it"))["state"] == "stale" and state)
    assert (state["revision"], state["failed_revision"]) == (first, second)
    assert "rolled back after 5 of 5 requests failed: KeyError: 'missing' at pipeline_wrapper.py:" in state["error"]
    assert set(tried.ask(10)) == {first}
    eventually(lambda: tried.gone() == ["2"])
    assert any(f"Rolled back it {second}; revision {first} keeps serving" in line for line in logged)
    third = tried.begin(3)
    assert tried.server.state("it")["error"] is None
    assert third in tried.ask(20)


def test_one_that_fails_more_than_the_other_at_its_end_is_put_back(root: Path, tmp_path: Path):
    with serving(root, trial_seconds=0, canary_requests=10) as server:
        tried = Tried(server, tmp_path / "torn")
        tried.serve(1)
        second = tried.begin(2, share=1)
        for number in range(10):
            server.client.post("/it/run", json={"ask": "fail" * (number % 5 == 4)})
        eventually(lambda: server.state("it")["state"] == "stale")
        state = server.state("it")
        assert state["failed_revision"] == second
        assert "rolled back: 2 of 10 requests failed, the last by KeyError: 'missing'; revision" in state["error"]


def test_one_that_is_slower_is_put_back(root: Path, tmp_path: Path):
    with serving(root, trial_seconds=0, canary_requests=50) as server:
        tried = Tried(server, tmp_path / "torn")
        tried.serve(1)
        tried.begin(2, delay_s=0.1, share=0.25)  # the other one is to be timed as often at least
        with ThreadPoolExecutor(8) as pool:
            while tried.canary():
                list(pool.map(lambda _: tried.ask(1), range(8)))
        eventually(lambda: "of its" in (tried.server.state("it")["error"] or ""))
        assert "requests took up to" in tried.server.state("it")["error"]
        assert "more than 1.5 times" in tried.server.state("it")["error"]


def test_its_time_ends_however_few_requests_there_were(root: Path, tmp_path: Path, logged: list[str]):
    with serving(root, trial_seconds=0, canary_seconds=1) as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        tried.write(2)  # no `begin`, which must see it in that second
        eventually(lambda: tried.server.state("it")["revision"] != first)
        assert [line for line in logged if "as a canary" in line]
        assert [line for line in logged if "Promoted it" in line]


def test_sessions_and_conversations_stay_on_their_revision(tried: Tried):
    first = tried.serve(1)
    second = tried.begin(2)
    sessions = [tried.ask(2, **{"X-Hayhooks-Session": f"s{number}"}) for number in range(12)]
    assert all(len(answers) == 1 for answers in sessions)
    assert {revision for answers in sessions for revision in answers} == {first, second}
    assert {tried.chat("Hi", **{"X-Hayhooks-Session": f"s{n}"}) for n in range(12)} == {first, second}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/it/chat", "/chat/completions"])
def test_a_conversation_without_a_session_stays_too(root: Path, tmp_path: Path, path: str):
    with serving(root, trial_seconds=0) as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        second = tried.begin(2)
        answers = {f"Number {number}?": tried.chat(f"Number {number}?", path) for number in range(16)}
        assert set(answers.values()) == {first, second}
        for text, revision in answers.items():
            whole = server.client.post(path, json={"model": "it", "messages": [{"role": "user", "content": text}]})
            assert whole.headers["x-hayhooks-revision"] == revision
            version = 1 if revision == first else 2
            assert whole.json()["choices"][0]["message"]["content"] == f"{version} !"
        assert 'hayhooks_requests_in_flight{pipeline="it"} 0' in server.client.get("/metrics").text


def test_responses_stay_too(tried: Tried):
    tried.serve(1)
    tried.begin(2)
    for number in range(8):
        items = [{"role": "user", "content": f"Number {number}?"}]
        turns = [items, [*items, {"role": "assistant", "content": "!"}, {"role": "user", "content": "And?"}]]
        answers = [tried.server.client.post("/v1/responses", json={"model": "it", "input": turn}) for turn in turns]
        assert len({answer.headers["x-hayhooks-revision"] for answer in answers}) == 1, answers[0].text


def test_clients_with_keys_of_their_own_stay(root: Path, tmp_path: Path):
    keys = [f"key-{number}" for number in range(12)]
    with serving(root, trial_seconds=0, api_keys=keys) as server:
        server.client.headers["Authorization"] = "Bearer key-0"
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        second = tried.begin(2)
        answers = [tried.ask(3, Authorization=f"Bearer {key}") for key in keys]
        assert all(len(each) == 1 for each in answers)
        assert {revision for each in answers for revision in each} == {first, second}


def test_a_key_that_all_share_tells_nobody_apart(root: Path, tmp_path: Path):
    with serving(root, trial_seconds=0, api_keys=["one"]) as server:
        server.client.headers["Authorization"] = "Bearer one"
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        assert set(tried.ask(30)) | {tried.begin(2)} == set(tried.ask(30)) | {first}


def test_another_save_takes_its_place(tried: Tried):
    first = tried.serve(1)
    tried.begin(2)
    third = tried.begin(3)
    eventually(lambda: tried.gone() == ["2"])
    assert set(tried.ask(20)) == {first, third}


def test_a_broken_save_takes_nothing_away(tried: Tried):
    first = tried.serve(1)
    second = tried.begin(2)
    tried.server.write("it", "this is no Python")
    eventually(lambda: tried.server.state("it")["error"])
    assert tried.canary() == second
    assert set(tried.ask(12)) == {first, second}
    tried.write(2)
    eventually(lambda: tried.server.state("it")["error"] is None)
    assert tried.canary() == second
    assert tried.gone() == []


def test_a_save_that_takes_it_back_ends_it(tried: Tried):
    first = tried.serve(1)
    tried.begin(2)
    tried.write(1)
    eventually(lambda: tried.canary() is None)
    eventually(lambda: tried.gone() == ["2"])
    assert set(tried.ask(10)) == {first}


def test_a_removed_pipeline_goes_with_its_canary(tried: Tried):
    tried.serve(1)
    tried.begin(2)
    tried.server.remove("it")
    eventually(lambda: sorted(tried.gone()) == ["1", "2"])


def test_a_server_that_stops_tears_both_down(root: Path, tmp_path: Path):
    with serving(root) as server:
        tried = Tried(server, tmp_path / "torn")
        tried.serve(1)
        tried.begin(2)
    assert sorted(tried.gone()) == ["1", "2"]


def test_the_setting_is_for_all_and_a_wrapper_can_do_without(root: Path, tmp_path: Path):
    with serving(root, trial_seconds=0, canary=0.5) as server:
        tried = Tried(server, tmp_path / "torn")
        tried.serve(1)
        tried.write(2, share=0)
        eventually(lambda: server.run("it") == 2)
        assert tried.canary() is None
        server.serve("other")
        server.write("other", version=2)
        eventually(lambda: server.state("other")["canary"])


@pytest.mark.parametrize("share", [1.5, -0.1, "110%", True, [0.1]])
def test_what_is_no_share_is_refused(tried: Tried, share: object):
    tried.server.write("it", TRIED, share=share)
    state = eventually(lambda: (state := tried.server.state("it")) and state["error"] and state)
    assert f"canary of the wrapper is {share!r}: it must be a share of the requests, from 0 to 1" in state["error"]


@pytest.mark.parametrize(("text", "share"), [("0.1", 0.1), ("10%", 0.1), ("0", 0), ("100 %", 1)])
def test_the_setting_takes_percentages(monkeypatch: pytest.MonkeyPatch, text: str, share: float):
    monkeypatch.setenv("HAYHOOKS_CANARY", text)
    assert Settings(_env_file=None).canary == share


@pytest.mark.parametrize("text", ["1.1", "110%", "half", "nan", "-1", ""])
def test_a_wrong_setting_says_what_it_accepts(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv("HAYHOOKS_CANARY", text)
    with pytest.raises(ValidationError) as raised:
        Settings(_env_file=None)
    wanted = f"HAYHOOKS_CANARY={text!r}: must be a share of the requests (from 0 to 1, or a percentage such as 10%)"
    assert problems(Settings, raised.value) == [wanted]


def test_a_restart_goes_on_with_both(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        second = tried.begin(2)
        eventually(lambda: len(saved(server)) == 2)
        assert saved(server) == [(second, "canary"), (first, None)]

    with again(root, tmp_path / "state", canary_requests=20) as server:
        tried = Tried(server, tmp_path / "torn")
        eventually(lambda: (state := server.state("it")) and state["canary"] == second)
        assert (server.state("it")["revision"], server.state("it")["state"]) == (first, "serving")
        assert set(tried.ask(20)) == {first, second}
        tried.ask(40)
        eventually(lambda: server.state("it")["revision"] == second)

    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        eventually(lambda: server.state("it") and server.state("it")["revision"] == second)
        assert tried.canary() is None


def test_one_that_was_replaced_is_no_revision_to_go_back_to(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        second, third = tried.begin(2), tried.begin(3)
        eventually(lambda: saved(server) == [(third, "canary"), (second, "not promoted"), (first, None)])
        tried.write(1)  # what serves
        eventually(lambda: [ended for _, ended in saved(server)] == [None, "not promoted", "not promoted"])
    server.write("it", "this is no Python")
    with again(root, tmp_path / "state") as server:
        eventually(lambda: (state := server.state("it")) and state["state"] == "stale")
        assert server.state("it")["revision"] == first


def test_a_save_while_the_server_was_stopped_begins_as_a_canary(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        eventually(lambda: saved(server))
    tried.write(2)
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        second = eventually(lambda: (state := server.state("it")) and state["canary"])
        assert server.state("it")["revision"] == first
        assert set(tried.ask(20)) == {first, second}


def test_a_request_can_ask_for_either_of_them(tried: Tried):
    first = tried.serve(1)
    second = tried.begin(2, share=0.01)
    for revision in (first, second):
        assert set(tried.ask(4, **{"X-Hayhooks-Revision": revision})) == {revision}
        assert tried.chat("Hi", **{"X-Hayhooks-Revision": revision}) == revision
        assert tried.chat("Hi", "/it/chat", **{"X-Hayhooks-Revision": revision}) == revision
    assert set(tried.ask(4, **{"X-Hayhooks-Revision": "other"})) <= {first, second}


def test_only_requests_that_call_the_wrapper_tell_how_it_does(tried: Tried):
    tried.serve(1)
    canary = tried.begin(2)
    for path in ("schema", "schema", "nothing", "run"):
        tried.server.client.get(f"/it/{path}", headers={"X-Hayhooks-Revision": canary})
    assert set(tried.ask(1, **{"X-Hayhooks-Revision": canary})) == {canary}
    (figures,) = tried.server.status()["canaries"]
    assert figures["canary"]["requests"] == 1


@pytest.mark.parametrize("end", ["promote", "abort"])
def test_its_end_hides_no_failure_of_a_newer_save(root: Path, tmp_path: Path, end: str):
    with again(root, tmp_path / "state", canary_requests=5) as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        second = tried.begin(2, share=1, fails=end == "abort")
        server.write("it", "this is no Python")
        eventually(lambda: server.state("it")["error"])
        error = server.state("it")["error"]
        tried.ask(5)
        eventually(lambda: tried.canary() is None)
        state = server.state("it")
        assert (state["error"], state["state"]) == (error, "stale")
        assert state["revision"] == (second if end == "promote" else first)


def test_the_history_says_what_is_the_last_good_one(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        second = tried.begin(2, share=1, fails=True)
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        eventually(lambda: (state := server.state("it")) and state["canary"])
        tried.ask(5)
        eventually(lambda: saved(server) == [(second, "rolled back"), (first, None)])


def test_a_slip_in_an_option_is_told(server: LiveServer, logged: list[str]):
    server.serve(
        "it", TRIED.replace("canary = SHARE", "canry = 0.1"), version=1, delay_s=0, fails=False, torn="/dev/null"
    )
    wanted = "it: nothing reads canry = 0.1 of PipelineWrapper: did you mean canary?"
    eventually(lambda: any(wanted in line for line in logged))


def test_what_was_rolled_back_is_so_after_a_restart(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        first = tried.serve(1)
        second = tried.begin(2, share=1, fails=True)
        tried.ask(5)
        eventually(lambda: server.state("it")["state"] == "stale")
    for _ in range(2):
        with again(root, tmp_path / "state") as server:
            eventually(lambda: server.state("it") and server.state("it")["error"])
            state = eventually(lambda: (state := server.state("it"))["revision"] and state)
            assert (state["revision"], state["failed_revision"], state["state"]) == (first, second, "stale")
            assert "rolled back after 5 of 5 requests failed" in state["error"]
            assert set(Tried(server, tmp_path / "torn").ask(5)) == {first}
    with again(root, tmp_path / "state") as server:
        tried = Tried(server, tmp_path / "torn")
        eventually(lambda: server.state("it"))
        tried.write(3, share=0)
        eventually(lambda: server.run("it") == 3)


def test_no_request_is_lost_and_streams_end_on_their_revision(root: Path, tmp_path: Path):
    with serving(root, trial_seconds=30, canary_requests=30, canary_slowdown=0) as server:
        tried = Tried(server, tmp_path / "torn")
        tried.serve(1)
        stop = threading.Event()
        answers: list[tuple[int, str, str]] = []

        def load(number: int) -> None:
            with httpx.Client(base_url=server.url, timeout=30) as client:
                while not stop.is_set():
                    body = {"model": "it", "messages": [{"role": "user", "content": f"{len(answers)}"}]}
                    answer = client.post(("/it/chat", "/v1/chat/completions")[number % 2], json=body)
                    text = answer.json()["choices"][0]["message"]["content"]
                    answers.append((answer.status_code, answer.headers["x-hayhooks-revision"], text))

        with ThreadPoolExecutor(8) as pool:
            loads = [pool.submit(load, number) for number in range(8)]
            try:
                eventually(lambda: len(answers) > 20)
                second = tried.begin(2, delay_s=0.005, share=0.3)
                eventually(lambda: tried.server.state("it")["revision"] == second)
                tried.begin(3, share=0.3)
                tried.write(4, share=0)
                eventually(lambda: answers[-1][2] == "4 !")
            finally:
                stop.set()
            for each in loads:
                each.result()  # an error would be a lost request
        assert {status for status, _, _ in answers} == {200}
        texts: dict[str, set[str]] = {}
        for _, revision, text in answers:
            texts.setdefault(revision, set()).add(text)
        assert all(len(each) == 1 for each in texts.values())
