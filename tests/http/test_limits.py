"""How long requests may take, how many a deployment works on, and how many wait."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.live_server import ECHO, LiveServer, eventually, serving
from tests.openai.apis import go_away

OVER = "the pipeline exceeded the request timeout of 0.3 s"

SLOW = """
import asyncio, time
from pathlib import Path
from hayhooks import BasePipelineWrapper, SSEStream


class PipelineWrapper(BasePipelineWrapper):
    request_timeout = TIMEOUT

    def setup(self): pass

    async def run_api_async(self, kind: str = "wait"):
        if kind == "quick":
            return "done"
        if kind == "text":
            return self.words()
        if kind == "sse":
            return SSEStream(self.words())
        return await self.wait()

    async def wait(self):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            Path(CANCELLED).touch()
            raise

    async def words(self):
        yield "began"
        await self.wait()

    async def run_chat_completion_async(self, model, messages, body):
        return self.words() if body.get("stream") else await self.wait()

    async def run_response_async(self, model, input_items, body):
        return self.words() if body.get("stream") else await self.wait()
"""

THREAD = """
import time
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    request_timeout = 0.3
    concurrency = 1
    queue_size = 0

    def setup(self): pass

    def run_api(self, stream: bool = False):
        return self.words() if stream else list(self.words())[0]

    def words(self):
        try:
            while not Path(GATE).exists():
                yield "x"
                time.sleep(0.01)
        finally:
            Path(ENDED).touch()

    def run_chat_completion(self, model, messages, body):
        return "quick"
"""

CHAT = {"model": "it", "messages": [{"role": "user", "content": "x"}], "input": "x"}


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


@pytest.fixture
def cancelled(server: LiveServer, tmp_path: Path) -> Path:
    """What appears when the work of "it" was cancelled, which takes longer than it may."""
    server.serve("it", SLOW, timeout=0.3, cancelled=str(tmp_path / "cancelled"))
    return tmp_path / "cancelled"


# Time


def test_what_takes_too_long_is_cancelled_and_a_504_says_so(server: LiveServer, cancelled: Path):
    response = server.client.post("/it/run", json={})

    assert (response.status_code, response.json()) == (504, {"detail": OVER})
    assert response.headers["x-should-retry"] == "false"
    assert cancelled.exists()
    server.eventually(lambda: server.run("it", kind="quick") == "done")  # on a busy machine it may be too slow too


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/it/chat", "/v1/responses"])
def test_openais_clients_are_told_in_their_shape(server: LiveServer, cancelled: Path, path: str):
    response = server.client.post(path, json=CHAT)

    assert response.status_code == 504
    assert response.json()["error"]["message"] == response.json()["detail"] == OVER
    assert response.json()["error"]["type"] == "server_error"
    assert cancelled.exists()


def test_openais_client_does_not_have_it_done_again(server: LiveServer, cancelled: Path):
    with (
        openai.OpenAI(base_url=server.url + "/v1", api_key="x") as client,
        pytest.raises(openai.InternalServerError, match=r"exceeded the request timeout of 0\.3 s") as raised,
    ):
        client.chat.completions.create(model="it", messages=[{"role": "user", "content": "x"}])

    assert raised.value.status_code == 504


def test_a_chat_stream_that_has_begun_ends_with_an_error_event(server: LiveServer, cancelled: Path):
    text = server.client.post("/v1/chat/completions", json={**CHAT, "stream": True}).text
    events = [event.removeprefix("data: ") for event in text.split("\n\n") if event]

    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["message"] == OVER
    assert "began" in "".join(events)
    assert cancelled.exists()


def test_other_streams_that_have_begun_end_with_an_error_too(server: LiveServer, cancelled: Path):
    assert OVER in server.client.post("/it/run", json={"kind": "sse"}).text.split("\n\n")[1]
    assert "response.failed" in server.client.post("/v1/responses", json={**CHAT, "stream": True}).text
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        server.client.post("/it/run", json={"kind": "text"})


def test_a_thread_that_cannot_be_stopped_keeps_its_lease_and_its_slot(server: LiveServer, tmp_path: Path):
    gate, ended = tmp_path / "gate", tmp_path / "ended"
    server.serve("it", THREAD, gate=str(gate), ended=str(ended))

    assert server.client.post("/it/run", json={}).status_code == 504
    assert [lease.thread for lease in server.app.switch.live.snapshot.deployments["it"].runtime.leases.held] == [
        "run_api"
    ]
    assert server.client.post("/it/chat", json=CHAT).status_code == 503

    gate.touch()
    eventually(lambda: server.client.post("/it/chat", json=CHAT).status_code == 200)


def test_a_sync_generator_stops_at_its_next_item(server: LiveServer, tmp_path: Path):
    server.serve("it", THREAD, gate=str(tmp_path / "gate"), ended=str(tmp_path / "ended"))

    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        server.client.post("/it/run", json={"stream": True})
    eventually((tmp_path / "ended").exists)
    eventually(lambda: server.client.post("/it/chat", json=CHAT).status_code == 200)


def test_who_does_not_listen_is_told_again_and_does_not_hold_the_next(server: LiveServer, tmp_path: Path):
    deaf = SLOW.replace("            raise\n", "            await asyncio.sleep(60)\n")
    server.serve("it", deaf, timeout=0.3, cancelled=str(tmp_path / "cancelled"))
    with server.in_background("/it/run", {}) as answer:
        eventually((tmp_path / "cancelled").exists)
        assert server.run("it", kind="quick") == "done"
        assert answer.result(timeout=30).status_code == 504


@pytest.mark.parametrize(("timeout", "status"), [("None", 504), ("0", 200), ("30.5", 200)])
def test_the_wrapper_wins_over_the_setting(root: Path, tmp_path: Path, timeout: str, status: int):
    source = SLOW.replace("TIMEOUT", timeout).replace("asyncio.sleep(60)", "asyncio.sleep(1.5)")
    with serving(root, request_timeout=1) as server:
        server.serve("it", source, cancelled=str(tmp_path / "cancelled"))
        assert server.client.post("/it/run", json={}).status_code == status


# Number

GATED = """
import asyncio
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        LIMITS
        self.at_a_time = self.highest = 0
        self.order = []

    async def run_api_async(self, number: int = 0):
        if number < 0:
            return [VERSION, self.highest, self.order]
        async for _ in self.work(number):
            pass
        return [VERSION, self.highest, self.order]

    async def work(self, number):
        self.order.append(number)
        self.at_a_time += 1
        self.highest = max(self.highest, self.at_a_time)
        Path(BEGAN, str(number)).touch()
        try:
            yield "began"
            while not Path(BEGAN, f"end{number}").exists() and not Path(BEGAN, "end").exists():
                await asyncio.sleep(0.005)
            yield "ended"
        finally:
            self.at_a_time -= 1

    async def run_chat_completion_async(self, model, messages, body):
        return self.work(body["number"])

    async def run_file_upload(self, filename):
        async for _ in self.work(int(filename)):
            pass
"""


class Gated:
    """A deployment whose requests, numbered, work until they are told to end."""

    def __init__(self, server: LiveServer, path: Path, pool: ThreadPoolExecutor) -> None:
        self.server = server
        self.path = path
        self.pool = pool

    def serve(self, limits: str, version: int = 1) -> None:
        source = GATED.replace("LIMITS", limits or "pass")
        self.server.serve("it", source, began=str(self.path), version=version)

    def ask(self, number: int, *, chat: bool = False) -> "Future[httpx.Response]":
        path, body = ("/v1/chat/completions", CHAT | {"number": number, "stream": True}) if chat else ("/it/run", None)
        body = body or {"number": number}
        return self.pool.submit(httpx.post, self.server.url + path, json=body, timeout=60)

    def begun(self, number: int) -> bool:
        return (self.path / str(number)).exists()

    def waiting(self) -> int:
        slots: Any = self.server.app.switch.live.snapshot.deployments["it"].runtime.slots
        return int(slots._waiting)

    def queue(self, number: int, **kind: bool) -> "Future[httpx.Response]":
        """Ask, and wait until the request waits."""
        before = self.waiting()
        answer = self.ask(number, **kind)
        eventually(lambda: self.waiting() == before + 1)
        return answer

    def end(self, number: int | str = "") -> None:
        (self.path / f"end{number}").touch()


@pytest.fixture
def gated(server: LiveServer, tmp_path: Path) -> Iterator[Gated]:
    began = tmp_path / "began"
    began.mkdir()
    with ThreadPoolExecutor(20) as pool:
        gated = Gated(server, began, pool)
        yield gated
        gated.end()


def test_queued_requests_are_served_in_order(gated: Gated):
    """Requests over the limit wait and are served in the order in which they came."""
    gated.serve("self.concurrency, self.queue_size = 2, 10")
    first = [gated.ask(number) for number in (1, 2)]
    eventually(lambda: gated.begun(1) and gated.begun(2))
    waiting = [gated.queue(number, chat=number % 2 == 0) for number in range(3, 9)]
    gated.end()

    assert all(answer.result().status_code == 200 for answer in [*first, *waiting])
    _, highest, order = gated.server.run("it", number=-1)
    assert highest == 2
    assert order[2:] == [3, 4, 5, 6, 7, 8]


def test_full_queue_is_503_before_the_body(gated: Gated):
    """A full queue is a 503 that says when to come again before the body is read."""
    gated.serve("self.concurrency, self.queue_size = 1, 1")
    one = gated.ask(1)
    eventually(lambda: gated.begun(1))
    two = gated.queue(2)

    run = gated.server.client.post("/it/run", content=iter([b'{"number":', b"3}"]))
    chat = gated.server.client.post("/v1/chat/completions", json=CHAT | {"number": 3, "stream": True})
    file = {"file": ("3", b"x" * 3_000_000)}
    upload = gated.server.client.post("/it/files", files=file, data={"purpose": "x"})
    for response in (run, chat, upload):
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert response.json()["detail"] == (
            "pipeline 'it' is at capacity: 1 requests running, 1 queued (HAYHOOKS_CONCURRENCY, HAYHOOKS_QUEUE_SIZE)"
        )
    assert chat.json()["error"]["type"] == "server_error"
    assert gated.server.client.get("/status/it").status_code == 200
    gated.end()
    assert [answer.result().status_code for answer in (one, two)] == [200, 200]
    assert not gated.begun(3)


def test_a_queue_of_none_refuses_at_once(gated: Gated):
    gated.serve("self.concurrency, self.queue_size = 1, 0")
    gated.ask(1)
    eventually(lambda: gated.begun(1))

    assert gated.server.client.post("/it/run", json={"number": 2}).status_code == 503


def test_who_goes_away_leaves_the_queue(gated: Gated):
    gated.serve("self.concurrency, self.queue_size = 1, 2")
    one = gated.ask(1)
    eventually(lambda: gated.begun(1))
    for path in ("/it/run", "/v1/chat/completions"):
        body = {**CHAT, "number": 2}
        go_away(gated.server, path, body, began=_Waits(gated))  # type: ignore[arg-type]
        eventually(lambda: gated.waiting() == 0)
    three = gated.queue(3)
    gated.end()

    assert [answer.result().status_code for answer in (one, three)] == [200, 200]
    assert not gated.begun(2)


class _Waits:
    """There when somebody waits."""

    def __init__(self, gated: Gated) -> None:
        self._gated = gated

    def exists(self) -> bool:
        return self._gated.waiting() > 0


def test_who_waits_for_too_long_leaves_the_queue(server: LiveServer, tmp_path: Path):
    gate, ended = tmp_path / "gate", tmp_path / "ended"
    server.serve("it", THREAD.replace("queue_size = 0", "queue_size = 1"), gate=str(gate), ended=str(ended))
    try:
        assert server.client.post("/it/run", json={}).status_code == 504  # its thread keeps the only slot

        for _ in range(3):
            answer = server.client.post("/it/chat", json=CHAT)
            assert (answer.status_code, answer.json()["detail"]) == (504, OVER)
    finally:
        gate.touch()
    eventually(lambda: server.client.post("/it/chat", json=CHAT).status_code == 200)


def test_a_stream_keeps_its_slot_to_its_last_byte(gated: Gated):
    gated.serve("self.concurrency = 1")
    body = CHAT | {"number": 1, "stream": True}
    with httpx.stream("POST", gated.server.url + "/v1/chat/completions", json=body, timeout=30) as response:
        pieces = response.iter_text()
        assert "data: " in next(pieces)
        two = gated.queue(2)
        gated.end(1)
        assert "[DONE]" in "".join(pieces)
    eventually(lambda: gated.begun(2))
    gated.end(2)
    assert two.result().status_code == 200


def test_a_stream_that_its_reader_leaves_gives_its_slot_back(gated: Gated):
    gated.serve("self.concurrency = 1")
    body = CHAT | {"number": 1, "stream": True}
    with httpx.stream("POST", gated.server.url + "/v1/chat/completions", json=body, timeout=30) as response:
        next(response.iter_text())
    gated.end(2)

    assert gated.ask(2).result().status_code == 200


def test_those_that_wait_are_served_by_the_revision_that_they_came_to(gated: Gated):
    gated.serve("self.concurrency = 1")
    old = [gated.ask(1)]
    eventually(lambda: gated.begun(1))
    old += [gated.queue(2)]
    gated.serve("self.concurrency = 1", version=2)
    new = gated.ask(3)
    eventually(lambda: gated.begun(3))
    gated.end()

    assert [answer.result().json()["result"][0] for answer in (*old, new)] == [1, 1, 2]


def test_the_settings_say_it_for_wrappers_that_do_not(root: Path, tmp_path: Path):
    with serving(root, concurrency=1, queue_size=0) as server, ThreadPoolExecutor(4) as pool:
        gated = Gated(server, tmp_path, pool)
        gated.serve("")
        one = gated.ask(1)
        eventually(lambda: gated.begun(1))
        assert server.client.post("/it/run", json={"number": 2}).status_code == 503
        gated.end()
        assert one.result().status_code == 200

        gated.serve("self.concurrency = 0", version=2)
        assert server.app.switch.live.snapshot.deployments["it"].runtime.slots is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("request_timeout", "'30s'"),
        ("request_timeout", "-1"),
        ("request_timeout", "float('inf')"),
        ("request_timeout", "float('nan')"),
        ("request_timeout", "True"),
        ("concurrency", "1.5"),
        ("concurrency", "-2"),
        ("queue_size", "'many'"),
        ("queue_size", "[]"),
    ],
)
def test_what_is_no_limit_is_a_failure_that_names_it(server: LiveServer, name: str, value: str):
    server.write("wrong", ECHO.replace("        pass", f"        self.{name} = {value}"), answer="")
    state: Any = server.eventually(lambda: (state := server.state("wrong")) and state["error"] and state)

    assert state["state"] == "failed"
    assert state["error"].startswith(f"{name} of the wrapper is ")
    assert "must be" in state["error"]
