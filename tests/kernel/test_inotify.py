"""What inotify tells of a directory, asked without watchfiles."""

import atexit
import os
import shutil
import threading
from pathlib import Path

import pytest

from hayhooks.kernel.inotify import LOST_EVENTS, Inotify, PollableEvent

STOP = PollableEvent()
atexit.register(STOP.close)


def changed(backend: Inotify) -> set[str]:
    """The paths of the changes that come within a second."""
    changes = backend.watch(400, 10, 1000, STOP)
    return {path for _, path in changes} if isinstance(changes, set) else set()


def test_every_change_of_a_file_is_told(tmp_path: Path):
    file, other = tmp_path / "file", tmp_path / "other"
    with Inotify([str(tmp_path)]) as backend:
        assert backend.watched == 1
        file.write_text("new")
        assert changed(backend) == {str(file)}
        file.write_text("changed")
        assert changed(backend) == {str(file)}
        file.chmod(0o600)
        assert changed(backend) == {str(file)}
        file.rename(other)
        assert changed(backend) == {str(file), str(other)}
        other.unlink()
        assert changed(backend) == {str(other)}
        file.symlink_to("nowhere")
        assert changed(backend) == {str(file)}


def test_reading_is_no_change_and_what_lies_below_is_not_told(tmp_path: Path):
    (tmp_path / "below").mkdir()
    file = tmp_path / "file"
    file.write_text("x")
    with Inotify([str(tmp_path)]) as backend:
        file.read_text()
        (tmp_path / "below" / "deep").touch()
        assert backend.watch(400, 10, 50, STOP) == "timeout"


def test_any_name_is_told(tmp_path: Path):
    path = os.path.join(os.fsencode(tmp_path), b"no utf-8 \xff")
    with Inotify([str(tmp_path)]) as backend, open(path, "w"):
        assert changed(backend) == {os.fsdecode(path)}


def test_a_directory_that_goes_is_told(tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with Inotify([str(folder)]) as backend:
        shutil.rmtree(folder)
        assert str(folder) in changed(backend)
        assert backend.watched == 0


def test_lost_events_are_told(tmp_path: Path):
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip("the queue is too long to fill it")
    file = tmp_path / "file"
    file.touch()
    with Inotify([str(tmp_path)]) as backend:
        for number in range(limit + 1):  # equal events in a row are one
            os.chmod(tmp_path if number % 2 else file, 0o700)
        changes = backend.watch(5_000, 10, 1000, STOP)
    assert isinstance(changes, set)
    assert LOST_EVENTS in changes


def test_a_burst_that_goes_on_is_told_after_its_longest_time(tmp_path: Path):
    done = threading.Event()

    def touch() -> None:
        while not done.is_set():
            (tmp_path / "file").touch()

    with Inotify([str(tmp_path)]) as backend:
        thread = threading.Thread(target=touch)
        thread.start()
        try:
            assert changed(backend) == {str(tmp_path / "file")}
        finally:
            done.set()
            thread.join()


def test_a_stop_ends_the_wait_at_once(tmp_path: Path):
    stop = PollableEvent()
    with Inotify([str(tmp_path)]) as backend:
        threading.Timer(0.1, stop.set).start()
        assert backend.watch(400, 10, 60_000, stop) == "stop"
        assert backend.watch(400, 10, 60_000, stop) == "stop"
        stop.clear()
        assert backend.watch(400, 10, 20, stop) == "timeout"
    stop.close()
    stop.set()  # of a watch that has ended: no other file gets a byte of it
    assert stop.is_set()


def test_a_descriptor_that_other_code_closes_raises(tmp_path: Path):
    stop = PollableEvent()
    with Inotify([str(tmp_path)]) as backend:
        os.close(stop.fileno())
        with pytest.raises(OSError, match="closed by other code"):
            backend.watch(400, 10, 60_000, stop)
    stop.close()


def test_a_directory_that_is_missing_raises_and_leaves_nothing_open(tmp_path: Path):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError, match="missing"):
        Inotify([str(tmp_path), str(tmp_path / "missing")])
    assert os.listdir("/proc/self/fd") == before
