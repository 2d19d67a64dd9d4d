"""What a server writes, as text or as JSON: of itself, of wrappers, of other loggers, of requests."""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from hayhooks.observability.access_log import AccessLog, as_text
from hayhooks.observability.log import TEXT, log, printable
from hayhooks.observability.log_writer import LogWriter
from hayhooks.observability.request_record import RequestRecord
from tests.cli.processes import Process, started
from tests.live_server import ECHO, LiveServer, eventually, replace

TALKS = """
import logging
from pathlib import Path
from hayhooks import BasePipelineWrapper, log


class Odd:
    def __str__(self):
        raise RuntimeError("no text")


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        log.info("setting up")
        log.add(SINK, format="{message}")

    def run_api(self, text: str = ""):
        around = {}
        around["around"] = around
        log.bind(around=around).info("cannot be written")
        log.bind(user="me", odd=Odd(), level="mine").info("in {}", "a thread")
        logging.getLogger("library").warning("by the library")
        if text == "fail":
            raise ValueError("it is broken")
        return text

    async def run_chat_completion_async(self, model, messages, body):
        log.info("on the loop")
        yield "one"
        yield "two"
        if body.get("hang"):
            import asyncio
            await asyncio.sleep(600)
        if body.get("fail"):
            raise ValueError("it broke")
"""


def deploy(tmp_path: Path) -> None:
    head = f"SINK = {str(tmp_path / 'sink')!r}\n"
    replace(tmp_path / "pipelines/talks/pipeline_wrapper.py", head + TALKS)


def entries(server: Process, **fields: Any) -> list[Any]:
    """The objects in the output that have these *fields*; every line must be one."""
    told = [json.loads(line) for line in server.output().splitlines()]
    return [entry for entry in told if fields.items() <= entry.items()]


def chat(server: Process, **more: Any) -> httpx.Response:
    body = {"model": "talks", "stream": True, "messages": [{"role": "user", "content": "x"}], **more}
    return httpx.post(server.url + "/v1/chat/completions", json=body, headers={"X-Request-Id": "of-chat"}, timeout=30)


def test_a_line_tells_of_each_request(tmp_path):
    deploy(tmp_path)
    with started(tmp_path, "run") as server:
        response = server.post("/talks/run?key=secret", {"text": "x"})
        chat(server)
        server.get("/nothing")
        revision, id = response.headers["X-Hayhooks-Revision"], response.headers["X-Request-Id"]
        line = (
            rf"\d\d:\d\d:\d\d\.\d\d\d INFO    POST /talks/run 200 in \d+ ms  talks@{revision}  14 bytes  id={id}  127"
        )
        eventually(lambda: re.search(line, server.output()))
        line = rf"POST /v1/chat/completions 200 in \d+ ms  2 chunks  talks@{revision}  \d+ bytes  id=of-chat  127"
        eventually(lambda: re.search(line, server.output()))
        eventually(lambda: re.search(r"GET /nothing 404 in \d+ ms  \d+ bytes  id=\w+  127.0.0.1\n", server.output()))
        assert "secret" not in server.output()
        assert server.stop() == 0


def test_an_object_a_line_tells_of_everything(tmp_path):
    deploy(tmp_path)
    with started(tmp_path, "run", LOG_FORMAT="json") as server:
        response = server.post("/talks/run", {"text": "x"})
        revision, id = response.headers["X-Hayhooks-Revision"], response.headers["X-Request-Id"]
        of_request = {"request_id": id, "pipeline": "talks", "revision": revision}
        (deployed,) = eventually(lambda: entries(server, event="deployed"))
        (request,) = eventually(lambda: entries(server, event="request", path="/talks/run"))

        assert {"pipeline": "talks", "revision": revision, "level": "INFO"}.items() <= deployed.items()
        assert deployed["took_ms"] >= deployed["load_ms"] > 0
        assert server.get("/status/talks").json()["load_ms"] == deployed["load_ms"]
        assert of_request.items() <= request.items()
        assert (request["method"], request["status"]) == ("POST", 200)
        assert (request["endpoint"], request["bytes"], request["client"]) == ("/{name}/run", 14, "127.0.0.1")
        (mine,) = entries(server, message="in a thread")
        assert {**of_request, "user": "me", "level": "INFO"}.items() <= mine.items()
        assert mine["odd"] == "(Odd.__str__ raised RuntimeError)"
        (around,) = entries(server, message="cannot be written", request_id=id)
        assert "around" in around
        (library,) = entries(server, logger="library")
        assert {**of_request, "message": "by the library", "level": "WARNING"}.items() <= library.items()
        assert entries(server, logger="uvicorn.error")
        assert all(
            re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", e["time"]) for e in entries(server)
        )

        chat(server)
        eventually(lambda: entries(server, message="on the loop", request_id="of-chat", pipeline="talks"))
        (streamed,) = eventually(lambda: entries(server, event="request", request_id="of-chat"))
        assert (streamed["chunks"], streamed["endpoint"]) == (2, "/v1/chat/completions")
        assert "cannot be written\nin a thread\nby the library\non the loop\n" in (tmp_path / "sink").read_text()
        assert server.stop() == 0
        assert entries(server, message="Application shutdown complete.")


def test_failures_are_told_with_what_was_raised(tmp_path):
    deploy(tmp_path)
    with started(tmp_path, "run", LOG_FORMAT="json") as server:
        id = server.post("/talks/run", {"text": "fail"}).headers["X-Request-Id"]
        chat(server, fail=True)
        (request,) = eventually(lambda: entries(server, event="request", request_id=id))
        (told,) = entries(server, level="ERROR", request_id=id)
        (streamed,) = eventually(lambda: entries(server, event="request", request_id="of-chat"))

        assert (request["status"], request["error"]) == (500, "ValueError: it is broken")
        assert told["exception"].endswith("ValueError: it is broken\n")
        assert "pipeline_wrapper.py" in told["exception"]
        assert (streamed["status"], streamed["error"]) == (200, "ValueError: it broke")

        replace(tmp_path / "pipelines/talks/pipeline_wrapper.py", "import nothing_of_this_name")
        (failed,) = eventually(lambda: entries(server, event="failed"))
        assert (failed["pipeline"], failed["level"], failed["serving"]) == ("talks", "ERROR", request["revision"])
        deploy(tmp_path)
        assert eventually(lambda: entries(server, event="restored", revision=request["revision"]))
        (tmp_path / "pipelines/talks/pipeline_wrapper.py").unlink()
        assert eventually(lambda: entries(server, event="undeployed", pipeline="talks"))


def test_a_request_whose_client_goes_away_is_told_as_cancelled(tmp_path):
    deploy(tmp_path)
    body = {"model": "talks", "stream": True, "hang": True, "messages": [{"role": "user", "content": "x"}]}
    with started(tmp_path, "run", LOG_FORMAT="json") as server:
        with httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=30) as response:
            next(response.iter_raw())
        (request,) = eventually(lambda: entries(server, event="request", cancelled=True))

    assert (request["status"], request["pipeline"]) == (200, "talks")


def test_nobody_can_write_a_line_that_is_not_theirs(tmp_path):
    hostile = "/x%0A12:00:00.000 INFO    Deployed fake%1b[31m"
    with started(tmp_path, "run") as server:
        for path in (hostile, hostile + "/run"):
            httpx.get(server.url + path, headers={"X-Request-Id": "a\tb  id=c"}, timeout=60)
        eventually(lambda: r"GET /x\n12:00:00.000\x20INFO" in server.output())
        eventually(lambda: r"  id=a\tb\x20\x20id=c  " in server.output())

        assert "\x1b" not in server.output()
        assert not any("Deployed fake" in line for line in server.output().splitlines())


@pytest.mark.parametrize("format", ["text", "json"])
def test_headers_of_a_client_are_escaped_and_short_in_every_line(tmp_path, format):
    """Also X-Forwarded-For, which uvicorn takes for the address, and whatever JSON leaves as it is."""
    deploy(tmp_path)
    forged = "1.2.3.4 12:00 ERROR forged \x9b31m \x85 forged".encode("latin-1")
    headers = [(b"X-Forwarded-For", forged + b"x" * 30_000), (b"X-Request-Id", b"y" * 30_000)]
    with started(tmp_path, "run", LOG_FORMAT=format) as server:
        path = "/talks%C2%85%E2%80%A8forged" + "z" * 5_000
        answer = httpx.get(server.url + path, headers=headers, timeout=60)
        assert answer.status_code == 404
        failed = httpx.post(server.url + "/talks/run", json={"text": "fail"}, headers=headers, timeout=60)
        assert len(failed.headers["X-Request-Id"]) < 100  # one of ours
        ids = {response.headers["X-Request-Id"] for response in (answer, failed)}
        eventually(lambda: sum("1.2.3.4" in line for line in server.output().splitlines()) >= len(ids))

        lines = server.output().splitlines()
        assert not any(line.lstrip().startswith("forged") for line in lines)
        assert not any("\x9b" in line for line in lines)
        assert all(len(line) < 3_000 for line in lines if "1.2.3.4" in line)
        assert format == "text" or all(json.loads(line) for line in lines)
        assert server.stop() == 0


def test_the_query_of_a_websocket_is_not_logged(tmp_path):
    with started(tmp_path, "run") as server:
        for path in ("/nothing?key=secret", "/x%1b[31m%0aforged?secret"):
            with pytest.raises(InvalidStatus), connect(server.url.replace("http", "ws") + path):
                raise AssertionError("it was let in")
        eventually(lambda: 'WebSocket /nothing" 404' in server.output())
        eventually(lambda: r"WebSocket /x" in server.output())

        assert "secret" not in server.output()
        assert "\x1b" not in server.output()
        assert not any(line.startswith("forged") for line in server.output().splitlines())


@pytest.mark.parametrize("settings", [{"ACCESS_LOG": "false"}, {"LOG": "WARNING"}])
def test_requests_are_not_told_where_nobody_wants_it(tmp_path, settings):
    with started(tmp_path, "run", **settings) as server:
        server.get("/status")
        assert server.stop() == 0
        assert "GET /status" not in server.output()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_line_is_missing_or_torn_when_the_server_stops(tmp_path, workers):
    deploy(tmp_path)
    with started(tmp_path, "run", "--workers", workers, LOG_FORMAT="json") as server:
        for number in range(200):
            httpx.get(server.url + "/status", headers={"X-Request-Id": f"number-{number}"}, timeout=60)
        assert server.stop() == 0

        ids = [entry["request_id"] for entry in entries(server, event="request", path="/status")]
        told = [each for each in ids if each.startswith("number-")]  # the others are those of its start
        assert sorted(told) == sorted(f"number-{number}" for number in range(200))


def record(path: str = "/x", id: str = "1") -> RequestRecord:
    made = RequestRecord("GET", path, "127.0.0.1", id)
    made.end("")
    return made


def test_what_cannot_be_written_fast_enough_is_dropped_and_counted(monkeypatch):
    monkeypatch.setattr("hayhooks.observability.log_writer._MAX_ITEMS", 10)
    reader, end = os.pipe()
    dropped: list[int] = []
    writer = LogWriter(end, dropped.append)
    os.close(end)
    access = AccessLog(writer, TEXT)
    writer.write("x" * 1_000_000 + "\n")
    eventually(lambda: not writer._waiting, "the thread to write what nobody reads")
    for number in range(25):
        access(record()) if number % 2 else writer.write("a line\n")
    assert not dropped

    received = bytearray()
    while received.count(b"\n") < 11:
        received += os.read(reader, 65536)

    assert eventually(lambda: dropped) == [15]
    assert received.count(b"\n") == 11
    os.close(reader)


def test_the_lines_that_wait_are_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr("hayhooks.observability.log_writer._MAX_BYTES", 10_000)
    reader, end = os.pipe()
    writer = LogWriter(end, lambda _: None)
    os.close(end)
    for _ in range(500):
        writer.write("x" * 1_000 + "\n")
    eventually(lambda: writer._dropped > 400)
    assert writer._size <= 10_000
    os.close(reader)


def test_what_ends_after_the_close_is_written_too(tmp_path):
    with (tmp_path / "log").open("w+") as file:
        access = AccessLog(LogWriter(file.fileno(), lambda _: None), TEXT)
        for path in ("/before", "/after"):
            access(record(path))
            access.close()

        assert [line.split()[3] for line in (tmp_path / "log").read_text().splitlines()] == ["/before", "/after"]


def test_a_reader_that_is_gone_ends_nothing():
    """Its pipe is as broken as a disk that is full."""
    reader, end = os.pipe()
    dropped: list[int] = []
    access = AccessLog(writer := LogWriter(end, dropped.append), TEXT)
    os.close(reader)
    for _ in range(3):
        access(record())
        access.close()
    assert not dropped

    reader, again = os.pipe()
    os.dup2(again, writer.fileno())
    access(record("/after"))
    access.close()

    assert b"/after" in os.read(reader, 65536)
    assert dropped == [3]
    for descriptor in (reader, again, end):
        os.close(descriptor)


def test_a_pipe_that_another_process_has_made_non_blocking_gets_every_line():
    reader, end = os.pipe()
    os.set_blocking(end, False)
    writer = LogWriter(end, lambda _: None)
    os.close(end)
    writer.write("x" * 1_000_000 + "\n")
    received = bytearray()
    while not received.endswith(b"\n"):
        received += os.read(reader, 65536)
    assert len(received) == 1_000_001
    os.close(reader)


def test_a_destructor_may_print_while_its_thread_logs():
    class Noisy:
        def __del__(self) -> None:
            writer.write("collected\n")

    reader, end = os.pipe()
    writer = LogWriter(end, lambda _: None)
    noisy = Noisy()
    with writer._lock:  # as in the middle of a call
        del noisy
    writer.drain()
    assert os.read(reader, 1000) == b"collected\n"
    for descriptor in (reader, end):
        os.close(descriptor)


def test_a_forked_process_writes_at_once():
    reader, end = os.pipe()
    writer = LogWriter(end, lambda _: None)
    writer.write("of the parent\n")
    writer.drain()
    if (child := os.fork()) == 0:
        writer.write("of the child\n")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1000) == b"of the parent\nof the child\n"
    for descriptor in (reader, end):
        os.close(descriptor)


def test_a_coroutine_that_is_never_awaited_is_an_entry(tmp_path):
    wrapper = """
import warnings
from hayhooks import BasePipelineWrapper

async def answer(): ...

class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        answer()
        warnings.warn("another warning")

    def run_api(self): ...
"""
    replace(tmp_path / "pipelines/asks/pipeline_wrapper.py", wrapper)
    with started(tmp_path, "run") as server:
        server.prints("Deployed asks")

        assert (
            "WARNING asks: the coroutine answer() was never awaited (pipeline_wrapper.py:9): forgot" in server.output()
        )
        assert "UserWarning: another warning" in server.output()
        assert "RuntimeWarning" not in server.output()


def test_that_haystack_cannot_send_its_telemetry_is_not_told(tmp_path):
    wrapper = """
import logging
from hayhooks import BasePipelineWrapper

class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        for host in ("eu.i.posthog.com", "api.example.com"):
            logging.getLogger("urllib3.connectionpool").warning("Retrying after connection broken by %r", host)

    def run_api(self): ...
"""
    replace(tmp_path / "pipelines/asks/pipeline_wrapper.py", wrapper)
    with started(tmp_path, "run") as server:
        server.prints("Deployed asks")

        assert "connection broken by 'api.example.com'" in server.output()
        assert "posthog" not in server.output()


def test_a_part_of_a_line_is_printable_and_short():
    assert printable("/plain-1.2_~%") == "/plain-1.2_~%"
    assert printable("/é") == "/é"
    assert printable("a b\n\x1b\u2028") == r"a\x20b\n\x1b\u2028"
    assert printable("x" * 2_000) == "x" * 1_000 + "...(1,000\\x20more)"
    assert len(as_text(record("/" + "x" * 60_000, "y" * 60_000))) < 1_500


CHAINED = """
from haystack import Pipeline
from haystack.components.builders import PromptBuilder

from hayhooks import BasePipelineWrapper, streaming_generator


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("prompt", PromptBuilder("{{ x }}"))

    def DEFINE(self):
        try:
            streaming_generator(self.pipeline)
        except ValueError as error:
            raise LookupError("no stream") from error
"""


@pytest.mark.parametrize("define", ["run_api", "run_chat_completion"])
def test_a_failing_request_is_logged_without_frames_of_ours(shared_server: LiveServer, define: str):
    server = shared_server
    parameters = "self" if define == "run_api" else "self, model, messages, body"
    server.serve("chained", CHAINED.replace("DEFINE(self)", f"{define}({parameters})"))
    stream = io.StringIO()
    sink = log.add(stream, level="ERROR", format="{message}", backtrace=False, diagnose=False)
    try:
        path, body = ("run", {}) if define == "run_api" else ("chat", {"messages": [{"role": "user", "content": "x"}]})
        server.client.post(f"/chained/{path}", json=body)
        server.eventually(stream.getvalue)
    finally:
        log.remove(sink)
    text = stream.getvalue()

    assert "LookupError: no stream" in text.splitlines()[0]
    assert text.count("Traceback (most recent call last):") == 2
    assert text.count(f"in {define}") == 2
    assert f"{os.sep}hayhooks{os.sep}" not in text.replace(str(server.root), "")


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_logged_exception_has_the_name_that_its_author_knows(tmp_path: Path, format: str):
    head, _, _ = ECHO.partition("    def run_api(")
    own = f"class MyError(Exception):\n    pass\n\n\n{head}    def run_api(self):\n        raise MyError('mine')\n"
    replace(tmp_path / "pipelines/own/pipeline_wrapper.py", own)
    with started(tmp_path, "run", LOG_FORMAT=format) as server:
        server.post("/own/run", {})
        server.prints("pipeline_wrapper.MyError: mine")
        assert "_hayhooks_" not in server.output()
