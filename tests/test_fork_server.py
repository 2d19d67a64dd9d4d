"""What the fork server starts is as what a new interpreter is."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import started
from tests.live_server import eventually, replace
from tests.network import free_port

FACTS = """
import gc, multiprocessing.process, os, resource, signal, sys, tempfile, threading

from hayhooks import BasePipelineWrapper


def facts_of(stream):
    return stream.closed or [stream.fileno(), stream.encoding, stream.errors, stream.line_buffering, stream.isatty()]


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self):
        return {
            "arguments": [argument for argument in sys.argv if not argument.isdigit()],
            "main": [sys.modules["__main__"].__name__, sys.modules["__main__"].__file__],
            "path": sys.path,
            "directory": [os.getcwd(), multiprocessing.process.ORIGINAL_DIR, tempfile.gettempdir()],
            "environment": {name: value.partition("/hayhooks-")[0] for name, value in os.environ.items()},
            "leads a session": os.getsid(0) == os.getpgrp() == os.getpid(),
            "files": {number: os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)},
            "streams": [facts_of(stream) for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__)],
            "signals": {number: str(signal.getsignal(number)).partition(" at ")[0] for number in range(1, 65)},
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
            "umask": [os.umask(0o22), os.umask(0o22)],
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "nice": os.nice(0),
            "collects garbage": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count() > 50_000],
            "flags": [str(sys.flags), sys.warnoptions, sys.getswitchinterval()],
            "imported": sorted(set(sys.modules) & {"haystack", "h11", "prometheus_client", "websockets"}),
        }
"""


def facts(folder: Path, command: list[str], port: int, *, forks: bool) -> Any:
    replace(folder / "pipelines/it/pipeline_wrapper.py", FACTS)
    with started(folder, *command, port=port, forks=forks, variables={"TMPDIR": str(folder)}) as server:
        found = eventually(lambda: server.post("/it/run", {}).json()["result"])
        assert server.stop() == 0
        return found


@pytest.mark.parametrize("command", [["run"], ["dev"], ["run", "--workers", "2"]])
def test_a_fork_is_as_a_new_interpreter(tmp_path, command):
    port = free_port()
    one, other = (facts(tmp_path, command, port, forks=forks) for forks in (True, False))

    assert one == other


def test_the_status_of_a_process_that_a_signal_ends_is_told(tmp_path):
    with started(tmp_path, "run") as server:
        assert server.process.poll() is None
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        assert server.process.poll() == -signal.SIGKILL
