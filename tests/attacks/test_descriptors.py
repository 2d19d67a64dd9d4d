"""Whoever closes descriptors 0 to 2 does not get what is printed into somebody's connection."""

import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.cli.processes import Process, environment, started
from tests.fork_server import HAYHOOKS
from tests.live_server import ECHO, eventually, replace
from tests.network import free_port

CLOSES = """
import os
import time

from hayhooks import BasePipelineWrapper, log


def close():
    for descriptor in (0, 1, 2):
        try:
            os.close(descriptor)
        except OSError:
            pass


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        if WHEN == "setup":
            close()

    def run_api(self, wait_s: float = 0.0) -> str:
        if WHEN == "run":
            close()
        time.sleep(wait_s)
        for number in range(100):
            print("printed", number)
            log.info("logged {}", number)
            for descriptor in (0, 1, 2):
                try:
                    os.write(descriptor, b"written by native code\\n")
                except OSError:
                    pass
        return "done"
"""


@pytest.mark.parametrize("when", ["setup", "run"])
def test_what_a_wrapper_prints_goes_into_no_connection(tmp_path: Path, when: str):
    replace(tmp_path / "pipelines/closes/pipeline_wrapper.py", f"WHEN = {when!r}\n{CLOSES}")
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'here'\n" + ECHO)
    with started(tmp_path, "run") as server, ExitStack() as stack:
        server.post("/closes/run", {})
        # Those who come now would get the free numbers.
        others = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 5)) for _ in range(6)]

        eventually(lambda: server.post("/closes/run", {"wait_s": 0.2}).json() == {"result": "done"})

        for other in others:
            other.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert _all_of(other).startswith((b"HTTP/1.1 200 OK\r\n", b"(reset)"))
        eventually(lambda: server.output().count("printed 99\n") >= 2, "what was printed in the output")
        assert server.output().count("logged 99") >= 2
        # A connection that got such a number is closed: its client asks again.
        eventually(lambda: server.post("/echo/run", {}).json() == {"result": "here"})
        assert server.stop() == 0


def _all_of(connection: socket.socket) -> bytes:
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        received += b"(reset)"
    return received or b"(reset)"


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_it_serves_when_started_without_standard_descriptors(tmp_path: Path, closed: str, workers: str):
    replace(tmp_path / "pipelines/closes/pipeline_wrapper.py", f"WHEN = 'never'\n{CLOSES}")
    port = free_port()
    command = f"exec {HAYHOOKS} run --port {port} --workers {workers} {closed}"
    with subprocess.Popen(["sh", "-c", command], cwd=tmp_path, env=environment(), start_new_session=True) as process:
        server = Process(process, port, tmp_path / "none")
        try:
            eventually(lambda: server.get("/readyz").status_code == 200, "ready", 60)
            with httpx.Client(base_url=server.url, timeout=60) as client:
                for _ in range(3):
                    assert client.post("/closes/run", json={}).json() == {"result": "done"}
        finally:
            assert server.stop() == 0
