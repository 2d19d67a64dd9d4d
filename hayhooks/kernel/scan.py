"""Scan: from the pipelines directory to ``{name: Revision}``; no code is run.

A scan costs a ``stat`` for each file; only changed files are read. A folder is read when nothing in it has changed
for the debounce time, so that a copy in progress is not taken half-way. Until then its last revision stands, as it
does for the removal grace after the folder has gone (``rm -r`` followed by ``cp -r``).
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from loguru import logger as log

from hayhooks.kernel.discovery import (
    YAML_SUFFIXES,
    candidates,
    identity_of,
    misnamed_wrapper,
    missing_wrapper_problem,
    name_problem,
    real_path,
)
from hayhooks.kernel.self_writes import self_writes
from hayhooks.kernel.shared_modules import PythonPath, imported_names, named_modules
from hayhooks.kernel.stat_tree import (
    MAX_DIRECTORIES,
    Directories,
    TreeStat,
    cached_realpath,
    is_code,
    stat_tree,
    watch_roots,
)
from hayhooks.kernel.state import File, Revision, RevisionKind, Stamp, digest_of

Offer = Callable[[bytes, bytes], None]  # takes the digest and content of data that was read

_MAX_DIGEST_BYTES = 16 * 2**20  # of a data file: the stamp of a larger one stands for its content
_COMPLETE_AFTER_S = 2.0  # a folder that has not changed for so long is not being copied
_STABLE_AT_START_S = 2.0  # at the first scan, what changed longer ago than this is not being copied just now

# Folders in which data keeps changing: other processes write it, or the wrapper does so unseen.
_CODE_ONLY_AFTER_S = 10.0  # changed Python files are read after this long, even if data still changes
_BACKOFF_IF_WITHIN_S = 2.0  # data that changes again so soon after it was read raises the backoff level
_FREE_LEVELS = 5  # backoff levels without effect; each further one doubles the debounce time
_MAX_DEBOUNCE_S = 5.0


@dataclass(frozen=True, slots=True)
class ScanScope:
    """The folders that a scan looks at, besides new and changing ones."""

    names: frozenset[str] = frozenset()
    everything: bool = False


EVERYTHING = ScanScope(everything=True)


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The revisions on disk, as of one scan."""

    revisions: Mapping[str, Revision]
    roots: Directories  # the pipelines directory first, and its parent where that must be watched
    directories: Directories  # all that must be watched, roots included
    names_by_directory: Mapping[str, frozenset[str]]  # the names that a change in the directory concerns
    pending: bool  # something is still changing: scan again after the debounce time
    problem: str  # why the directory cannot be read, "" if it can


@dataclass(slots=True)
class _Tracked:
    """One name that the directory has, across scans."""

    tree: TreeStat
    changed_at: float  # when this tree was first seen
    code_changed_at: float  # when the code in it was first seen
    revision: Revision | None = None  # the last that was read
    read_at: float = 0.0
    imports: frozenset[str] = frozenset()  # of the revision
    is_read: bool = False  # the revision is that of the tree
    backoff_level: int = 0  # how many times in a row data has changed soon after it was read
    absent_since: float | None = None


class Scanner:
    """Scans a pipelines directory again and again. For one thread."""

    def __init__(
        self,
        root: Path,
        *,
        reserved: Collection[str] = (),  # names of the server's routes
        taken: Collection[str] = (),  # names given in code; with any, the directory may be missing
        python_path: Sequence[str] = (),
        only: str | None = None,  # the one name to look for
        offer: Offer | None = None,
        debounce_s: float,
        removal_grace_s: float,
    ) -> None:
        self._root = root
        self._reserved = frozenset(reserved)
        self._taken = frozenset(taken)
        self._python_path = PythonPath(python_path)
        self._only = only
        self._offer = offer
        self._debounce_s = debounce_s
        self._removal_grace_s = removal_grace_s
        self._tracked: dict[str, _Tracked] = {}
        self._other_dirs: dict[str, Directories] = {}  # of folders that are not deployments, by name: they may become
        self._strange: dict[str, tuple[int, float]] = {}  # those folders' times of change, and since when; inf: told
        self._pending: set[str] = set()
        self._scanned_at = 0.0
        self._is_first_scan = True
        self._last: ScanResult | None = None  # None if something has changed since

    def scan(self, now: float, scope: ScanScope) -> ScanResult:
        """List the directory and look at the folders of *scope*; *now* is monotonic."""
        self._scanned_at = now
        try:
            listing = candidates(self._root)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._taken and not self._tracked:
                return self._result("")  # with pipelines given in code it may be missing
            return self._result(f"the pipelines directory {self._root} cannot be read: {error.strerror or error}")
        if self._only is not None:
            listing = {name: entries for name, entries in listing.items() if name == self._only}
        self._python_path.look()
        self_writes.read_other_processes()
        known = self._tracked.keys() | self._other_dirs.keys()
        for name, entries in listing.items():
            if scope.everything or name in scope.names or name in self._pending or name not in known:
                paths = [self._root / entry for entry in sorted(entries)]
                self._observe(name, paths, now, is_asked_for=self._only is not None)
        for name in known - listing.keys():
            self._other_dirs.pop(name, None)
            self._strange.pop(name, None)
            self._mark_absent(name, now)
        self._is_first_scan = False
        return self._result("")

    def read_one(self, name: str, path: Path, now: float) -> Revision | None:
        """Read *path* as the deployment *name*; None if it is none, or still changing."""
        self._python_path.look()
        self._observe(name, [path], now, is_asked_for=True)
        tracked = self._tracked.get(name)
        return tracked.revision if tracked and tracked.is_read else None

    def is_pending(self, name: str) -> bool:
        """Whether *name* has changed, or gone, too recently to be read again."""
        return name in self._pending

    def changed_at(self, name: str) -> float:
        """Return the time when the present state of *name* was first seen."""
        tracked = self._tracked.get(name)
        return tracked.changed_at if tracked else self._scanned_at

    def _observe(self, name: str, paths: Sequence[Path], now: float, *, is_asked_for: bool) -> None:
        """Stat the entries of *name*, and read them once they are stable."""
        tracked = self._tracked.get(name)
        problem = name_problem(name, self._reserved)
        if name in self._taken:
            problem = f"{paths[0]}: the name {name!r} is taken by a pipeline given in code: rename this one"
        # What was a pipeline is a failure without its components: the last revision keeps serving.
        known = tracked.tree.path if tracked is not None and tracked.tree.kind is RevisionKind.YAML else None
        tree = stat_tree(name, paths, problem, expected=paths[0] if is_asked_for and len(paths) == 1 else known)
        if not tree.is_deployment:
            self._look_for_python(name, paths[0], now)
            self._remember_other(name, paths, tree.directories)
            self._mark_absent(name, now)
            return
        self._other_dirs.pop(name, None)
        if tracked is not None:
            tree = self._with_shared(tree, tracked.imports)
        if tracked is None:
            is_old = tree.newest_ctime_ns < time.time_ns() - _STABLE_AT_START_S * 1e9
            changed_at = now - self._debounce_s if self._is_first_scan and is_old else now
            self._tracked[name] = tracked = _Tracked(tree, changed_at, changed_at)
        elif tracked.tree != tree:
            if tracked.is_read or tracked.tree.code != tree.code or tracked.tree.shared != tree.shared:
                tracked.code_changed_at = now
            tracked.tree, tracked.changed_at, tracked.is_read = tree, now, False
        elif tracked.is_read and tracked.absent_since is None:
            return
        self._last = None
        self._pending.add(name)
        tracked.absent_since = None
        if not tracked.is_read and self._is_stable(tracked, now):
            self._read(name, tracked, now)
        if tracked.is_read:
            self._pending.discard(name)

    def _remember_other(self, name: str, paths: Sequence[Path], directories: Directories) -> None:
        """Keep what must be watched of entries that are not a deployment."""
        if self._other_dirs.get(name) == directories:
            return
        self._other_dirs[name], self._last = directories, None
        for path in paths:
            if path.suffix in YAML_SUFFIXES:
                log.debug("{} is ignored: it has no key `components`, as a pipeline has", path)

    def _look_for_python(self, name: str, folder: Path, now: float) -> None:
        """Warn once of a *folder* that is no deployment, but has Python files and looks complete.

        With a wrapper under another name it is complete after the debounce time.
        """
        self._pending.discard(name)
        try:
            changed_ns = os.stat(folder).st_mtime_ns
            known_ns, since = self._strange.get(name, (0, now))
            if since == math.inf and changed_ns == known_ns:
                return
            is_old = self._is_first_scan and changed_ns < time.time_ns() - _STABLE_AT_START_S * 1e9
            since = since if changed_ns == known_ns else now - (_COMPLETE_AFTER_S if is_old else 0)
            self._strange[name] = changed_ns, since
            complete_after_s = _COMPLETE_AFTER_S
            if folder.is_dir() and misnamed_wrapper(folder):
                complete_after_s = min(self._debounce_s, _COMPLETE_AFTER_S)
                self._pending.add(name)
                self._last = None
            if now - since >= complete_after_s:
                self._strange[name] = changed_ns, math.inf
                self._pending.discard(name)
                if problem := missing_wrapper_problem(folder):
                    log.warning("{}", problem)
        except OSError:  # removed meanwhile
            return

    def _mark_absent(self, name: str, now: float) -> None:
        tracked = self._tracked.get(name)
        if tracked is None:
            return
        self._last = None
        self._pending.add(name)
        if tracked.absent_since is None:
            tracked.absent_since = now
        if now - tracked.absent_since >= self._removal_grace_s:
            del self._tracked[name]
            self._pending.discard(name)
            self_writes.forget(real_path(tracked.tree.path))

    def _with_shared(self, tree: TreeStat, imports: frozenset[str]) -> TreeStat:
        shared = self._python_path.modules(imports)
        if not shared:
            return replace(tree, shared={}) if tree.shared else tree
        places = {os.path.dirname(module.path) for module in shared.values()}
        identities = {place: identity_of(place) for place in places}
        visited = {cached_realpath(place, identity): identity for place, identity in identities.items()}
        return replace(tree, shared=shared, directories={**tree.directories, **visited})

    def _is_stable(self, tracked: _Tracked, now: float) -> bool:
        """Whether nothing has changed for the debounce time, or for long nothing but data."""
        if tracked.tree.problem:
            return True
        debounce_s = self._debounce_s
        if tracked.backoff_level > _FREE_LEVELS:
            debounce_s = min(
                debounce_s * 2.0 ** (tracked.backoff_level - _FREE_LEVELS), max(_MAX_DEBOUNCE_S, debounce_s)
            )
        if now - tracked.changed_at >= debounce_s:
            return True
        if now - tracked.code_changed_at < _CODE_ONLY_AFTER_S:
            return False
        before = tracked.revision
        return before is None or tracked.tree.code != {
            path: file.stamp if is_code(path, before.kind) else None for path, file in before.files.items()
        }

    def _read(self, name: str, tracked: _Tracked, now: float) -> None:
        """Read the files of the tree, if they are still as they were seen."""
        data_may_move = now - tracked.changed_at < self._debounce_s
        read = partial(_read_revision, offer=self._offer, data_may_move=data_may_move)
        revision = read(name, tracked.tree, tracked.revision)
        if revision is not None and self._python_path.roots and (imports := _imports(revision)) != tracked.imports:
            tracked.imports = imports
            tracked.tree = self._with_shared(tracked.tree, imports)
            revision = read(name, tracked.tree, revision)
        if revision is None:  # it changed while being read
            tracked.changed_at = now
            return
        if tracked.revision is None and tracked.tree.is_truncated:
            log.warning("{}: only its {:,} nearest folders are watched for changes", name, MAX_DIRECTORIES)
        changed = revision.changed_since(tracked.revision)
        only_data = not any(is_code(p, revision.kind) and p not in tracked.tree.self_written for p in changed)
        if changed and only_data and tracked.changed_at - tracked.read_at <= _BACKOFF_IF_WITHIN_S:
            if tracked.backoff_level == 2 * _FREE_LEVELS:
                files = ", ".join(changed[:3])
                log.warning("{}: {} keeps changing, and each change reloads it: move it out of the folder", name, files)
            tracked.backoff_level += 1
        else:
            tracked.backoff_level = 0
        tracked.revision, tracked.read_at, tracked.is_read = revision, now, True

    def _result(self, problem: str) -> ScanResult:
        roots, last = dict(watch_roots(self._root)), self._last
        if last is not None and last.problem == problem and last.roots == roots:
            return last
        directories = {**roots}
        names: dict[str, set[str]] = {}
        seen = [(name, tracked.tree.directories) for name, tracked in self._tracked.items()]
        for name, visited in [*seen, *self._other_dirs.items()]:
            directories.update(visited)
            for directory in visited:
                names.setdefault(directory, set()).add(name)
        self._last = ScanResult(
            revisions={name: tracked.revision for name, tracked in self._tracked.items() if tracked.revision},
            roots=roots,
            directories=directories,
            names_by_directory={directory: frozenset(found) for directory, found in names.items()},
            pending=bool(self._pending),
            problem=problem,
        )
        return self._last


def read_now(root: Path, name: str, python_path: Sequence[str] = ()) -> Revision | None:
    """Read the deployment *name* in *root* as it is; None if there is none."""
    scanner = Scanner(root, only=name, python_path=python_path, debounce_s=0, removal_grace_s=0)
    return scanner.scan(time.monotonic(), EVERYTHING).revisions.get(name)


def _imports(revision: Revision) -> frozenset[str]:
    """Return the names that the code of *revision* imports from outside its folder."""
    sources = {path: file.source for path, file in revision.files.items() if file.source is not None}
    if revision.kind is RevisionKind.YAML:
        return frozenset().union(*map(named_modules, sources.values()))
    siblings = {path.partition("/")[0].removesuffix(".py") for path in sources}
    names = frozenset().union(*map(imported_names, sources.values()))
    return frozenset(name for name in names if name.partition(".")[0] not in siblings)


def _read_revision(
    name: str, tree: TreeStat, before: Revision | None, *, offer: Offer | None, data_may_move: bool
) -> Revision | None:
    """Read the changed files of *tree*; None if one has changed since it was seen."""
    if tree.problem:
        return _unreadable(name, tree, tree.problem)
    folder = tree.path.parent if tree.kind is RevisionKind.YAML else tree.path
    known = before.files if before else {}
    files: dict[str, File] = {}
    total = hashlib.blake2b(digest_size=16)
    for relative, stamp in sorted(tree.stamps.items()):
        file = known.get(relative)
        if file is None or file.stamp != stamp:
            runs = is_code(relative, tree.kind)
            try:
                file = _read_file(folder / relative, stamp, offer, runs=runs)
            except _ChangedError:
                if runs or not data_may_move:
                    return None
                file = _by_stamp(stamp)  # moving data need not be read exactly
            except OSError as error:
                return _unreadable(name, tree, f"{folder / relative} cannot be read: {error.strerror or error}")
        files[relative] = file
        total.update(os.fsencode(relative) + b"\0" + file.digest)
    for module, shared in sorted(tree.shared.items()):
        total.update(f"{module}\0{shared.version}\0".encode())
    fingerprint = total.hexdigest()
    return Revision(name, tree.path, fingerprint, files, shared=tree.shared, kind=tree.kind, identity=tree.identity)


def _unreadable(name: str, tree: TreeStat, problem: str) -> Revision:
    fingerprint = digest_of(problem.encode(errors="surrogateescape")).hex()
    return Revision(name, tree.path, fingerprint, {}, problem, identity=tree.identity)


class _ChangedError(Exception):
    """A file no longer has the stamp that was seen."""


def _read_file(path: Path, stamp: Stamp, offer: Offer | None, *, runs: bool) -> File:
    if stamp.size > _MAX_DIGEST_BYTES and not runs:
        return _by_stamp(stamp)
    try:
        # A FIFO may have taken the file's place since: opened like this it cannot block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _ChangedError from None
    with open(descriptor, "rb") as file:
        if Stamp.of(os.fstat(descriptor)) != stamp:
            raise _ChangedError
        content = file.read()
        if Stamp.of(os.fstat(descriptor)) != stamp:
            raise _ChangedError
    digest = digest_of(content)
    if offer is not None and not runs:
        offer(digest, content)
    return File(stamp, digest, content if runs else None)


def _by_stamp(stamp: Stamp) -> File:
    return File(stamp, digest_of(repr(stamp).encode()), None)
