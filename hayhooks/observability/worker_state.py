"""Workers: what several processes that serve one port tell each other, by a file of each in a directory of theirs.

Each worker deploys for itself. That all serve the same can only be seen when one knows of the others: a client that
asks ``/status`` meets any of them.
"""

import json
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hayhooks.kernel.self_writes import is_process_alive
from hayhooks.observability.log import log

_VARIABLE = "_HAYHOOKS_WORKERS"  # no setting: it is set by the process that starts the workers


class WorkerStateDir:
    """Where workers post what they serve; None as *directory* for a process that has no others."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory

    @classmethod
    def of_environment(cls) -> "WorkerStateDir":
        """The worker_dir that the process which started us has made."""
        directory = os.environ.get(_VARIABLE)
        return cls(Path(directory) if directory else None)

    @property
    def notes(self) -> Path | None:
        """A directory for notes that workers leave each other."""
        return self.directory and self.directory / "notes"

    @staticmethod
    def announce(directory: Path) -> None:
        """Tell the workers that are started from now on to use *directory*."""
        (directory / "notes").mkdir()
        os.environ[_VARIABLE] = str(directory)

    def post(self, facts: dict[str, Any]) -> None:
        """Say what this worker serves, in place of what it said before."""
        self._write(str(os.getpid()), json.dumps(facts))

    def read(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
        """What every living worker serves, by process id: *mine* for this one, what they have posted for the others."""
        workers = {os.getpid(): mine}
        for file in self.directory.glob("[0-9]*") if self.directory is not None else ():
            if (pid := int(file.name)) not in workers and is_process_alive(pid):
                workers[pid] = json.loads(file.read_text())
        return [{"pid": pid, **facts} for pid, facts in sorted(workers.items())]

    def post_as(self, kind: str, text: str) -> None:
        """Leave *text* for the others, in place of what this worker has left of that *kind* before."""
        self._write(_mine(kind), text)

    def posted(self, kind: str) -> Iterator[tuple[bool, str]]:
        """What other workers have left of that *kind*, also those that have ended, and whether they live."""
        for file in self.directory.glob(f"{kind}-*") if self.directory is not None else ():
            if file.name != _mine(kind):
                yield is_process_alive(int(file.name.split("-")[1])), file.read_text()

    def _write(self, name: str, text: str) -> None:
        if self.directory is None:
            return
        draft = self.directory / f".{name}.{threading.get_ident()}"
        try:
            draft.write_text(text)
            draft.replace(self.directory / name)
        except OSError as error:
            log.warning("The other workers cannot be told what this one serves: {}", error)


_TOKEN = secrets.token_hex(4)  # of this process: its id may come again


def _mine(kind: str) -> str:
    return f"{kind}-{os.getpid()}-{_TOKEN}"
