import signal
import sys
import threading
import time
from collections import Counter

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from hayhooks.server.preflight import check_settings
from hayhooks.settings import Settings
from tests.cli.processes import hayhooks, started
from tests.live_server import ECHO, eventually, replace
from tests.network import free_port

SLOW_STREAM = """
import time
from pathlib import Path

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, gate: str):
        yield "began "
        while not Path(gate).exists():
            time.sleep(0.01)
        yield "ended"

    def teardown(self):
        Path(LEFT).touch()
"""

IMPORTED = """
import sys
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self):
        return sorted({"h11", "haystack", "opentelemetry", "prometheus_client", "websockets"} & set(sys.modules))
"""

BEGUN = """\
    def run_api(self):
        open("begun", "w").close()
"""
STUCK = """
import time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self):
        time.sleep(600)
"""


def test_what_takes_long_to_import_waits_until_somebody_needs_it(tmp_path):
    replace(tmp_path / "pipelines/it/pipeline_wrapper.py", IMPORTED)

    with started(tmp_path, "run", forks=False) as server:
        eventually(lambda: server.post("/it/run", {}).json() == {"result": []})

        assert "hayhooks_generation" in server.get("/metrics").text
        with pytest.raises(InvalidStatus), connect(server.url.replace("http", "ws") + "/it/run"):
            pass
        assert server.post("/it/run", {}).json()["result"] == ["prometheus_client", "websockets"]


def test_what_we_import_late_is_not_looked_for_among_shared_modules(tmp_path):
    replace(tmp_path / "pipelines/it/pipeline_wrapper.py", ECHO)
    for name in ("prometheus_client", "websockets"):
        replace(tmp_path / f"shared/{name}.py", "raise RuntimeError('mine')")

    with started(tmp_path, "run", forks=False, ADDITIONAL_PYTHON_PATH=str(tmp_path / "shared")) as server:
        assert "hayhooks_generation" in server.get("/metrics").text
        with pytest.raises(InvalidStatus), connect(server.url.replace("http", "ws") + "/it/run"):
            pass


def test_run_creates_the_directory_once_and_serves_what_is_put_there(tmp_path):
    with started(tmp_path, "run") as server:
        assert (tmp_path / "pipelines").is_dir()
        replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'hi '\n" + ECHO)
        eventually(lambda: server.post("/echo/run", {"text": "you"}).json() == {"result": "hi you"})

        (tmp_path / "pipelines").rename(tmp_path / "away")
        eventually(lambda: server.get("/readyz").status_code == 503)

        assert "cannot be read" in server.get("/readyz").json()["detail"]
        assert server.post("/echo/run", {"text": "you"}).json() == {"result": "hi you"}
        assert not (tmp_path / "pipelines").exists()


def test_a_directory_that_cannot_be_created_is_waited_for(tmp_path):
    with started(tmp_path, "run", PIPELINES_DIR="/proc/pipelines", ready=503) as server:
        eventually(lambda: "/proc/pipelines cannot be read" in server.get("/readyz").json()["detail"])

        assert "Cannot create the pipelines directory /proc/pipelines " in server.output()
        assert server.stop() == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(tmp_path, sig):
    with started(tmp_path, "run") as server:
        assert server.stop(sig) == 0


def test_open_streams_end_before_it_stops_and_everything_is_torn_down(tmp_path):
    gate, left = tmp_path / "gate", tmp_path / "left"
    replace(tmp_path / "pipelines/slow/pipeline_wrapper.py", f"LEFT = {str(left)!r}\n" + SLOW_STREAM)
    with started(tmp_path, "run") as server:
        with httpx.stream("POST", server.url + "/slow/run", json={"gate": str(gate)}, timeout=30) as response:
            pieces = response.iter_text()
            assert next(pieces) == "began "
            server.process.send_signal(signal.SIGTERM)
            server.prints("Shutting down")
            gate.touch()
            assert "".join(pieces) == "ended"
        assert server.process.wait(timeout=30) == 0
        assert left.exists()


def test_a_second_sigterm_of_the_same_stop_changes_nothing_and_a_later_one_ends_it(tmp_path):
    replace(tmp_path / "pipelines/stuck/pipeline_wrapper.py", STUCK.replace("    def run_api(self):", BEGUN))
    with started(tmp_path, "run", GRACEFUL_SHUTDOWN_TIMEOUT="600") as server:
        request = threading.Thread(target=_ignore_the_end, args=(server.url + "/stuck/run",))
        request.start()
        eventually((tmp_path / "begun").exists)
        for _ in range(2):
            server.process.send_signal(signal.SIGTERM)
        server.prints("stopping waits up to")
        assert "stuck, run_api" in server.output()
        assert server.process.poll() is None
        time.sleep(1)
        assert server.stop() == 0
        request.join(timeout=60)


def test_what_outlives_the_graceful_time_does_not_keep_it(tmp_path):
    replace(tmp_path / "pipelines/stuck/pipeline_wrapper.py", STUCK)
    with started(tmp_path, "run", GRACEFUL_SHUTDOWN_TIMEOUT="1") as server:
        request = threading.Thread(target=_ignore_the_end, args=(server.url + "/stuck/run",))
        request.start()
        eventually(lambda: server.get("/status").status_code == 200)

        assert server.stop() == 0
        request.join(timeout=60)


def _ignore_the_end(url: str) -> None:
    try:
        httpx.post(url, json={}, timeout=30)
    except httpx.HTTPError:
        return


CLINGING = """
import concurrent.futures, threading, time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        START

    def run_api(self):
        return 1
"""


@pytest.mark.parametrize(
    "start",
    [
        "threading.Thread(target=time.sleep, args=(600,), daemon=False).start()",
        "concurrent.futures.ThreadPoolExecutor().submit(time.sleep, 600)",
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_threads_that_a_wrapper_leaves_behind_do_not_keep_the_process(tmp_path, workers, start):
    replace(tmp_path / "pipelines/clinging/pipeline_wrapper.py", CLINGING.replace("START", start))
    with started(tmp_path, "run", "--workers", workers) as server:
        assert server.stop() == 0
        assert workers == "2" or "Exited while code of wrappers was still running" in server.output()


def test_every_worker_serves_what_lies_there(tmp_path):
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'one '\n" + ECHO)
    options = ("-w", "2", "-d", "pipelines", "-p", "1", "--reload")  # those of the original; the last port counts
    with started(tmp_path, "run", *options) as server:
        assert server.output().startswith("--reload is always on: every change of the pipelines directory is served")
        eventually(lambda: _answers(server.url) == {"one "})
        replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'two '\n" + ECHO)
        eventually(lambda: _answers(server.url) == {"two "})

        assert server.stop() == 0


def _answers(url: str) -> set[str]:
    """What ten new connections are answered."""
    return set(Counter(httpx.post(url + "/echo/run", json={}).json()["result"] for _ in range(10)))


@pytest.mark.parametrize("command", ["run", "dev"])
def test_a_port_that_is_taken_stops_the_start_with_one_line(tmp_path, command):
    port = free_port()
    with started(tmp_path, "run", port=port):
        second = hayhooks(command, "--port", str(port), cwd=tmp_path)

    assert second.returncode == 1
    assert second.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port}: address already in use; choose another")
    assert (second.stderr.count("\n"), second.stdout) == (1, "")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_stops_the_start_with_one_line(tmp_path, host):
    result = hayhooks("run", "--host", host, cwd=tmp_path)

    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: cannot listen on {host}:1416: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["::1", "::", "localhost", "0.0.0.0"])
def test_addresses_of_every_kind_can_be_listened_on(tmp_path, host):
    check_settings(Settings(host=host, port=0, pipelines_dir=tmp_path, _env_file=None))


VARIABLES = """
import os
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, names: list[str]):
        return [os.environ.get(name) for name in names]
"""


@pytest.mark.parametrize("arguments", [["run"], ["run", "--workers", "2"], ["dev"]])
def test_order_of_settings_sources(tmp_path, arguments):
    """Settings come from the environment file the environment and the command line in that order."""
    replace(tmp_path / "project/there/pipeline_wrapper.py", VARIABLES)
    (tmp_path / ".env").write_text("HAYHOOKS_SHOW_TRACEBACKS=true\nHAYHOOKS_PIPELINES_DIR=nowhere\nOURS=1\nTHEIRS=1\n")
    names = ["OURS", "THEIRS", "HAYHOOKS_SHOW_TRACEBACKS"]
    more = ["project"] if arguments == ["dev"] else ["--pipelines-dir", "project"]
    with started(tmp_path, *arguments, *more, PIPELINES_DIR="elsewhere", variables={"THEIRS": "2"}) as server:
        answer = eventually(lambda: server.post("/there/run", {"names": names}).json()["result"])

    assert answer == ["1", "2", "true"]


def test_variables_of_another_file_reach_wrappers(tmp_path):
    replace(tmp_path / "pipelines/there/pipeline_wrapper.py", VARIABLES)
    (tmp_path / ".env").write_text("OURS=1\n")
    (tmp_path / "other").write_text("THEIRS=2\nLOG=warning\n")
    with started(tmp_path, "run", "--env-file", "other") as server:
        answer = eventually(lambda: server.post("/there/run", {"names": ["OURS", "THEIRS"]}).json()["result"])
        assert "INFO" not in server.output()

    assert answer == [None, "2"]


def test_switch_interval_is_shortened(tmp_path):
    """Pipelines that compute give way to others sooner than python has it."""
    wrapper = (
        "import sys\nfrom hayhooks import BasePipelineWrapper\nclass PipelineWrapper(BasePipelineWrapper):\n"
        "    def setup(self): pass\n    def run_api(self) -> float: return sys.getswitchinterval()\n"
    )
    replace(tmp_path / "pipelines/interval/pipeline_wrapper.py", wrapper)
    with started(tmp_path, "run") as process:
        answer = eventually(lambda: process.post("/interval/run", {}).json()["result"])

    assert answer < sys.getswitchinterval()
