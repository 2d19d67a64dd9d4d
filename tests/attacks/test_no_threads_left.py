"""The system starts no more threads: what needs a new one is refused, nothing is lost, and it passes."""

import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from hayhooks.errors import UnavailableError
from hayhooks.kernel.threads import DaemonThreadPool
from tests.cli.processes import Process, environment, started
from tests.fork_server import HAYHOOKS
from tests.live_server import ECHO, LiveServer, eventually, replace, serving

SYNC = """
import asyncio
import time
from pathlib import Path

from hayhooks import BasePipelineWrapper


def items():
    yield "one "
    yield "two"


class PipelineWrapper(BasePipelineWrapper):
    concurrency = 2
    queue_size = 5

    def setup(self):
        pass

    def run_api(self, gate: str = "") -> str:
        while gate and not Path(gate).exists():
            time.sleep(0.01)
        return "here"

    def run_chat_completion(self, model, messages, body):
        return "here"

    async def run_response_async(self, model, input_items, body):
        return await asyncio.to_thread(str, "here")
"""

STREAMING = """
from hayhooks import BasePipelineWrapper


def items():
    yield "one "
    yield "two"


class PipelineWrapper(BasePipelineWrapper):
    concurrency = 2

    def setup(self):
        pass

    async def run_api_async(self):
        return items()
"""

ASYNC = """
from pathlib import Path

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        import xml.sax.handler  # in the import thread

    def check(self):
        pass

    async def run_api_async(self) -> int:
        return NUMBER

    def teardown(self):
        Path(TORN_DOWN).touch()
"""

RESOLVER = """
import asyncio

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self) -> str:
        try:
            await asyncio.open_connection("localhost", 1)  # uvloop looks the name up
        except OSError:
            return "refused"
"""

CHAT = {"model": "sync", "messages": [{"role": "user", "content": "x"}], "input": "x"}


@contextmanager
def no_new_threads() -> Iterator[None]:
    """No thread can be started in this process: its stack would be larger than the address space."""
    before = threading.stack_size(1 << 46)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=print).start()
        yield
    finally:
        threading.stack_size(before)


@pytest.fixture
def server(root: Path) -> Iterator[LiveServer]:
    with serving(root, poll_interval_ms=100) as server:
        yield server


def test_requests_are_refused_and_leave_nothing_behind(server: LiveServer):
    server.serve("sync", SYNC)
    server.serve("streaming", STREAMING)
    with no_new_threads():
        for _ in range(5):
            for path in ("/sync/run", "/streaming/run", "/v1/chat/completions", "/v1/responses"):
                response = server.client.post(path, json=CHAT if path.startswith("/v1") else {})
                assert response.status_code == 503, path
                assert "starts no more threads" in response.json()["detail"]
                assert response.headers["Retry-After"]

    assert server.run("sync") == "here"
    assert server.client.post("/streaming/run").text == "one two"
    assert server.client.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert server.client.post("/v1/responses", json=CHAT).status_code == 200
    for name in ("sync", "streaming"):
        server.remove(name)
    server.eventually(lambda: not server.status()["deployments"])
    server.eventually(lambda: not server.status()["retired"])


def test_requests_wait_for_the_threads_that_there_are(server: LiveServer, tmp_path: Path):
    server.serve("sync", SYNC)
    gate = tmp_path / "gate"
    client = httpx.Client(base_url=server.url, timeout=30)
    with client, server.in_background("/sync/run", {"gate": str(gate)}) as first:
        assert server.app.reconciler is not None
        leases = server.app.reconciler.snapshot.deployments["sync"].runtime.leases
        eventually(lambda: any(lease.thread for lease in leases.held))
        with server.in_background("/sync/run", {}) as second, no_new_threads():
            assert server.client.get("/status/sync").status_code == 200
            gate.touch()
            assert first.result().json() == second.result().json() == {"result": "here"}


def test_folders_are_loaded_renewed_and_retired(server: LiveServer, tmp_path: Path):
    torn_down = tmp_path / "torn-down"
    server.serve("before", ASYNC, torn_down=str(torn_down), number=0)
    with no_new_threads():
        server.serve("new", ASYNC, torn_down=str(torn_down), number=1)
        assert server.run("new") == 1
        server.serve("before", ASYNC, torn_down=str(torn_down), number=2)
        assert server.run("before") == 2
        eventually(torn_down.exists)
        server.remove("new")
        server.eventually(lambda: server.state("new") is None)
        server.eventually(lambda: not server.status()["retired"])
        assert server.status()["watching"]["problem"] is None


def test_the_server_itself_answers(server: LiveServer):
    server.serve("sync", SYNC)
    with no_new_threads():
        for path in (
            "/openapi.json",
            "/openapi.yaml",
            "/sync/schema",
            "/metrics",
            "/status",
            "/docs/swagger_style.css",
        ):
            assert server.client.get(path).status_code == 200, path
        assert server.client.get("/draw/sync").status_code == 404  # it has no pipeline


def test_it_stops_at_once(root: Path):
    with serving(root) as server:
        server.serve("sync", SYNC)
        began = time.monotonic()
        threading.stack_size(1 << 46)
    threading.stack_size(0)
    assert time.monotonic() - began < 25  # of the 30 s that a server gets


def test_a_pool_without_threads_refuses_and_one_that_keeps_one_does_not():
    plain, keeping = DaemonThreadPool("plain", 2), DaemonThreadPool("keeping", 2, idle_s=0.01)
    keeping.keep_thread()
    time.sleep(0.1)  # longer than it may be idle
    with no_new_threads():
        with pytest.raises(UnavailableError):
            plain.call(int)
        assert keeping.call(int).result(timeout=60) == 0
        with pytest.raises(UnavailableError):
            plain.keep_thread()
    assert plain.call(int).result(timeout=60) == 0
    keeping.close()
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "hayhooks keeping"])


# The limit does not hold for root; this user may read all that root may.
AS_OTHER = ["setpriv", "--reuid=54321", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
USER = AS_OTHER if os.getuid() == 0 and shutil.which("setpriv") else ["env"]


@contextmanager
def limited(tmp_path: Path, *options: str) -> Iterator[Process]:
    """A server that can be denied new threads by the system, so of a user that is not root."""
    if shutil.which("prlimit") is None or subprocess.run([*USER, "true"], check=False).returncode:
        pytest.skip("no prlimit, or no other user, here")
    command = [*USER, HAYHOOKS, "run", *options]
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'here '\n" + ECHO)
    replace(tmp_path / "pipelines/resolver/pipeline_wrapper.py", RESOLVER)
    with started(tmp_path, *command[1:], executable=command[0], POLL_INTERVAL_MS="200") as server:
        yield server


def limit(server: Process, threads: str) -> None:
    """Set the limit of *server*, and of what it starts."""
    subprocess.run([*USER, "prlimit", "--pid", str(server.process.pid), f"--nproc={threads}:"], check=True)


@pytest.mark.slow
def test_prlimit_takes_nothing_down(tmp_path: Path):
    with limited(tmp_path) as server:
        limit(server, "1")
        assert server.post("/resolver/run", {}).json() == {"result": "refused"}
        for number in range(3):
            name = f"new{number}"
            replace(tmp_path / f"pipelines/{name}/pipeline_wrapper.py", "NUMBER = 1\nTORN_DOWN = '/dev/null'\n" + ASYNC)
            eventually(lambda name=name: server.post(f"/{name}/run", {}).json() == {"result": 1})  # type: ignore[misc]
        shutil.rmtree(tmp_path / "pipelines/new0")
        eventually(lambda: server.post("/new0/run", {}).status_code == 404)
        assert server.post("/echo/run", {"text": "x"}).status_code in (200, 503)
        assert server.get("/status").json()["watching"]["by"] == "events"

        began = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 25  # of 30 s that requests in progress would get


def both_workers(server: Process) -> list[int]:
    """The ids of the two workers, empty until both have said that they serve."""
    found = sorted(worker["pid"] for worker in server.get("/status").json()["workers"])
    return found if len(found) == 2 else []


@pytest.mark.slow
def test_a_supervisor_that_can_start_no_worker_tries_again(tmp_path: Path):
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    with limited(tmp_path, "--workers", "2") as server:
        first, second = eventually(lambda: both_workers(server), "both workers")
        limit(server, "1")
        subprocess.run([*USER, "kill", "-9", str(first)], check=True)
        server.prints("The system starts no worker")
        assert server.get("/readyz").status_code == 200  # by the other one

        limit(server, "unlimited" if hard == resource.RLIM_INFINITY else str(hard))
        eventually(
            lambda: {second} < {worker["pid"] for worker in server.get("/status").json()["workers"]} - {first},
            "another worker",
            60,
        )
        assert server.stop() == 0


@pytest.mark.slow
def test_a_start_without_threads_fails_in_one_line(tmp_path: Path):
    if os.getuid() == 0 and USER == ["env"]:
        pytest.skip("root has no such limit")
    result = subprocess.run(
        [*USER, "prlimit", "--nproc=1", HAYHOOKS, "run", "--port", "0"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode != 0
    assert "starts no more threads" in result.stderr
    assert "Traceback" not in result.stderr
