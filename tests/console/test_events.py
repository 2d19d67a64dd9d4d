"""``/events``: what is sent, to whom, and what nobody pays for."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hayhooks import create_app
from hayhooks.settings import Settings
from tests.cli.processes import started
from tests.live_server import LiveServer, eventually, replace, serving
from tests.wrappers import source

BROKEN = "from hayhooks import BasePipelineWrapper\n\nraise KeyError('no key')\n"


class Reader:
    """Reads ``/events`` as a client does: one event after the other."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()
        self.last_id = ""

    def next(self) -> tuple[str, dict[str, Any]]:
        """The next event's type and data."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if not line and "data" in fields:
                self.last_id = fields["id"]
                return fields["event"], json.loads(fields["data"])
            name, _, value = line.partition(": ")
            fields[name] = value
        raise EOFError

    def next_of(self, type_: str) -> dict[str, Any]:
        """The data of the next event of that type."""
        while True:
            found, data = self.next()
            if found == type_:
                return data


@contextmanager
def follow(url: str, last_id: str = "", **params: str) -> Iterator[Reader]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with httpx.stream("GET", f"{url}/events", params=params, headers=headers, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Reader(response)


def test_each_change_is_an_event(server: LiveServer):
    with follow(server.url) as events:
        assert events.next()[0] == "reset"
        server.write("echo")
        loading = events.next_of("loading")
        deployed = events.next_of("deployed")
        server.write("echo", BROKEN)
        failed = events.next_of("failed")
        server.write("echo")
        restored = events.next_of("restored")
        server.remove("echo")
        undeployed = events.next_of("undeployed")

    assert loading["name"] == undeployed["name"] == "echo"
    assert loading["revision"] == deployed["revision"] == failed["serving"] == restored["revision"]
    assert deployed["took_ms"] > 0
    assert failed["error"] == "KeyError: 'no key'"
    assert failed["files"] == ["pipeline_wrapper.py"]
    assert failed["place"]["line"] == 3
    assert failed["place"]["source"] == [
        [1, "from hayhooks import BasePipelineWrapper"],
        [2, ""],
        [3, "raise KeyError('no key')"],
    ]


def test_a_request_is_an_event_after_its_last_byte(server: LiveServer):
    server.serve("echo", ANSWER="echo ")
    with follow(server.url, types="request") as events:
        events.next_of("reset")
        answer = httpx.post(f"{server.url}/echo/run", json={"text": "x"})
        request = events.next_of("request")

    assert request["id"] == answer.headers["x-request-id"]
    assert (request["pipeline"], request["status"], request["endpoint"]) == ("echo", 200, "/{name}/run")
    assert request["revision"] == answer.headers["x-hayhooks-revision"]
    assert request["took_ms"] > 0


def test_a_client_that_was_away_gets_what_it_missed(server: LiveServer):
    server.serve("echo", ANSWER="echo ")
    with follow(server.url) as events:
        events.next_of("reset")
        server.run("echo", text="x")
        events.next_of("request")
    server.run("echo", text="y")
    server.serve("other")
    with follow(server.url, events.last_id) as events:
        seen = [events.next()[0] for _ in range(3)]

    assert seen[0] == "request"
    assert "reset" not in seen
    assert "loading" in seen


@pytest.mark.parametrize("last_id", ["", "none", "0123abcd-3", "-", "x-" + "9" * 5000])
def test_an_unknown_id_begins_with_a_reset(server: LiveServer, last_id: str):
    with follow(server.url, last_id) as events:
        type_, data = events.next()

    assert (type_, data["generation"]) == ("reset", server.status()["generation"])


def test_an_id_whose_followers_are_forgotten_begins_with_a_reset(server: LiveServer):
    server.serve("echo", ANSWER="echo ")
    with follow(server.url) as events:
        events.next_of("reset")
        first = events.last_id
        log = server.app.state.events
        for number in range(3_000):
            log.append("undeployed", name=str(number), at=0.0)
    with follow(server.url, first) as events:
        assert events.next()[0] == "reset"


def test_head_leaves_the_connection_to_the_next_request(server: LiveServer):
    with httpx.Client(timeout=60) as client:
        assert client.head(f"{server.url}/events").headers["content-type"].startswith("text/event-stream")
        assert client.get(f"{server.url}/healthz").status_code == 200


def test_unknown_types_are_refused(server: LiveServer):
    answer = httpx.get(f"{server.url}/events?types=deployed,deleted")

    assert answer.status_code == 400
    assert "'types' must be among reset, loading" in answer.json()["detail"]


def test_where_nobody_follows_a_request_runs_no_code_of_ours(server: LiveServer):
    hooks = server.app.hooks.on_request_end
    before = list(hooks)
    with follow(server.url) as events, follow(server.url) as others:
        events.next()
        others.next()
        assert len(hooks) == len(before) + 1
    eventually(lambda: not server.app.state.events.followers, "the followers to leave")
    server.app.state.events.ignore_requests()  # which is done a minute later

    assert hooks == before


def test_requests_beyond_a_rate_are_only_counted(server: LiveServer):
    server.serve("echo", ANSWER="echo ")
    with follow(server.url, types="request") as events, httpx.Client() as client:
        events.next()
        for _ in range(3):
            for _ in range(150):
                client.post(f"{server.url}/echo/run", json={"text": "x"})
        seen = [events.next_of("request") for _ in range(100)]

    assert sum(each["skipped"] for each in seen) + len(seen) <= 450


@contextmanager
def filled(server: LiveServer) -> Iterator[None]:
    """Fill what the server holds for a reader that reads nothing, while another reads on."""
    log = server.app.state.events
    with server.connected(receive_buffer=2048) as idle:
        idle.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: log.followers)
        with follow(server.url, types="request") as events:
            events.next_of("reset")
            for _ in range(100):
                for _ in range(100):
                    log.append("undeployed", name="x" * 5_000, at=0.0)
                server.client.get("/docs")
                events.next_of("request")
        yield


def test_a_reader_that_reads_nothing_costs_the_others_nothing(root: Path, logged: list[str]):
    with serving(root, write_timeout=1) as server, filled(server):
        eventually(lambda: not server.app.state.events.followers, "the reader to be disconnected")

    assert any("took no data for 1 s" in line for line in logged)
    assert not any("ERROR" in line for line in logged), logged


def test_a_reader_that_reads_nothing_does_not_delay_the_stop(root: Path, logged: list[str]):
    with ExitStack() as stack:
        with serving(root, write_timeout=60) as server:
            stack.enter_context(filled(server))
            began_at = time.monotonic()
            server.app.begin_stop()  # as the signal handler does
        assert time.monotonic() - began_at < 8  # of the 10 s that a stop may take

    assert any("its client took nothing, and the server stops" in line for line in logged)
    assert not any("ERROR" in line for line in logged), logged


def test_each_worker_tells_of_each_change_and_knows_its_own_ids(tmp_path: Path):
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", source("echo"))
    with started(tmp_path, "run", "--workers", "2") as server, ExitStack() as stack:
        readers: dict[str, Reader] = {}  # by worker

        def reads_both() -> bool:
            events = stack.enter_context(follow(server.url))
            events.next_of("reset")
            readers.setdefault(events.last_id.partition("-")[0], events)
            return len(readers) == 2

        eventually(reads_both)
        replace(tmp_path / "pipelines/late/pipeline_wrapper.py", source("echo"))
        for events in readers.values():
            while events.next_of("deployed")["name"] != "late":  # a worker may not have loaded echo before
                pass
        mine, _, _ = (last_id := next(iter(readers.values())).last_id).partition("-")
        seen: set[tuple[bool, bool]] = set()
        for number in range(6):  # whichever worker answers
            replace(tmp_path / "pipelines/late/pipeline_wrapper.py", f"{source('echo')}# {number}\n")
            with follow(server.url, last_id) as events:
                type_, _ = events.next()
                seen.add((events.last_id.partition("-")[0] == mine, type_ == "reset"))
        assert seen <= {(True, False), (False, True)}


def test_followers_end_when_the_server_stops(tmp_path):
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", source("echo"))
    with started(tmp_path, "run", GRACEFUL_SHUTDOWN_TIMEOUT="30") as server, follow(server.url) as events:
        events.next()

        assert server.stop() == 0
        with pytest.raises(EOFError):
            events.next()
        assert "Exited while" not in server.output()


def test_an_application_that_is_started_again_notes_no_requests_for_the_log_before(tmp_path: Path):
    app = create_app(Settings(pipelines_dir=tmp_path))
    before = list(app.hooks.on_request_end)

    async def follow_once() -> None:
        async with app.router.lifespan_context(app):
            with app.state.events.followed():
                assert len(app.hooks.on_request_end) > len(before)

    asyncio.run(follow_once())
    assert app.hooks.on_request_end == before
