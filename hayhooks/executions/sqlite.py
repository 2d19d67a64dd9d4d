"""The SQLite file of executions, for SQLAlchemy."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy

_SUBSECOND = (3, 42)  # of SQLite: `unixepoch('subsec')`, which DBOS calls, is NULL before


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
