"""Where the system gives no events, or too few: changes are noticed all the same, and ``/status`` says how."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.processes import Process, started
from tests.fork_server import HAYHOOKS
from tests.live_server import ECHO, eventually, replace

FOLDERS = 6


@contextmanager
def limited(tmp_path: Path, limit: str, value: int) -> Iterator[Process]:
    """A server in a namespace of its own, where *limit* of inotify is *value*, over six folders."""
    enter = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        f'echo {value} >/proc/sys/user/{limit}; exec "$@"',
        "sh",
    ]
    if shutil.which("unshare") is None or subprocess.run([*enter, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    for number in range(FOLDERS):
        replace(tmp_path / f"pipelines/app{number}/pipeline_wrapper.py", "ANSWER = 'old '\n" + ECHO)
    with started(tmp_path, *enter[1:], HAYHOOKS, "run", executable=enter[0]) as server:
        yield server


def every_folder_can_be_edited(server: Process, tmp_path: Path) -> None:
    for number in range(FOLDERS):
        replace(tmp_path / f"pipelines/app{number}/pipeline_wrapper.py", f"ANSWER = '{number} '\n{ECHO}")
    for number in range(FOLDERS):
        eventually(lambda number=number: _answer(server, number) == f"{number} x")  # type: ignore[misc]


def _answer(server: Process, number: int) -> object:
    return server.post(f"/app{number}/run", {"text": "x"}).json()["result"]


def test_no_inotify_at_all(tmp_path: Path):
    with limited(tmp_path, "max_inotify_instances", 0) as server:
        every_folder_can_be_edited(server, tmp_path)
        watching = server.get("/status").json()["watching"]

        assert (watching["by"], watching["directories"]) == ("look-around", 0)
        assert "Too many open files" in watching["problem"]


def test_more_folders_than_inotify_may_watch(tmp_path: Path):
    with limited(tmp_path, "max_inotify_watches", 3) as server:
        every_folder_can_be_edited(server, tmp_path)
        watching = server.get("/status").json()["watching"]

        assert watching["problem"], watching
        assert watching["directories"] <= 3
