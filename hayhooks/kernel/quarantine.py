"""Quarantine: which code of deployments runs in each worker process, and which of it ends the processes.

A worker marks the code that runs in memory that it shares with its supervisor, which reads it when the worker has died.
A revision that was at work in three deaths, and in more of them than any other, is not loaded again.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from hayhooks.kernel.admission import Lease, Leases
from hayhooks.kernel.state import Deployment, Revision

IDLE, SERVING, LOADING = range(3)  # states of a mark; LOADING is a teardown too

_DEATHS = 3  # of processes, after which a revision is not loaded again
_TIED_DEATHS = 6  # after which all of those are not loaded that were at work in equally many deaths
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
    suspects: frozenset[Key] = frozenset()  # loaded one at a time: the next death tells which it is
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
        """Whether *revision* was at work when a worker died."""
        return (revision.name, revision.fingerprint) in self.verdicts.suspects


class Deaths:
    """The supervisor's side: the deaths of workers, and what follows from them."""

    def __init__(self) -> None:
        self.verdicts = Verdicts()
        self._recent: list[tuple[float, frozenset[Key]]] = []  # when, and what was at work

    def add(self, at_work: frozenset[Key]) -> list[Key]:
        """Note a death; return the revisions that are quarantined by it."""
        now = time.monotonic()
        known = self.verdicts.quarantined
        self._recent = [death for death in (*self._recent, (now, at_work)) if now - death[0] < _FORGET_S]
        counts = Counter(key for _, keys in self._recent for key in keys if key not in known)
        most = max(counts.values(), default=0)
        leading = sorted(key for key, count in counts.items() if count == most)
        guilty = leading if most >= (_DEATHS if len(leading) == 1 else _TIED_DEATHS) else []
        # A death that is explained says nothing of the others that were at work.
        self._recent = [(when, keys) for when, keys in self._recent if not keys.intersection(guilty)]
        suspects = frozenset(key for _, keys in self._recent for key in keys)
        self.verdicts = Verdicts({**known, **dict.fromkeys(guilty, most)}, suspects)
        return guilty


def at_work(table: Table, *states: int) -> frozenset[Key]:
    """Return the revisions whose code runs, or ran, in the worker of *table*; with *states* only those."""
    keys = set()
    for offset in range(0, TABLE_SIZE, _RECORD):
        if table[offset] in (states or (SERVING, LOADING)):
            fingerprint, _, name = os.fsdecode(bytes(table[offset + 1 : offset + _RECORD]).rstrip(b"\0")).partition(" ")
            keys.add((name, fingerprint))
    return frozenset(keys)
