"""Watching and polling, and what ``/status`` shows of them."""

import mmap
import subprocess
from pathlib import Path
from queue import SimpleQueue

import pytest

from hayhooks.kernel.watch import Watch
from tests.live_server import ECHO, LiveServer, serving


def test_status_shows_how_many_directories_raise_events(server: LiveServer):
    server.serve("echo", answer=1)

    watching = server.eventually(lambda: server.status()["watching"])

    assert watching["by"] == "events"
    assert watching["problem"] is None
    server.eventually(lambda: server.status()["watching"]["directories"] == 2)


def test_polling_finds_every_change(root: Path):
    with serving(root, watch_events=False, poll_interval_ms=50) as server:
        server.serve("echo", answer=1)
        server.serve("echo", answer=2)
        server.write("echo/deep", "", {"data.txt": "x"})
        server.remove("echo")
        server.eventually(lambda: server.state("echo") is None)
        assert server.status()["watching"] == {
            "by": "look-around",
            "directories": 0,
            "poll_interval_ms": 50,
            "problem": "events are switched off",
        }


def test_polling_goes_on_while_a_folder_keeps_changing(server: LiveServer):
    server.serve("busy", answer=1)
    prompt = server.write("quiet", ECHO, {"prompt.txt": "a" * 4096}, answer=1) / "prompt.txt"
    server.eventually(lambda: server.state("quiet"))
    before = server.state("quiet")["revision"]
    touch = f"while sleep 0.005; do touch {server.root}/busy/pipeline_wrapper.py; done"
    with subprocess.Popen(["sh", "-c", touch]) as busy:
        with prompt.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
            memory[0:1] = b"b"  # raises no event
            memory.flush()
        try:
            server.eventually(lambda: server.state("quiet")["revision"] != before)
        finally:
            busy.kill()


@pytest.mark.parametrize("events", [True, False])
def test_slow_scans_are_rarer_where_there_are_events(events: bool, tmp_path: Path):
    ticks: SimpleQueue[frozenset[str]] = SimpleQueue()
    watch = Watch(ticks.put, poll_interval_s=0.01, events=events)
    watch.full_scan_took(cpu_s=60)
    status = tmp_path.stat()
    watch.follow({str(tmp_path): (status.st_dev, status.st_ino)})
    watch.start()
    try:
        for _ in range(2):  # when the watch begins, and once more, before anything is known
            assert ticks.get(timeout=60) == frozenset()
        if events:
            (tmp_path / "new").touch()
            assert ticks.get(timeout=60) == {str(tmp_path / "new")}  # and nothing before that, for it has looked
            assert ticks.empty()
        else:
            assert ticks.get(timeout=60) == frozenset()
    finally:
        watch.stop()
