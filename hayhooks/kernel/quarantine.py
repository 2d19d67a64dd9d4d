"""Quarantine: which code of deployments runs in each worker process, and which of it ends the processes.

A worker marks the code that runs in memory that it shares with its supervisor, which reads it when the worker has died.
Faults and ``os._exit`` leave the stack of their thread too, which names one deployment. A revision that was at work in
three deaths, and in more of them than any other, is not loaded again.
"""

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from hayhooks.kernel.admission import Lease, Leases
from hayhooks.kernel.state import Deployment, Revision

IDLE, SERVING, LOADING = range(3)  # states of a mark; LOADING is a teardown too

_DEATHS = 3  # of processes, after which a revision is not loaded again
_FRAME = re.compile(r'^  File "(.+)", line \d+ in ', re.MULTILINE)  # as faulthandler writes it
_FORGET_S = 600.0  # a death counts for this long

_RECORD = 320  # bytes: state, fingerprint (hex digits), space, name; filled up with zeros
_RECORDS = 2048  # deployments in memory; more are not marked
TABLE_SIZE = _RECORD * _RECORDS

Key = tuple[str, str]  # name and fingerprint of a revision
Table = memoryview  # of bytes


class MarkedLeases(Leases):
    """Leases that mark the deployment in *table* while one is held."""

    def __init__(self, table: Table, offset: int) -> None:
        super().__init__()
        self._table = table
        self.offset = offset  # of the record

    def take(self, lease: Lease) -> None:
        """Take a lease, then mark the deployment: ``give_back`` looks at them in the other order."""
        self._held.add(lease)
        if not lease.is_attempt:
            self._table[self.offset] = SERVING

    def give_back(self, lease: Lease) -> None:
        """End a lease; without any the deployment is idle."""
        self._held.discard(lease)
        if not self._held:
            self._table[self.offset] = IDLE
            if self._held:  # taken meanwhile by another thread
                self._table[self.offset] = SERVING
        if self._on_idle:
            self._call_if_idle()


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the supervisor tells its workers of revisions that were at work when workers died."""

    quarantined: Mapping[Key, int] = field(default_factory=dict)  # and in how many deaths
    suspects: frozenset[Key] = frozenset()  # were being loaded; they are loaded one at a time: one death tells which
    held: frozenset[Key] = frozenset()  # suspects that another worker loads first, while this one serves the others


class Quarantine:
    """A worker's side: it marks the code that runs, and has the supervisor's latest verdicts."""

    def __init__(self, table: Table | None = None, verdicts: Verdicts | None = None) -> None:
        self.verdicts = verdicts or Verdicts()  # the thread that listens to the supervisor replaces it
        self._table = table  # None in a process without supervisor
        self._free = list(range(0, TABLE_SIZE, _RECORD)) if table is not None else []
        self._lock = threading.Lock()  # guards the list

    def leases_of(self, revision: Revision) -> Leases:
        """Return leases for the deployment of *revision*; they mark it, unless there is no record left."""
        with self._lock:
            if self._table is None or not self._free:
                return Leases()
            offset = self._free.pop()
        text = os.fsencode(f"{revision.fingerprint} {revision.name}")[: _RECORD - 1]
        self._table[offset + 1 : offset + _RECORD] = text.ljust(_RECORD - 1, b"\0")
        return MarkedLeases(self._table, offset)

    @contextmanager
    def loading(self, leases: Leases) -> Iterator[None]:
        """Mark the deployment of *leases* as being loaded or torn down."""
        if self._table is None or not isinstance(leases, MarkedLeases):
            yield
            return
        self._table[leases.offset] = LOADING
        try:
            yield
        finally:
            self._table[leases.offset] = IDLE

    def forget(self, leases: Leases) -> None:
        """Give back the record of *leases*: the deployment is gone, or has never been."""
        if isinstance(leases, MarkedLeases):
            with self._lock:
                if self._table is not None:
                    self._table[leases.offset : leases.offset + _RECORD] = bytes(_RECORD)
                self._free.append(leases.offset)

    def refused(self, revision: Revision, serving: Deployment | None) -> Revision:
        """Return *revision*, or the one in its place that says why it is not loaded; *serving* serves its name."""
        key = (revision.name, revision.fingerprint)
        deaths = self.verdicts.quarantined.get(key)
        if deaths is not None:
            why, mark = "it is loaded again when it changes, or after SIGHUP", "quarantined"
        elif key in self.verdicts.held and (serving is None or serving.revision.fingerprint != revision.fingerprint):
            deaths, why, mark = 1, "another worker loads it first", "held"
        else:
            return revision
        return replace(
            revision,
            fingerprint=f"{revision.fingerprint}-{mark}",
            problem=f"ended the process {deaths} times; {why}" if deaths > 1 else f"may have ended the process; {why}",
            replaces=revision.fingerprint,
        )

    def is_suspect(self, revision: Revision) -> bool:
        """Whether *revision* was being loaded when a worker died."""
        return (revision.name, revision.fingerprint) in self.verdicts.suspects


class Deaths:
    """The supervisor's side: the deaths of workers, and what follows from them."""

    def __init__(self) -> None:
        self.verdicts = Verdicts()
        self._recent: list[tuple[float, frozenset[Key], frozenset[Key]]] = []  # when, blamed, of these loading

    def add(self, blamed: frozenset[Key], loading: frozenset[Key] = frozenset()) -> list[Key]:
        """Note a death of *blamed*, some of which were *loading*; return the revisions that are quarantined by it."""
        now = time.monotonic()
        known = self.verdicts.quarantined
        recent = [death for death in (*self._recent, (now, blamed, loading)) if now - death[0] < _FORGET_S]
        counts = Counter(key for _, keys, _ in recent for key in keys if key not in known)
        most = max(counts.values(), default=0)
        leading = [key for key, count in counts.items() if count == most]
        # Those that were at work equally often cannot be told apart: most of them are only busy.
        guilty = leading if most >= _DEATHS and len(leading) == 1 else []
        # A death that is explained says nothing of the others that were at work.
        self._recent = [death for death in recent if not death[1].intersection(guilty)]
        suspects = frozenset(key for _, _, keys in self._recent for key in keys)
        self.verdicts = Verdicts({**known, **dict.fromkeys(guilty, most)}, suspects)
        return guilty


def at_work(table: Table, *states: int) -> frozenset[Key]:
    """Return the revisions whose code runs, or ran, in the worker of *table*; with *states* only those."""
    return frozenset(key for state, key in _records(table) if state in (states or (SERVING, LOADING)))


def at_fault(table: Table, stack: str, root: Path) -> frozenset[Key]:
    """Return those whose code ended the worker of *table*, to judge by a *stack* with the innermost frame first.

    Its files are below the pipelines directory *root*. Without such a file it is whatever was at work.
    """
    for file in _FRAME.findall(stack):
        if not (path := Path(file)).is_relative_to(root):
            continue
        name = path.relative_to(root).parts[0]
        if found := frozenset(key for _, key in _records(table) if key[0] == name):
            return found & at_work(table) or found
    return at_work(table)


def _records(table: Table) -> Iterator[tuple[int, Key]]:
    for offset in range(0, TABLE_SIZE, _RECORD):
        if table[offset + 1]:
            fingerprint, _, name = os.fsdecode(bytes(table[offset + 1 : offset + _RECORD]).rstrip(b"\0")).partition(" ")
            yield table[offset], (name, fingerprint)
