"""Which processes are alive: each holds a lock that the system or Postgres takes back when it dies."""

import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import Protocol

import sqlalchemy

_NAMESPACE = 0x6861  # of Postgres's advisory locks, "ha"
_UNSURE_S = 5.0  # after Postgres was away: the others take their locks again


class Liveness(Protocol):
    """Knows which executors are dead; for one thread."""

    def hold(self) -> None:
        """Make sure that this process holds its own lock."""

    def is_dead(self, executor: str) -> bool:
        """Whether the process of *executor* has ended."""

    def close(self) -> None:
        """Give the own lock back."""


class FileLiveness:
    """A locked file for each process, in a folder beside the database.

    The lock is POSIX's: a process that the user's code forks does not hold it on.
    """

    def __init__(self, folder: Path, executor: str) -> None:
        self._folder = folder
        self._own = folder / executor
        folder.mkdir(mode=0o700, exist_ok=True)
        self._file = os.open(self._own, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def hold(self) -> None:
        """Do nothing: the lock lasts as long as the process."""

    def is_dead(self, executor: str) -> bool:
        """Whether nobody holds the lock of *executor*; its file is removed then."""
        path = self._folder / executor
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(file)
        path.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Remove the file and with it the lock."""
        self._own.unlink(missing_ok=True)
        os.close(self._file)


class PostgresLiveness:
    """An advisory lock for each process, on a connection of its own."""

    def __init__(self, url: str, executor: str) -> None:
        self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
        self._executor = executor
        self._connection: sqlalchemy.Connection | None = None
        self._sure_at = 0.0  # of a monotonic clock
        self.hold()

    def hold(self) -> None:
        """Connect again and take the lock again, if the connection is lost."""
        if self._connection is not None:
            try:
                self._connection.execute(sqlalchemy.text("SELECT 1"))
                return
            except sqlalchemy.exc.DBAPIError:
                self._connection.close()
                self._connection = None
                self._sure_at = time.monotonic() + _UNSURE_S
        self._connection = self._engine.connect()
        self._call("pg_advisory_lock", self._executor)

    def is_dead(self, executor: str) -> bool:
        """Whether nobody holds the lock of *executor*."""
        if time.monotonic() < self._sure_at or not self._call("pg_try_advisory_lock", executor):
            return False
        self._call("pg_advisory_unlock", executor)
        return True

    def close(self) -> None:
        """Close the connection, and with it the lock."""
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    def _call(self, function: str, executor: str) -> object:
        assert self._connection is not None
        number = int.from_bytes(hashlib.blake2b(executor.encode(), digest_size=4).digest(), "big", signed=True)
        statement = sqlalchemy.text(f"SELECT {function}(:namespace, :number)")
        return self._connection.execute(statement, {"namespace": _NAMESPACE, "number": number}).scalar()
