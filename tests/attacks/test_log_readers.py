"""Whoever does not read what the server prints does not stop it."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from tests.cli.processes import Process, environment
from tests.fork_server import HAYHOOKS, popen
from tests.live_server import eventually, replace
from tests.network import free_port

TALKS = """
import logging
import sys

from hayhooks import BasePipelineWrapper, log


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self, how: str) -> str:
        for number in range(300):
            line = f"{how} {number} " + "x" * 50_000
            if how == "log":
                log.info(line)
            elif how == "logging":
                logging.getLogger("of a library").warning(line)
            elif how == "print":
                print(line)
            else:
                print(line, file=sys.stderr)
        return "done"
"""


@contextmanager
def unread(tmp_path: Path, *arguments: str) -> Iterator[tuple[Process, int]]:
    """A server whose output goes into a pipe, and the pipe's end to read from."""
    replace(tmp_path / "pipelines/talks/pipeline_wrapper.py", TALKS)
    reader, writer = os.pipe()
    port = free_port()
    command = [HAYHOOKS, *arguments, "--port", str(port)]
    with popen(
        command, cwd=tmp_path, env=environment(), stdout=writer, stderr=writer, start_new_session=True
    ) as process:
        os.close(writer)
        server = Process(process, port, tmp_path / "none")
        try:
            eventually(lambda: server.get("/readyz").status_code == 200, "ready", 60)
            yield server, reader
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            os.close(reader)


@pytest.mark.parametrize("command", ["run", "dev"])
def test_a_stalled_reader_stops_nothing_and_sees_what_it_missed(tmp_path: Path, command: str):
    with unread(tmp_path, command) as (server, reader):
        for how in ("log", "logging", "print", "stderr"):
            assert server.post("/talks/run", {"how": how}).json() == {"result": "done"}
            began = time.monotonic()
            assert server.get("/healthz").status_code == 200
            assert time.monotonic() - began < 20

        received = bytearray()
        Thread(target=_read_all, args=(reader, received), daemon=True).start()
        told = eventually(lambda: re.search(rb"(\d+) lines are missing from the log", received), "the count")
        assert told is not None
        assert int(told[1]) > 100
        server.post("/talks/run", {"how": "nothing"})
        assert server.stop() == 0


def test_the_server_stops_in_time_although_nobody_reads(tmp_path: Path):
    with unread(tmp_path, "run") as (server, _):
        server.post("/talks/run", {"how": "log"})
        began = time.monotonic()

        assert server.stop() == 0
        assert time.monotonic() - began < 25


def _read_all(descriptor: int, into: bytearray) -> None:
    try:
        while data := os.read(descriptor, 65536):
            into += data
    except OSError:
        return
