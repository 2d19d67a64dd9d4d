"""How many loads run at a time, and how long a changed revision waits for its load."""

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hayhooks.cli.dev import _served
from hayhooks.kernel.threads import DaemonThreadPool
from hayhooks.settings import Settings
from hayhooks.testing import client
from tests.live_server import ECHO, LiveServer, again, eventually, serving

# Leaves a file with the time while its setup() runs, and one in its place afterwards.
GATED = """
import time
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        began = Path(NOTES, f"{OWN_NAME} {VERSION} began")
        began.write_text(str(time.time()))
        while not Path(NOTES, f"{OWN_NAME} {VERSION} may end").exists():
            time.sleep(0.01)
        began.rename(Path(NOTES, f"{OWN_NAME} {VERSION} ended"))

    def run_api(self):
        return VERSION
"""

A_DAY_MS = 86_400_000  # a random time of up to so long is hardly ever one that ends during a test


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def write(server: LiveServer, notes: Path, name: str, version: int = 1) -> None:
    server.write(name, GATED, notes=str(notes), own_name=name, version=version)


def let_end(notes: Path, name: str, version: int = 1) -> None:
    (notes / f"{name} {version} may end").touch()


def in_setup(notes: Path) -> list[str]:
    return sorted(path.name.removesuffix(" began") for path in notes.glob("* began"))


def why(server: LiveServer) -> dict[str, str]:
    return {entry["name"]: entry["why"] for entry in server.status()["loading"]}


def test_no_more_loads_run_at_a_time_than_the_setting_says(root: Path, notes: Path):
    names = [f"p{number}" for number in range(5)]
    with serving(root, loads_at_a_time=2) as server:
        for name in names:
            write(server, notes, name)
        eventually(lambda: len(in_setup(notes)) == 2)
        eventually(lambda: len(why(server)) == 5)
        time.sleep(1.5)  # longer than a load may take in which another does not begin beside it, without the setting
        running = [name.split()[0] for name in in_setup(notes)]
        assert len(running) == 2
        waiting = {name: text for name, text in why(server).items() if name not in running}
        turn = f"waits for its turn: 2 loads at a time (HAYHOOKS_LOADS_AT_A_TIME), now {', '.join(sorted(running))}"
        assert waiting == dict.fromkeys(set(names) - set(running), turn)
        assert {entry["state"] for entry in server.status()["deployments"]} == {"loading"}

        while server.status()["pipelines"] != names:
            running = [name.split()[0] for name in in_setup(notes)]
            assert len(running) <= 2
            for name in running:
                let_end(notes, name)


def test_a_load_that_hangs_takes_one_place(root: Path, notes: Path):
    with serving(root, loads_at_a_time=2) as server:
        write(server, notes, "hangs")
        eventually(lambda: in_setup(notes) == ["hangs 1"])
        for number in range(6):
            server.write(f"p{number}", answer=str(number))
        eventually(lambda: len(server.status()["pipelines"]) == 6)
        assert "setup() at" in why(server)["hangs"]
        let_end(notes, "hangs")
        eventually(lambda: server.run("hangs") == 1)


def test_the_repaired_revision_of_a_load_that_hangs_is_loaded(root: Path, notes: Path):
    """What was saved over a load that hangs need not wait for its end; nor does another that waited for it."""
    with serving(root, loads_at_a_time=1) as server:
        write(server, notes, "chat")
        eventually(lambda: in_setup(notes) == ["chat 1"])
        server.write("other", answer="other")
        eventually(lambda: "other" in why(server))
        let_end(notes, "chat", version=2)
        write(server, notes, "chat", version=2)
        eventually(lambda: server.run("chat") == 2)
        eventually(lambda: server.run("other") == "other")
        let_end(notes, "chat")


def test_a_load_that_hangs_for_long_makes_room_and_that_is_told(
    root: Path, notes: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hayhooks.kernel.load_threads.HANGS_AFTER_S", 2.5)
    monkeypatch.setattr("hayhooks.kernel.load_job._TELL_AT_S", (0.5, 1.0, 2.5))
    with serving(root, loads_at_a_time=1) as server:
        write(server, notes, "hangs")
        eventually(lambda: in_setup(notes) == ["hangs 1"])
        server.write("other", answer="other")
        eventually(lambda: "other" in why(server))
        told = eventually(lambda: [line for line in logged if "WARNING hangs" in line])[0]
        assert "has been loading for 1." in told
        assert told.endswith("; 1 load waits for its turn (HAYHOOKS_LOADS_AT_A_TIME)")

        eventually(lambda: server.run("other") == "other")
        eventually(lambda: [line for line in logged if line.endswith("; another one may begin beside it")])
        assert not [line for line in logged if " other " in line and "has been loading" in line]
        let_end(notes, "hangs")
        eventually(lambda: server.run("hangs") == 1)


def test_what_served_before_is_restored_though_the_load_that_hangs_has_the_only_place(
    root: Path, tmp_path: Path, notes: Path
):
    state = tmp_path / "state"
    with again(root, state) as server:
        server.serve("chat", answer="before")
    (root / "chat/pipeline_wrapper.py").write_text(f"NOTES, OWN_NAME, VERSION = {str(notes)!r}, 'chat', 2\n" + GATED)
    with again(root, state, loads_at_a_time=1) as server:
        eventually(lambda: server.run("chat") == "before")
        assert in_setup(notes) == ["chat 2"]
        let_end(notes, "chat", version=2)
        eventually(lambda: server.run("chat") == 2)


def test_no_more_run_beside_each_other_after_some_have_made_room():
    pool = DaemonThreadPool("room", 1, stuck_after_s=0.05, idle_s=1000)
    gate, lock = threading.Event(), threading.Lock()
    running: list[int] = []
    most: list[int] = []

    def job(number: int) -> None:
        with lock:
            running.append(number)
            most.append(len(running))
        time.sleep(0.01)
        with lock:
            running.remove(number)

    for _ in range(3):
        pool.submit(partial(gate.wait, 60))
    began = threading.Event()
    pool.submit(began.set)

    def has_begun() -> bool:
        pool.tick()
        return began.is_set()

    eventually(has_begun)
    gate.set()
    eventually(lambda: sum(thread.name == "hayhooks room" for thread in threading.enumerate()) == 1)
    for number in range(20):
        pool.submit(partial(job, number))
    eventually(lambda: len(most) == 20)
    assert set(most) == {1}


def test_a_revision_waits_a_random_time_and_the_newest_is_loaded(root: Path, notes: Path):
    with serving(root, load_jitter_ms=A_DAY_MS) as server:
        assert server.app.reconciler is not None
        write(server, notes, "chat")
        waits = eventually(lambda: why(server)["chat"])
        assert waits.startswith("waits ")
        assert waits.endswith(" more, a random time of up to 86400 s (HAYHOOKS_LOAD_JITTER_MS)")
        assert server.state("chat")["state"] == "loading"
        job = server.app.reconciler._loads.jobs["chat"]

        for version in (2, 3):  # the wait does not begin anew: who saves often would never see what they have saved
            write(server, notes, "chat", version=version)
            newer = eventually(partial(_newer, server, job))
            assert newer.begins_at == job.begins_at
            job = newer
        server.write("gone")
        eventually(lambda: "gone" in why(server))
        server.remove("gone")
        eventually(lambda: "gone" not in why(server))

        let_end(notes, "chat", version=3)
        server.app.reconciler.reload("chat")  # a person asks: at once
        eventually(lambda: server.run("chat") == 3)
        assert not (notes / "chat 1 ended").exists()
        assert not (notes / "chat 2 ended").exists()
        assert in_setup(notes) == []

        write(server, notes, "chat", version=4)  # it changes: the one before serves meanwhile
        eventually(lambda: why(server)["chat"].startswith("waits "))
        assert server.run("chat") == 3
        write(server, notes, "chat", version=3)  # and what serves is on disk again
        eventually(lambda: "chat" not in why(server))
        assert server.state("chat")["state"] == "serving"


def _newer(server: LiveServer, job: Any) -> Any:
    assert server.app.reconciler is not None
    newer = server.app.reconciler._loads.jobs["chat"]
    return newer if newer is not job else None


def test_what_never_runs_does_not_wait(root: Path):
    """A failure that needs no code is told at once."""
    with serving(root, load_jitter_ms=A_DAY_MS) as server:
        server.write("status", ECHO)
        eventually(lambda: server.state("status")["state"] == "failed")


def test_the_loads_of_a_start_are_spread(root: Path, notes: Path):
    """First loads wait too, and the server is not ready before."""
    for number in range(12):
        folder = root / f"p{number}"
        folder.mkdir()
        head = f"NOTES, OWN_NAME, VERSION = {str(notes)!r}, 'p{number}', 1\n"
        (folder / "pipeline_wrapper.py").write_text(head + GATED)
        let_end(notes, f"p{number}")
    with serving(root, load_jitter_ms=2_000) as server:
        assert server.client.get("/readyz").status_code == 503
        eventually(lambda: server.client.get("/readyz").status_code == 200)
        assert len(server.status()["pipelines"]) == 12
    times = sorted(float(path.read_text()) for path in notes.glob("* ended"))
    assert 0.4 < times[-1] - times[0] < 10  # of twelve random times up to 2 s; at once it takes 0.1 s


def test_a_server_is_ready_no_earlier_than_its_loads_may_begin(
    root: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hayhooks.kernel.reconcile._READY_AFTER_S", 0.1)
    (root / "chat").mkdir()
    (root / "chat/pipeline_wrapper.py").write_text(ECHO)
    with serving(root, load_jitter_ms=A_DAY_MS) as server:
        eventually(lambda: "chat" in why(server))
        time.sleep(0.5)
        assert server.client.get("/readyz").status_code == 503


def test_dev_and_tests_do_not_wait(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HAYHOOKS_LOAD_JITTER_MS", str(A_DAY_MS))
    assert _served(Settings(), root)[0].load_jitter_ms == 0

    (root / "chat").mkdir()
    (root / "chat/pipeline_wrapper.py").write_text("ANSWER = 'here'\n" + ECHO)
    with client(root, timeout_s=30) as tested:
        assert tested.post("/chat/run", json={}).json()["result"] == "here"
