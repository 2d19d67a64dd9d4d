"""A Postgres of the tests' own: an instance on a loopback port, with its data in a temporary folder."""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.network import free_port

_USER = "postgres"  # the server refuses to run as root


def binaries() -> Path | None:
    """The folder of ``initdb``; None if Postgres is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """A running instance."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.port = free_port()
        self._data = folder / "data"
        self._folder = folder
        self._programs = programs
        self._names = itertools.count()
        self._run("initdb", "--auth=trust", "--username=tests", "--no-sync", str(self._data))
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder} -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def database(self) -> str:
        """Make a database; return its URL."""
        name = f"d{next(self._names)}"
        with psycopg.connect(f"postgresql://tests@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://tests@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", _USER, "--"] if os.geteuid() == 0 else []
        subprocess.run(
            [*as_user, str(self._programs / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )


@contextmanager
def running() -> Iterator[Postgres]:
    """An instance; the test is skipped where Postgres is not installed, but not in CI."""
    programs = binaries()
    if programs is None:
        if os.environ.get("CI"):
            pytest.fail("Postgres is not installed: apt-get install postgresql")
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="hayhooks-postgres-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, _USER)
    try:
        instance = Postgres(folder, programs)
        try:
            yield instance
        finally:
            instance.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
