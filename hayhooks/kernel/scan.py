"""Scan: from the pipelines directory to ``{name: Revision}``; reads files and runs none.

A look costs a ``stat`` for each file; only what changed is read. A folder is read when it has kept still for the
settle time, so that one that is still being copied is not taken half-way; until then its last revision stands, as
it does for a short while after the folder has gone (``rm -r`` followed by ``cp -r``).
"""

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from loguru import logger as log

from hayhooks.kernel import self_writes
from hayhooks.kernel.discovery import candidates, name_problem
from hayhooks.kernel.paths import real_path
from hayhooks.kernel.reading import read_revision
from hayhooks.kernel.shared_modules import PythonPath, imported_names, named_modules
from hayhooks.kernel.stat_tree import (
    MAX_DIRECTORIES,
    Directories,
    TreeStat,
    cached_realpath,
    identity_of,
    is_code,
    stat_tree,
    watch_roots,
)
from hayhooks.kernel.state import Revision, RevisionKind, Stamp

_OLD_S = 2.0  # what was changed so long before the first look is not being copied just now

# A folder in which something always moves: data that other processes write, or that the wrapper writes unseen.
_PATIENCE_S = 10.0  # so long changes of Python files wait for the rest to keep still
_RESTLESS_S = 2.0  # data that changes again so soon after it was read is restless
_FREE_CHANGES = 5  # so many times that costs nothing, then the folder has to keep still twice as long each time
_MAX_SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What one look at the pipelines directory found."""

    revisions: Mapping[str, Revision]
    surroundings: Directories  # the root, and what is above it where that matters
    directories: Directories  # all that matter, those too
    names_in: Mapping[str, frozenset[str]]  # the names that a change in such a directory concerns
    unsettled: bool  # something is still changing: look again after the settle time
    problem: str  # why the directory cannot be read, "" if it can


@dataclass(slots=True)
class _Memory:
    """What the scanner remembers of one name."""

    sight: TreeStat
    seen_at: float  # when this sight was first seen
    code_seen_at: float  # when the code in it was
    revision: Revision | None = None  # the last that was read
    read_at: float = 0.0
    imports: frozenset[str] = frozenset()  # of the revision
    settled: bool = False
    restless: int = 0  # how many times in a row data has changed soon after it was read
    absent_since: float | None = None


class Scanner:
    """Looks at a pipelines directory again and again, and remembers what it saw. For one thread.

    Args:
        root: the pipelines directory.
        reserved: names that would clash with a route of the server.
        taken: names that are given in code; with such, there need not be a directory.
        python_path: where shared modules lie.
        only: the one name to look for; all if None.
        settle_s: a folder is read when it has looked the same for so many seconds.
        absence_s: a name is gone when it has been away for so many seconds.
    """

    def __init__(
        self,
        root: Path,
        *,
        reserved: Collection[str] = (),
        taken: Collection[str] = (),
        python_path: Sequence[str] = (),
        only: str | None = None,
        settle_s: float,
        absence_s: float,
    ) -> None:
        self_writes.install_audit_hook()
        self._root = root
        self._reserved = frozenset(reserved)
        self._taken = frozenset(taken)
        self._python_path = PythonPath(python_path)
        self._only = only
        self._settle_s = settle_s
        self._absence_s = absence_s
        self._memory: dict[str, _Memory] = {}
        self._bystanders: dict[str, Directories] = {}  # folders that are no deployments, by name: they may become some
        self._unsettled: set[str] = set()
        self._looked_at = 0.0
        self._is_first = True  # look, and all that find no directory
        self._last: ScanResult | None = None  # while nothing has changed since

    def look(self, now: float, names: Collection[str] | None = None) -> ScanResult:
        """Look at the folders *names*, at those that are new or still changing, and at all of them if None.

        Args:
            now: a monotonic clock's seconds.
            names: where a change was reported; the listing of the directory itself is always read.
        """
        self._looked_at = now
        try:
            listing = candidates(self._root)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._taken and not self._memory:
                return self._result("")  # it may never have been meant to be there
            return self._result(f"the pipelines directory {self._root} cannot be read: {error.strerror or error}")
        if self._only is not None:
            listing = {name: entries for name, entries in listing.items() if name == self._only}
        self._python_path.look()
        self_writes.read_other_workers()
        known = self._memory.keys() | self._bystanders.keys()
        for name, entries in listing.items():
            if names is None or name in names or name in self._unsettled or name not in known:
                self._see(name, [self._root / entry for entry in sorted(entries)], now)
        for name in known - listing.keys():
            self._bystanders.pop(name, None)
            self._miss(name, now)
        self._is_first = False
        return self._result("")

    def read(self, name: str, path: Path, now: float) -> Revision | None:
        """What *path*, wherever it lies, is as the deployment *name*; None if it is none, or does not keep still."""
        self._python_path.look()
        self._see(name, [path], now)
        memory = self._memory.get(name)
        return memory.revision if memory and memory.settled else None

    def is_moving(self, name: str) -> bool:
        """Whether *name* has changed, or gone, and has not kept still since."""
        return name in self._unsettled

    def seen_at(self, name: str) -> float:
        """When the present state of *name* was first seen; *now* of the last look for one that is gone."""
        memory = self._memory.get(name)
        return memory.seen_at if memory else self._looked_at

    def _see(self, name: str, paths: Sequence[Path], now: float) -> None:
        sight = stat_tree(name, paths, partial(self._name_problem, paths))
        if not sight.is_deployment:
            if self._bystanders.get(name) != sight.directories:
                self._bystanders[name], self._last = sight.directories, None
            self._miss(name, now)
            return
        self._bystanders.pop(name, None)
        memory = self._memory.get(name)
        if memory is not None:
            sight = self._with_shared(sight, memory.imports)
        if memory is None:
            seen_at = now - self._settle_s if self._is_first and _is_old(sight) else now
            self._memory[name] = memory = _Memory(sight, seen_at, seen_at)
        elif memory.sight != sight:
            if memory.settled or memory.sight.code != sight.code or memory.sight.shared != sight.shared:
                memory.code_seen_at = now
            memory.sight, memory.seen_at, memory.settled = sight, now, False
        elif memory.settled and memory.absent_since is None:
            return
        self._last = None
        self._unsettled.add(name)
        memory.absent_since = None
        if not memory.settled and self._is_still(memory, now):
            self._take(name, memory, now)
        if memory.settled:
            self._unsettled.discard(name)

    def _name_problem(self, paths: Sequence[Path], name: str) -> str:
        if name in self._taken:
            return f"{paths[0]}: the name {name!r} is taken by a pipeline given in code: rename this one"
        return name_problem(name, self._reserved)

    def _with_shared(self, sight: TreeStat, imports: frozenset[str]) -> TreeStat:
        shared = self._python_path.modules(imports)
        if not shared:
            return sight
        places = {os.path.dirname(module.path) for module in shared.values()}
        identities = {place: identity_of(place) for place in places}
        visited = {cached_realpath(place, identity): identity for place, identity in identities.items()}
        return replace(sight, shared=shared, directories={**sight.directories, **visited})

    def _is_still(self, memory: _Memory, now: float) -> bool:
        """Whether it can be read now: nothing has moved for the settle time, or for long nothing but data."""
        if memory.sight.problem:
            return True
        settle_s = self._settle_s
        if memory.restless > _FREE_CHANGES:
            settle_s = min(settle_s * 2.0 ** (memory.restless - _FREE_CHANGES), max(_MAX_SETTLE_S, settle_s))
        return now - memory.seen_at >= settle_s or self._waits_for_data_only(memory, now)

    def _waits_for_data_only(self, memory: _Memory, now: float) -> bool:
        still = now - memory.code_seen_at >= _PATIENCE_S
        return still and (memory.revision is None or memory.sight.code != _code_of(memory.revision))

    def _take(self, name: str, memory: _Memory, now: float) -> None:
        """Read what was seen, if it is still like that."""
        hurry = now - memory.seen_at < self._settle_s
        revision = read_revision(name, memory.sight, memory.revision, in_hurry=hurry)
        if revision is not None and self._python_path.roots and (imports := _imports(revision)) != memory.imports:
            memory.imports = imports
            memory.sight = self._with_shared(memory.sight, imports)
            revision = read_revision(name, memory.sight, revision, in_hurry=hurry)
        if revision is None:  # it changed while being read
            memory.seen_at = now
            return
        if memory.revision is None and memory.sight.is_cut:
            log.warning("{}: changes below its {:,} nearest folders are not noticed", name, MAX_DIRECTORIES)
        memory.restless = self._restless(name, memory, revision, now)
        memory.revision, memory.read_at, memory.settled = revision, now, True

    def _restless(self, name: str, memory: _Memory, revision: Revision, now: float) -> int:
        """How many times in a row, now included, data alone has changed soon after it was read."""
        changed = revision.changed_since(memory.revision)
        if not changed or now - memory.read_at > _RESTLESS_S + (now - memory.seen_at):
            return 0
        if any(is_code(path, revision.kind) and path not in memory.sight.own for path in changed):
            return 0
        if memory.restless == 2 * _FREE_CHANGES:
            log.warning(
                "{}: {} changes again and again, and each time it is loaded anew: let it lie elsewhere",
                name,
                ", ".join(changed[:3]),
            )
        return memory.restless + 1

    def _miss(self, name: str, now: float) -> None:
        memory = self._memory.get(name)
        if memory is None:
            return
        self._last = None
        self._unsettled.add(name)
        if memory.absent_since is None:
            memory.absent_since = now
        if now - memory.absent_since >= self._absence_s:
            del self._memory[name]
            self._unsettled.discard(name)
            self_writes.forget(real_path(memory.sight.path))

    def _result(self, problem: str) -> ScanResult:
        surroundings = dict(watch_roots(self._root))
        last = self._last
        if last is None or last.problem != problem or last.surroundings != surroundings:
            self._last = last = self._fresh_result(surroundings, problem)
        return last

    def _fresh_result(self, surroundings: Directories, problem: str) -> ScanResult:
        directories = {**surroundings}
        names_in: dict[str, set[str]] = {}
        seen = [(name, memory.sight.directories) for name, memory in self._memory.items()]
        for name, visited in [*seen, *self._bystanders.items()]:
            directories.update(visited)
            for directory in visited:
                names_in.setdefault(directory, set()).add(name)
        return ScanResult(
            revisions={name: memory.revision for name, memory in self._memory.items() if memory.revision is not None},
            surroundings=surroundings,
            directories=directories,
            names_in={directory: frozenset(names) for directory, names in names_in.items()},
            unsettled=bool(self._unsettled),
            problem=problem,
        )


def _is_old(sight: TreeStat) -> bool:
    """Whether what it saw has kept still for long, as far as the file system's clock is ours."""
    newest_ns = max((stamp.ctime_ns for stamp in sight.stamps.values()), default=0)
    return newest_ns < time.time_ns() - _OLD_S * 1e9


def _imports(revision: Revision) -> frozenset[str]:
    """What the code of *revision* imports from outside its folder."""
    sources = {path: file.source for path, file in revision.files.items() if file.source is not None}
    if revision.kind is RevisionKind.YAML:
        return frozenset().union(*map(named_modules, sources.values()))
    siblings = {path.partition("/")[0].removesuffix(".py") for path in sources}
    names = frozenset().union(*map(imported_names, sources.values()))
    return frozenset(name for name in names if name.partition(".")[0] not in siblings)


def _code_of(revision: Revision) -> Mapping[str, Stamp | None]:
    return {path: file.stamp if is_code(path, revision.kind) else None for path, file in revision.files.items()}
