"""Audit: who changed the pipelines directory by a command, in ``audit.jsonl`` in the state directory."""

import getpass
import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hayhooks.cli.output import note
from hayhooks.settings import Settings

if TYPE_CHECKING:
    from hayhooks.kernel.revision_store import RevisionStore

_MAX_BYTES = 2**20  # of one file
_KEPT = 5  # older files


def record(settings: Settings, what: str, name: str, **facts: object) -> None:
    """Append a line that the user of this process did *what* to *name*; a failure is told, and nothing else."""
    store = store_of(settings)
    if store is None:
        return
    line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "who": user(), "what": what, "name": name}
    file = store.directory / "audit.jsonl"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if file.exists() and file.stat().st_size > _MAX_BYTES:
            for number in range(_KEPT - 1, 0, -1):
                older = file.with_name(f"{file.name}.{number}")
                if older.exists():
                    older.replace(file.with_name(f"{file.name}.{number + 1}"))
            file.replace(file.with_name(f"{file.name}.1"))
        # One write at the end of the file: other commands may write at the same time.
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, json.dumps({**line, **facts}).encode() + b"\n")
        finally:
            os.close(descriptor)
    except OSError as error:
        note((f"The audit {file} cannot be written: {error.strerror or error}", "yellow"))


def store_of(settings: Settings) -> "RevisionStore | None":
    """Return the store of the pipelines directory; None if nothing is kept."""
    from hayhooks.kernel.revision_store import open_store  # noqa: PLC0415 - most commands need none of the kernel

    return open_store(settings.pipelines_dir.absolute(), settings.state_dir, settings.revisions_kept)


def user() -> str:
    """Return the name of the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return f"uid {os.geteuid()}"
