"""What clients and proxies see of a server that is stopped, or whose workers are renewed, while they ask."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cli.processes import Process, started
from tests.cli.test_run import SLOW_STREAM
from tests.live_server import ECHO, eventually, replace

PATIENT = """
import time
from pathlib import Path

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self) -> dict:
        Path(GATE + "-begun").touch()
        while not Path(GATE).exists():
            time.sleep(0.01)
        return {}
"""

ASK = b"POST /echo/run HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def pipelines(tmp_path: Path) -> Path:
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'here'\n" + ECHO)
    return tmp_path / "pipelines"


@pytest.mark.usefixtures("pipelines")
def test_what_was_asked_before_the_server_knew_that_it_stops_is_answered(tmp_path: Path):
    with started(tmp_path, "run") as server, ExitStack() as stack:
        idle, kept = (stack.enter_context(_connected(server)) for _ in range(2))
        kept.sendall(ASK)
        assert b"here" in _answer(kept)
        with _asleep(server):
            # The system has taken these, the server has not.
            waiting = [stack.enter_context(_connected(server)) for _ in range(200)]
            for connection in (idle, kept, *waiting):
                connection.sendall(ASK)
            server.process.send_signal(signal.SIGTERM)

        for connection in (idle, kept, *waiting):
            answer = _answer(connection)
            assert b"200 OK" in answer
            assert b"here" in answer
            assert connection.recv(1) == b""
        assert server.process.wait(timeout=30) == 0


def test_answers_while_stopping_close_the_connection(tmp_path: Path):
    """An answer that is given while the server stops says that it is the last on its connection."""
    gate = tmp_path / "gate"
    replace(tmp_path / "pipelines/patient/pipeline_wrapper.py", f"GATE = {str(gate)!r}\n" + PATIENT)
    with started(tmp_path, "run") as server, _connected(server) as connection:
        connection.sendall(ASK.replace(b"echo", b"patient"))
        eventually(Path(f"{gate}-begun").exists)
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: _is_refused(server), "connections to be refused")
        gate.touch()

        assert b"\r\nconnection: close\r\n" in _answer(connection).lower()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_nobody_is_let_in_while_the_last_answers_are_given(tmp_path: Path, workers: str):
    """A proxy goes to the next server then; a connection that nobody serves would hold it up to the end."""
    gate = tmp_path / "gate"
    replace(tmp_path / "pipelines/slow/pipeline_wrapper.py", f"LEFT = {str(tmp_path / 'left')!r}\n" + SLOW_STREAM)
    with started(tmp_path, "run", "--workers", workers) as server, _streaming(server, gate):
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: _is_refused(server), "connections to be refused")
        gate.touch()


@pytest.mark.slow
@pytest.mark.usefixtures("pipelines")
def test_workers_are_renewed_on_sighup_and_no_request_fails(tmp_path: Path):
    with started(tmp_path, "run", "--workers", "2") as server:
        eventually(lambda: len(_workers(server)) == 2)
        before, wrong, stop = _workers(server), list[str](), threading.Event()
        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(_keep_asking, server.url, stop, wrong)
            server.process.send_signal(signal.SIGHUP)
            try:
                eventually(lambda: _workers(server).isdisjoint(before), "new workers", 60)
            finally:
                stop.set()
        assert not wrong, wrong[:3]
        assert server.stop() == 0


def _keep_asking(url: str, stop: threading.Event, wrong: list[str]) -> None:
    with httpx.Client(base_url=url, timeout=30) as client:
        while not stop.is_set():
            try:
                response = client.post("/echo/run", json={})
                if response.json() != {"result": "here"}:
                    wrong.append(response.text)
            except (httpx.HTTPError, ValueError) as error:
                wrong.append(repr(error))


def _workers(server: Process) -> set[int]:
    return {worker["pid"] for worker in server.get("/status").json()["workers"]}


def _connected(server: Process) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def _is_refused(server: Process) -> bool:
    try:
        _connected(server).close()
    except ConnectionRefusedError:
        return True
    return False


def _answer(connection: socket.socket) -> bytes:
    """One whole answer."""
    answer = b""
    while not answer.endswith(b"}"):
        received = connection.recv(65536)
        assert received, answer
        answer += received
    return answer


@contextmanager
def _asleep(server: Process) -> Iterator[None]:
    """What happens in this block the server finds all at once when it wakes up."""
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


@contextmanager
def _streaming(server: Process, gate: Path) -> Iterator[None]:
    """A stream that began before this block, and ends well after *gate* came to be."""
    with httpx.stream("POST", server.url + "/slow/run", json={"gate": str(gate)}, timeout=30) as response:
        pieces = response.iter_text()
        assert next(pieces) == "began "
        yield
        assert "".join(pieces) == "ended"
    assert server.process.wait(timeout=30) == 0
