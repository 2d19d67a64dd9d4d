"""Every kind of odd file: nothing blocks, nothing is shadowed, the next edit is served."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.traffic import Traffic, write
from tests.live_server import ECHO


def fifo(app: Path, beside: Path) -> None:
    os.mkfifo(app / "pipe")
    os.mkfifo(app / "pipe.py")


def unix_socket(app: Path, beside: Path) -> None:
    here = os.getcwd()
    os.chdir(app)  # the path of a socket may not be long
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket")
    os.chdir(here)


def links_to_nowhere(app: Path, beside: Path) -> None:
    os.symlink("nowhere", app / "dangling.py")
    os.symlink("itself", app / "itself")
    os.symlink("loop-b", app / "loop-a")
    os.symlink("loop-a", app / "loop-b")


def links_upwards(app: Path, beside: Path) -> None:
    os.symlink("/", app / "everything")
    os.symlink("..", app / "parent")
    os.symlink(".", app / "here")


def a_link_to_a_big_tree(app: Path, beside: Path) -> None:
    os.symlink("/usr", app / "usr")


def two_gigabytes(app: Path, beside: Path) -> None:
    with (app / "model.bin").open("wb") as file:
        file.truncate(2 * 2**30)


def virtual_environments(app: Path, beside: Path) -> None:
    for name in (".venv", "venv"):
        for number in range(3_000):
            path = app / name / f"lib/package{number % 30}/module{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (app / name / "pyvenv.cfg").touch()


def names_that_are_not_utf8(app: Path, beside: Path) -> None:
    (Path(os.fsdecode(os.fsencode(app) + b"/\xff\xfe.txt"))).touch()
    (Path(os.fsdecode(os.fsencode(app) + b"/\xff\xfe.py"))).touch()
    (Path(os.fsdecode(os.fsencode(app.parent) + b"/\xff\xfe"))).mkdir()


def odd_names(app: Path, beside: Path) -> None:
    for name in ("new\nline.txt", "with space.py", "%2e%2e", "'quote\".py", "ünïcode.py"):
        (app / name).touch()


ODD: list[Callable[[Path, Path], None]] = [
    fifo,
    unix_socket,
    links_to_nowhere,
    links_upwards,
    a_link_to_a_big_tree,
    two_gigabytes,
    virtual_environments,
    names_that_are_not_utf8,
    odd_names,
]


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_an_odd_file_blocks_nothing_and_the_next_edits_are_served(
    traffic: Traffic, tmp_path: Path, make: Callable[[Path, Path], None]
):
    app = traffic.server.root / "app"
    make(app, tmp_path)
    for version in (11, 12):
        write(app, version)
        traffic.serves(version)
    assert traffic.server.state("app")["error"] is None


@pytest.mark.parametrize("name", ["status", "v1", "models", "docs", "healthz", "metrics"])
def test_a_folder_named_like_a_route_shadows_nothing(traffic: Traffic, name: str):
    write(traffic.server.root / name, 1)

    traffic.server.eventually(lambda: traffic.server.state(name)["state"] == "failed")

    assert "belongs to a route" in traffic.server.state(name)["error"]


@pytest.mark.parametrize("name", ["json", "asyncio", "haystack", "hayhooks", "pydantic", "__main__x", "test"])
def test_a_folder_named_like_a_package_serves_and_breaks_nobody(traffic: Traffic, name: str):
    package = sys.modules.get(name)
    write(traffic.server.root / name, 1)
    if name.startswith("_"):
        write(traffic.server.root / "sign", 1)
        traffic.server.eventually(lambda: traffic.server.run("sign") == [1, 1, 1])
        assert traffic.server.state(name) is None
        return
    traffic.server.eventually(lambda: traffic.server.run(name) == [1, 1, 1])
    assert sys.modules.get(name) is package
    write(traffic.server.root / "app", 11)
    traffic.serves(11)


def test_a_link_to_everything_costs_no_more_than_a_look(traffic: Traffic):
    """A new folder with such a link beside its wrapper is served too."""
    app = traffic.server.root / "linked"
    app.mkdir()
    os.symlink("/", app / "root")
    subprocess.run(["ln", "-s", "/proc", app / "proc"], check=True)
    (app / "pipeline_wrapper.py").write_text("ANSWER = 'linked '\n" + ECHO)

    traffic.server.eventually(lambda: traffic.server.run("linked", text="x") == "linked x")
