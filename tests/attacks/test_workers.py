"""Wrappers, users and cleaners that end, hang or confuse worker processes."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from hayhooks.kernel.quarantine import Deaths
from tests.cli.processes import Process, environment, started
from tests.fork_server import HAYHOOKS
from tests.live_server import ECHO, eventually, replace
from tests.network import free_port

KILLER = """
import ctypes
import os
import signal

from hayhooks import BasePipelineWrapper


def die():
    if HOW == "status":
        os._exit(3)
    if HOW == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    ctypes.string_at(0)


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        if WHEN == "setup":
            die()

    def run_api(self) -> str:
        die()
        return "alive"
"""

DEAF = """
import signal
import time

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self, path: str) -> str:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        open(path, "w").close()
        time.sleep(600)
"""


def write_killer(tmp_path: Path, name: str = "killer", **constants: str) -> None:
    head = "".join(f"{constant.upper()} = {value!r}\n" for constant, value in constants.items())
    replace(tmp_path / f"pipelines/{name}/pipeline_wrapper.py", head + KILLER)


def write_echo(tmp_path: Path, name: str = "echo") -> None:
    replace(tmp_path / f"pipelines/{name}/pipeline_wrapper.py", "ANSWER = 'here'\n" + ECHO)


def states(server: Process) -> dict[str, tuple[str, str]]:
    found = server.get("/status").json()["deployments"]
    return {entry["name"]: (entry["state"], str(entry["error"])) for entry in found}


def pids(server: Process) -> set[int]:
    return {worker["pid"] for worker in server.get("/status").json()["workers"]}


def two_workers(server: Process, other_than: Collection[int] = ()) -> set[int]:
    """Wait for an answer that lists two workers, none of them in *other_than*; that of a new one may lack the other."""

    def listed() -> set[int]:
        found = pids(server)
        return found if len(found) == 2 and found.isdisjoint(other_than) else set()

    return eventually(listed, "two workers", 60)


BUSY = """
import asyncio

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self):
        for number in range(6000):
            yield f"{number} "
            await asyncio.sleep(0.1)
"""


@contextmanager
def asked(server: Process) -> Iterator[list[str]]:
    """Somebody who asks another deployment all the time, again after an error; what came instead of its answer."""
    wrong: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.02):
            try:
                response = httpx.post(server.url + "/echo/run", json={}, timeout=60)
            except httpx.HTTPError:  # its worker has been ended in between
                continue
            if response.json() != {"result": "here"}:
                wrong.append(response.text)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("how", ["status", "signal", "fault"])
@pytest.mark.slow
def test_a_deployment_whose_requests_end_the_process_is_quarantined(tmp_path: Path, how: str):
    write_echo(tmp_path)
    write_killer(tmp_path, how=how, when="run")
    with started(tmp_path, "run", "--workers", "2") as server:
        two_workers(server)
        with asked(server) as wrong:

            def is_quarantined() -> bool:
                # If a worker died by a signal while it loads echo, that would be suspected too.
                assert all(states(server)["echo"][0] == "serving" for _ in range(4))
                response = server.post("/killer/run", {})
                return response.status_code == 503 and bool(re.search("ended the process [3-6] times", response.text))

            eventually(is_quarantined, "the killer to be quarantined", 60)
            eventually(lambda: all(states(server)["killer"][0] == "failed" for _ in range(6)))
        assert not wrong
        eventually(lambda: states(server)["echo"][0] == "serving")  # a new worker may still be loading
        # More than 3 times where another was always at work too.
        eventually(lambda: re.match("ended the process [3-6] times", states(server)["killer"][1]))
        eventually(lambda: states(server)["killer"][0] == "failed")

        write_killer(tmp_path, how=how, when="never")  # another revision gets its chance
        eventually(lambda: states(server)["killer"][0] == "serving", "the new revision", 30)
        assert server.stop() == 0


@pytest.mark.parametrize("how", ["status", "fault"])
@pytest.mark.slow
def test_a_deployment_whose_setup_ends_the_process_is_quarantined_and_no_other(tmp_path: Path, how: str):
    write_echo(tmp_path)
    for number in range(3):
        write_echo(tmp_path, f"a{number}")
    write_killer(tmp_path, how=how, when="setup")
    with started(tmp_path, "run", "--workers", "2") as server:
        eventually(lambda: "times" in states(server)["killer"][1], "the killer to be quarantined", 60)
        eventually(lambda: len(states(server)) == 5)
        assert "ended the process" in states(server)["killer"][1]
        eventually(lambda: {state for name, (state, _) in states(server).items() if name != "killer"} == {"serving"})

        write_killer(tmp_path, how=how, when="never")
        eventually(lambda: states(server)["killer"][0] == "serving", "the new revision", 30)
        assert server.stop() == 0


@pytest.mark.slow
def test_a_save_that_ends_the_process_is_quarantined_in_a_running_server(tmp_path: Path):
    write_echo(tmp_path)
    write_killer(tmp_path, how="status", when="never")
    with started(tmp_path, "run", "--workers", "2") as server:
        two_workers(server)
        write_killer(tmp_path, how="status", when="setup")
        # One worker serves the others meanwhile, unless the third to load it has died before that one could start.
        eventually(
            lambda: re.search("may have ended|is not loaded again", server.output()), "its deaths to be told", 60
        )
        with asked(server) as wrong:
            eventually(lambda: "times" in states(server)["killer"][1], "the killer to be quarantined", 60)
        assert not wrong
        assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["status", "fault"])
def test_one_that_is_always_at_work_is_not_suspected(tmp_path: Path, how: str):
    replace(tmp_path / "pipelines/busy/pipeline_wrapper.py", BUSY)
    write_killer(tmp_path, how=how, when="run")
    with started(tmp_path, "run", "--workers", "2") as server:
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    with httpx.stream("POST", server.url + "/busy/run", json={}, timeout=60) as response:
                        for _ in response.iter_text():
                            if stop.is_set():
                                return
                except httpx.HTTPError:
                    continue

        listeners = [threading.Thread(target=listen) for _ in range(6)]
        for listener in listeners:
            listener.start()
        try:
            eventually(lambda: server.post("/killer/run", {}).status_code == 503, "the killer to be quarantined", 60)
            eventually(lambda: "ended the process 3 times" in states(server)["killer"][1])
            seen = {
                states(server).get("busy", ["not seen yet"])[0] for _ in range(6)
            }  # by a worker that has just begun
            assert seen <= {"serving", "loading", "not seen yet"}
        finally:
            stop.set()
            for listener in listeners:
                listener.join()
        assert "pipeline_wrapper.py" in server.output()  # the stack tells where
        server.stop()


@pytest.mark.slow
def test_workers_that_cannot_start_stop_the_server(tmp_path: Path):
    """The keys can be read once only: by the supervisor, which checks the settings, and not by a worker."""
    (tmp_path / "pipelines").mkdir()
    command = f"HAYHOOKS_API_KEYS_FILE=<(echo key) exec {HAYHOOKS} run --workers 2 --port {free_port()}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "The worker cannot start: StartError: HAYHOOKS_API_KEYS_FILE=" in done.stderr


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path):
    write_echo(tmp_path)
    with started(tmp_path, "run", "--workers", "2") as server:
        workers = eventually(lambda: len(found := pids(server)) == 2 and found, "two workers")
        server.process.kill()
        server.process.wait()
        assert isinstance(workers, set)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers to end", 30)
        with pytest.raises(httpx.ConnectError):
            server.get("/healthz")


@pytest.mark.slow
def test_a_worker_that_ignores_sigterm_is_killed(tmp_path: Path):
    replace(tmp_path / "pipelines/deaf/pipeline_wrapper.py", DEAF)
    gate = tmp_path / "gate"
    with started(tmp_path, "run", "--workers", "2", GRACEFUL_SHUTDOWN_TIMEOUT="1") as server:
        asking = threading.Thread(target=_ask_and_be_cut, args=(server, gate))
        asking.start()
        eventually(gate.exists)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 60
        asking.join()
        assert "did not stop within the graceful time" in server.output()


def _ask_and_be_cut(server: Process, gate: Path) -> None:
    try:
        httpx.post(server.url + "/deaf/run", json={"path": str(gate)}, timeout=60)
    except httpx.HTTPError:
        return


def test_the_shared_directory_is_made_anew(tmp_path: Path):
    write_echo(tmp_path)
    (tmp_path / "temporary").mkdir()
    os.environ["TMPDIR"] = str(tmp_path / "temporary")
    try:
        with started(tmp_path, "run", "--workers", "2") as server:
            before = two_workers(server)
            (directory,) = (tmp_path / "temporary").glob("hayhooks-????????")
            directory.rename(tmp_path / "removed")  # in one step: workers write into it
            eventually(lambda: pids(server) == before, "both workers to be listed again")
            assert directory.stat().st_mode & 0o777 == 0o700
            eventually(lambda: "hayhooks_workers 2" in server.get("/metrics").text)
            for worker in before:  # the last ones who could make it anew
                os.kill(worker, signal.SIGKILL)
            directory.rename(tmp_path / "removed again")
            two_workers(server, other_than=before)
            assert server.stop() == 0
        assert not list((tmp_path / "temporary").glob("hayhooks-????????"))
    finally:
        del os.environ["TMPDIR"]


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_is_replaced_after_a_growing_pause(tmp_path: Path):
    write_echo(tmp_path)
    with started(tmp_path, "run", "--workers", "2") as server:
        steady = min(two_workers(server))
        with asked(server) as wrong:
            for death in range(3):
                (victim,) = two_workers(server) - {steady}
                loads = 2 + death  # of echo, which would be suspected if it died of it
                eventually(lambda: server.output().count("Deployed echo") == loads)  # noqa: B023
                os.kill(victim, signal.SIGKILL)
                eventually(lambda: pids(server) == {steady}, "its death to be noticed")
        assert not wrong
        assert steady in pids(server)
        output = server.output()
        assert [f"replaced in {pause} s" in output for pause in ("0", "0.5", "1")] == [True] * 3
        assert server.stop() == 0


def test_the_guilty_one_is_in_more_deaths_than_any_other():
    killer, busy, other = (("killer", "1"), ("busy", "2"), ("other", "3"))
    deaths = Deaths()
    assert not deaths.add(frozenset({killer, busy}))
    assert not deaths.add(frozenset({killer, busy}))
    assert not deaths.verdicts.suspects  # nobody serves less for that
    assert not deaths.add(frozenset({killer, busy}), frozenset({killer, busy}))  # which of them?
    assert deaths.verdicts.suspects == {killer, busy}
    assert deaths.add(frozenset({killer, other})) == [killer]
    assert deaths.verdicts.quarantined == {killer: 4}
    assert not deaths.verdicts.suspects  # the killer explains all four
    assert not deaths.add(frozenset())


def test_those_that_cannot_be_told_apart_are_left_alone():
    """A production server has deployments that are always at work: they must not be taken away all at once."""
    both = frozenset({("one", "1"), ("two", "2")})
    deaths = Deaths()
    for _ in range(20):
        assert not deaths.add(both)
    assert deaths.add(frozenset({("one", "1")})) == [("one", "1")]
