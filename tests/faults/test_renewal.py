"""Watches are renewed: after any replacement the next edit is told by an event, here where nobody looks around."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.test_tools import TOOLS, Tool
from tests.faults.traffic import files, write
from tests.live_server import LiveServer, replace, serving

NEVER_MS = 600_000


@pytest.fixture
def server(root: Path) -> Iterator[LiveServer]:
    write(root / "app", 10)
    with serving(root, poll_interval_ms=NEVER_MS) as server:
        server.eventually(lambda: server.run("app") == [10, 10, 10])
        yield server


def is_served(server: LiveServer, version: int) -> None:
    server.eventually(lambda: server.run("app") == [version] * 3, f"version {version} to be served")


def every_edit_is_served(server: LiveServer, app: Path, version: int) -> None:
    """One edit after the other, of each file alone."""
    for path, content in files(version).items():
        replace(app / path, content)
    is_served(server, version)
    replace(app / "data/prompt.txt", "99")
    server.eventually(lambda: server.run("app") == [version, version, 99], "the data to be served")
    replace(app / "data/prompt.txt", str(version))
    is_served(server, version)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_after_every_tool(server: LiveServer, tmp_path: Path, tool: Tool):
    app, beside = server.root / "app", tmp_path / "beside"
    for version in (11, 13, 15):
        beside.mkdir(exist_ok=True)
        tool(app, beside, version)
        is_served(server, version)
        every_edit_is_served(server, app, version + 1)


def quick_replacement(root: Path, version: int) -> None:
    """Within one burst of events; the new folders may even get the old ones' inodes."""
    shutil.rmtree(root / "app")
    write(root / "app", version)


def replaced_below(root: Path, version: int) -> None:
    shutil.rmtree(root / "app/data")
    write(root / "app", version)


def replaced_root(root: Path, version: int) -> None:
    shutil.rmtree(root)
    write(root / "app", version)


def moved_root(root: Path, version: int) -> None:
    os.rename(root, root.with_name(f"old-{version}"))
    write(root / "app", version)


@pytest.mark.parametrize(
    "act", [quick_replacement, replaced_below, replaced_root, moved_root], ids=lambda act: act.__name__
)
def test_after_a_replacement(server: LiveServer, act: Callable[[Path, int], None]):
    for version in (11, 13, 15, 17):
        act(server.root, version)
        is_served(server, version)
        every_edit_is_served(server, server.root / "app", version + 1)


def test_where_the_place_behind_a_link_is_renamed(tmp_path: Path):
    """The directory is the same one and is called by the same link; only its real name is another."""
    root = tmp_path / "current"
    write(tmp_path / "tree-0/app", 10)
    os.symlink("tree-0", root)
    with serving(root, poll_interval_ms=NEVER_MS) as server:
        is_served(server, 10)
        for number in range(1, 4):
            os.rename(tmp_path / f"tree-{number - 1}", tmp_path / f"tree-{number}")
            os.symlink(f"tree-{number}", tmp_path / "next")
            os.replace(tmp_path / "next", root)
            every_edit_is_served(server, root / "app", 10 + number)


def test_a_folder_under_two_names(server: LiveServer):
    os.symlink("app", server.root / "alias")
    server.eventually(lambda: server.run("alias") == [10, 10, 10])
    for version in (11, 12):
        write(server.root / "app", version)
        is_served(server, version)
        server.eventually(lambda version=version: server.run("alias") == [version] * 3)  # type: ignore[misc]
