"""Trees that are too broad or too deep: they cost their own folder, not the others."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.traffic import Traffic, write

TOO_MANY = 4_000


def test_more_directories_than_can_be_looked_into_cost_the_others_nothing(traffic: Traffic):
    """The nearest ones are looked into: there lies what is imported."""
    server = traffic.server
    for number in range(TOO_MANY):
        os.makedirs(server.root / f"broad/cache/{number % 100}/{number}")
    write(server.root / "broad", 1)
    server.eventually(lambda: server.run("broad") == [1, 1, 1])

    for version in (11, 12):
        write(server.root / "app", version)
        server.eventually(lambda version=version: server.run("app") == [version] * 3)  # type: ignore[misc]
        traffic.serves(version)
    write(server.root / "broad", 2)
    server.eventually(lambda: server.run("broad") == [2, 2, 2])


@contextmanager
def deeper_than_a_path_may_be_long(folder: Path) -> Iterator[None]:
    """Directories in directories: what lies in the last ones has no name that a system call would take."""
    here = os.open(".", os.O_RDONLY)
    name = "d" * 200
    os.chdir(folder)
    try:
        for _ in range(30):
            os.mkdir(name)
            os.chdir(name)
        os.fchdir(here)
        yield
    finally:
        os.fchdir(here)
        os.close(here)
        shutil.rmtree(folder / name)


def test_a_tree_that_is_too_deep_keeps_no_edit_from_being_served(traffic: Traffic):
    app = traffic.server.root / "app"
    with deeper_than_a_path_may_be_long(app):
        for version in (11, 12):
            write(app, version)
            traffic.server.eventually(lambda version=version: traffic.server.run("app") == [version] * 3)  # type: ignore[misc]
            traffic.serves(version)
