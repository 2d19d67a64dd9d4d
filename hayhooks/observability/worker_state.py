"""Worker state: files that each worker publishes for the others in one directory."""

import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hayhooks.kernel.self_writes import is_process_alive
from hayhooks.kernel.trial import Rollbacks
from hayhooks.observability.log import log

_VARIABLE = "_HAYHOOKS_WORKERS"  # not a setting: the supervisor sets it
_ROLLBACKS = "rollbacks"


class WorkerStateDir:
    """The directory of the workers' files; *directory* is None in a single process."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._facts: dict[str, Any] = {}  # posted last
        self._rolled_back: Rollbacks = {}  # the same

    @classmethod
    def of_environment(cls) -> "WorkerStateDir":
        """Return the directory that the supervisor has announced."""
        directory = os.environ.get(_VARIABLE)
        return cls(Path(directory) if directory else None)

    @staticmethod
    def announce(directory: Path) -> None:
        """Pass *directory* to workers started from now on."""
        directory.mkdir(mode=0o700, exist_ok=True)
        if directory.stat().st_uid != os.geteuid():
            raise PermissionError(f"{directory} belongs to another user")
        os.environ[_VARIABLE] = str(directory)

    def post(self, facts: dict[str, Any]) -> None:
        """Publish this worker's *facts*, in place of its earlier ones."""
        self._facts = facts
        self._write(str(os.getpid()), json.dumps(facts))

    def renew(self) -> None:
        """Publish this worker's facts again if a cleaner of temporary files has removed them."""
        if self.directory is not None and self._facts and not (self.directory / str(os.getpid())).exists():
            self.post(self._facts)

    def read(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the facts of each living worker, by process id; *mine* are this one's."""
        workers = {os.getpid(): mine}
        for file in self.directory.glob("[0-9]*") if self.directory is not None else ():
            if (pid := int(file.name)) not in workers and is_process_alive(pid):
                with suppress(FileNotFoundError):  # a cleaner of temporary files removes it at this moment
                    workers[pid] = json.loads(file.read_text())
        return [{"pid": pid, **facts} for pid, facts in sorted(workers.items())]

    def post_as(self, kind: str, text: str) -> None:
        """Publish *text*, in place of this worker's earlier one of that *kind*."""
        self._write(_mine(kind), text)

    def posted(self, kind: str) -> Iterator[tuple[bool, str]]:
        """Yield the *kind* texts of other workers, each with whether its worker lives."""
        for file in self.directory.glob(f"{kind}-*") if self.directory is not None else ():
            if file.name != _mine(kind):
                try:
                    text = file.read_text()
                except FileNotFoundError:  # as above
                    continue
                yield is_process_alive(int(file.name.split("-")[1])), text

    def post_rollbacks(self, rolled_back: Rollbacks) -> None:
        """Publish what this worker has rolled back."""
        if rolled_back != self._rolled_back:
            self._rolled_back = rolled_back
            self.post_as(_ROLLBACKS, json.dumps([[*key, why] for key, why in rolled_back.items()]))

    def rollbacks(self) -> Rollbacks:
        """Return what other workers that live have rolled back."""
        posted = [json.loads(text) for lives, text in self.posted(_ROLLBACKS) if lives]
        return {(name, fingerprint): why for each in posted for name, fingerprint, why in each}

    def _write(self, name: str, text: str) -> None:
        if self.directory is None:
            return
        draft = self.directory / f".{name}.{threading.get_ident()}"
        try:
            if not self.directory.is_dir():  # a cleaner of temporary files has removed it
                self.announce(self.directory)
            draft.write_text(text)
            draft.replace(self.directory / name)
        except OSError as error:
            log.warning("Cannot publish the state of this worker to the others: {}", error)


_TOKEN = secrets.token_hex(4)  # of this process: its id may be reused


def _mine(kind: str) -> str:
    return f"{kind}-{os.getpid()}-{_TOKEN}"
