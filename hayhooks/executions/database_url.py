"""The URL of the database of executions."""

from pathlib import Path
from urllib.parse import urlsplit

from hayhooks.errors import StartError

ACCEPTED = "sqlite:///PATH, sqlite:////ABSOLUTE/PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


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
