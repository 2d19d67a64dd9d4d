"""Code of a wrapper forks: the child keeps nothing of the server, and the server does not notice."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import Process, started
from tests.live_server import eventually, replace

FORKER = """
import multiprocessing
import os
import time
from pathlib import Path

from hayhooks import BasePipelineWrapper

forking = multiprocessing.get_context("fork")


def wait():
    while not Path(GATE).exists():
        time.sleep(0.02)


def import_and_wait():
    import wsgiref.handlers  # which nobody has imported before
    import fractions

    Path(GATE + "-imported").write_text(wsgiref.handlers.__name__)
    wait()


def fork(how):
    if how == "multiprocessing":
        child = forking.Process(target=import_and_wait)
        child.start()
        return child.pid
    child = os.fork()
    if child == 0 and how == "os.fork":
        import_and_wait()
        os._exit(0)
    return child or os.getpid()  # and the child returns as well


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass
"""

SYNC = """
    def run_api(self, how: str) -> int:
        return fork(how)
"""

ASYNC = """
    async def run_api_async(self, how: str) -> int:
        return fork(how)
"""

WITHOUT_DESCRIPTORS = """
    async def run_api_async(self, how: str) -> int:
        import resource

        opened = []
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
        try:
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            child = os.fork()
            if child == 0:
                wait()
                os._exit(0)
            return child
        finally:
            for descriptor in opened:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
"""


@pytest.fixture(
    params=[
        pytest.param((SYNC, 1), id="sync"),
        pytest.param((ASYNC, 1), id="async"),
        pytest.param((SYNC, 2), id="workers", marks=pytest.mark.slow),
    ]
)
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Process]:
    method, workers = request.param
    gate = tmp_path / "gate"
    wrapper = f"GATE = {str(gate)!r}\n{FORKER}{method}"
    replace(tmp_path / "pipelines/forker/pipeline_wrapper.py", wrapper)
    try:
        with started(tmp_path, "run", "--workers", str(workers)) as server:
            yield server
    finally:
        gate.touch()


@pytest.mark.parametrize("how", ["multiprocessing", "os.fork"])
def test_a_child_keeps_no_connection_no_port_and_no_signal_handler(server: Process, tmp_path: Path, how: str):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(65536)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            body = b'{"how": "%s"}' % how.encode()
            head = b"POST /forker/run HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
                body
            )
            connection.sendall(head + body)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))  # it ends: nobody else holds the connection
        child = int(answer.rpartition(b":")[2].rstrip(b"}"))
        eventually((tmp_path / "gate-imported").exists)
        assert Path(f"/proc/{child}").exists()

        assert server.post("/forker/run", {"how": "multiprocessing"}).status_code == 200
        os.kill(child, signal.SIGTERM)
        eventually(lambda: _is_gone(child), "the child to end")
        # It was not the server's signal; another worker may still be loading.
        eventually(lambda: server.get("/readyz").status_code == 200)

        assert server.stop() == 0
        assert idle.recv(65536) == b""
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port), timeout=30):
        pass


def test_a_child_of_a_process_without_descriptors_keeps_no_connection(tmp_path: Path):
    gate = tmp_path / "gate"
    wrapper = f"GATE = {str(gate)!r}\n{FORKER}{WITHOUT_DESCRIPTORS}"
    replace(tmp_path / "pipelines/forker/pipeline_wrapper.py", wrapper)
    with started(tmp_path, "run") as server:
        try:
            child = server.post("/forker/run", {"how": "os.fork"}).json()["result"]
            assert Path(f"/proc/{child}").exists()
            assert server.stop() == 0
            with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port)):
                pass
        finally:
            gate.touch()


def test_a_child_that_returns_as_its_parent_does_ends(server: Process):
    children = [server.post("/forker/run", {"how": "return"}).json()["result"] for _ in range(3)]

    for child in children:
        assert child != server.process.pid
        eventually(lambda child=child: _is_gone(child), "the child to end")  # type: ignore[misc]
    assert server.get("/healthz").status_code == 200
    assert server.stop() == 0


def _is_gone(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return True
    return state.rpartition(")")[2].split()[0] == "Z"  # ended; its parent has not asked for its status
