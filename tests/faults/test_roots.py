"""A root whose link comes and goes faster than anybody can look: ``ln -sfn`` removes it and makes it again."""

import os
import threading
import time
from pathlib import Path

import pytest

from tests.faults.traffic import write
from tests.live_server import serving

FLICKERING_S = 3.0  # what it takes to meet a moment between two system calls


@pytest.mark.parametrize("where", ["root", "folder"])
def test_a_link_that_flickers_stops_nothing(tmp_path: Path, where: str):
    real, link = tmp_path / "real", tmp_path / "link"
    root = link if where == "root" else tmp_path / "pipelines"
    app = link / "app" if where == "root" else root / "app"
    write(real / "app" if where == "root" else real, 10)
    if where == "folder":
        root.mkdir()
        link = app
    os.symlink(real, link)
    stopped = threading.Event()

    def flicker() -> None:
        while not stopped.is_set():
            os.unlink(link)
            os.symlink(real, link)

    with serving(root) as server:
        server.eventually(lambda: server.run("app") == [10, 10, 10])
        flickering = threading.Thread(target=flicker)
        flickering.start()
        end = time.monotonic() + FLICKERING_S
        while time.monotonic() < end:
            (real / "touched").touch()
            time.sleep(0.01)
        stopped.set()
        flickering.join()

        for version in (11, 12):
            write(app, version)
            server.eventually(lambda version=version: server.run("app") == [version] * 3)  # type: ignore[misc]
        assert "hayhooks reconcile" in {thread.name for thread in threading.enumerate()}
