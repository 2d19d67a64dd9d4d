"""The database of executions: its URL, and the SQLAlchemy engine of a SQLite file."""

import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy

from hayhooks.errors import StartError

ACCEPTED = "sqlite:///PATH, sqlite:////ABSOLUTE/PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"

_SUBSECOND = (3, 42)  # of SQLite: `unixepoch('subsec')`, which DBOS calls, is NULL before


def file_of(url: str, root: Path) -> Path | None:
    """Return the file of a SQLite *url*, None for Postgres; StartError for another, or a file below *root*."""
    scheme, _, rest = url.partition(":///")
    if scheme == "sqlite" and rest:
        file = Path(rest).absolute()
        if file.resolve().is_relative_to(root.resolve()):
            message = (
                f"HAYHOOKS_DURABLE_URL is {url!r}: the database cannot be in the pipelines directory {str(root)!r}"
            )
            raise StartError(message)
        return file
    if urlsplit(url).scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        return None
    scheme = url.partition(":")[0]  # the rest may have a password
    raise StartError(f"HAYHOOKS_DURABLE_URL begins with {scheme!r}: it must be {ACCEPTED}")


def postgres_url(url: str) -> str:
    """Return *url* with the driver that DBOS brings."""
    return "postgresql+psycopg://" + url.partition("://")[2]


def sqlite_engine(file: Path) -> sqlalchemy.Engine:
    """Return an engine for *file*, with a write-ahead log: DBOS's own has none, and several processes would wait."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)
    engine = sqlalchemy.create_engine(f"sqlite:///{file}", pool_size=8, max_overflow=0, pool_timeout=30)

    @sqlalchemy.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        if sqlite3.sqlite_version_info < _SUBSECOND:
            connection.create_function("unixepoch", 1, lambda _modifier: time.time())
        connection.isolation_level = "IMMEDIATE"

    return engine
