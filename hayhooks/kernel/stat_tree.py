"""Stat tree: the stat results of one deployment's files; no file is read."""

import errno
import os
import stat
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from hayhooks.kernel.discovery import (
    WRAPPER_FILE,
    YAML_SUFFIXES,
    Identity,
    entry_identity,
    entry_problem,
    identity_of,
    is_directory,
    is_ignored,
    real_path,
)
from hayhooks.kernel.self_writes import self_writes
from hayhooks.kernel.state import RevisionKind, SharedModule, Stamp

_MAX_FILES = 20_000  # of one folder: each costs a stat in every scan
MAX_DIRECTORIES = 2_000  # of one folder, nearest first: each costs several system calls and an inotify watch
_MAX_LINKED_FILES = 2_000  # below one link: a link to more, such as "/usr", is not followed

Directories = Mapping[str, tuple[int, int]]  # real path: (device, inode)


@dataclass(frozen=True, slots=True)
class TreeStat:
    """The stat results of the entries that claim one name."""

    path: Path
    stamps: Mapping[str, Stamp] = field(default_factory=dict)  # by path relative to the folder
    shared: Mapping[str, SharedModule] = field(default_factory=dict)  # modules that it imports, by name
    directories: Directories = field(default_factory=dict)  # those visited, and those of shared modules
    problem: str = ""
    is_deployment: bool = True
    self_written: frozenset[str] = field(default=frozenset(), compare=False)  # files that the wrapper itself wrote
    is_truncated: bool = False  # it has more than MAX_DIRECTORIES
    kind: RevisionKind = RevisionKind.FOLDER

    @property
    def identity(self) -> Identity:
        """That of the wrapper or YAML file, as it was seen; after a problem, as it is."""
        file = self.stamps.get(WRAPPER_FILE) or self.stamps.get(self.path.name)
        return Identity(file.device, file.inode, file.ctime_ns) if file else entry_identity(self.path)

    @property
    def newest_ctime_ns(self) -> int:
        """The latest change of a file, by the file system's clock; 0 without files."""
        return max((stamp.ctime_ns for stamp in self.stamps.values()), default=0)

    @property
    def code(self) -> Mapping[str, Stamp | None]:
        """The stamps of the files that run; None for each of the others."""
        return {path: stamp if is_code(path, self.kind) else None for path, stamp in self.stamps.items()}


def stat_tree(name: str, paths: Sequence[Path], name_problem: str, expected: Path | None = None) -> TreeStat:
    """Stat all files of the entries *paths*, which claim *name*; *expected* is a deployment, whatever it contains."""
    problems = [(path, entry_problem(path, is_expected=path == expected)) for path in paths]
    claims = [(path, problem) for path, problem in problems if problem is not None]
    if not claims:
        return TreeStat(paths[0], directories=_directories_among(paths), is_deployment=False)
    path, problem = claims[0]
    if len(claims) > 1:
        listed = " and ".join(path.name + "/" * path.is_dir() for path, _ in claims)
        problem = f"{listed} both claim the name {name!r}: rename or remove one"
    problem = problem or name_problem
    if not problem:
        try:
            if path.suffix in YAML_SUFFIXES and not path.is_dir():
                # Its directory is watched anyway; where it is a link, its target's is watched too.
                places = {str(path.parent), os.path.dirname(real_path(path))} if path.is_symlink() else set()
                watched = {real_path(place): identity_of(place) for place in places}
                stamps = {path.name: Stamp.of(os.stat(path))}
                return TreeStat(path, stamps, directories=watched, kind=RevisionKind.YAML)
            walk = _Walk(path)
            written = frozenset(walk.self_written)
            directories, is_truncated = walk.directories, walk.is_truncated
            return TreeStat(path, walk.stamps, directories=directories, self_written=written, is_truncated=is_truncated)
        except _TooManyFilesError:
            problem = f"{path} has more than {_MAX_FILES:,} files: move those that the wrapper does not need"
        except OSError as error:
            problem = f"{path} cannot be read: {error.strerror or error}"
    return TreeStat(path, directories=_directories_among(paths), problem=problem)


def is_code(path: str, kind: RevisionKind) -> bool:
    """Whether the file *path* of a deployment of that *kind* runs; others are data."""
    return kind is RevisionKind.YAML or path.endswith(".py")


def _directories_among(paths: Sequence[Path]) -> Directories:
    identities = {path: identity_of(path) for path in paths if path.is_dir()}
    return {cached_realpath(str(path), identity): identity for path, identity in identities.items()}


class _Walk:
    """Stats every file below *folder*; links are followed, each real directory once."""

    def __init__(self, folder: Path) -> None:
        self.stamps: dict[str, Stamp] = {}
        self.directories: dict[str, tuple[int, int]] = {}
        self.self_written: set[str] = set()
        self.is_truncated = False
        identity = identity_of(folder)
        self._folder = cached_realpath(str(folder), identity)
        self._written = self_writes.written_in(self._folder)
        self._unseen = set(self._written)
        self._visited: set[tuple[int, int]] = set()
        links = self._visit("", str(folder), identity, _MAX_FILES)
        while links:
            prefix, directory = links.pop()
            if f"{self._folder}/".startswith(real_path(directory).rstrip("/") + "/"):  # a way back up
                continue
            stamps, directories = dict(self.stamps), dict(self.directories)
            try:
                links += self._visit(prefix, directory, identity_of(directory), len(stamps) + _MAX_LINKED_FILES)
            except _TooManyFilesError:
                self.stamps, self.directories = stamps, directories
        self_writes.forget_removed(self._folder, self._unseen)

    def _visit(self, prefix: str, top: str, top_identity: tuple[int, int], max_files: int) -> list[tuple[str, str]]:
        links: list[tuple[str, str]] = []
        to_visit = deque([(prefix, top, cached_realpath(top, top_identity))])
        while to_visit:
            prefix, directory, real = to_visit.popleft()
            identity = top_identity if directory is top else identity_of(directory)
            if identity in self._visited:
                continue
            if len(self.directories) >= MAX_DIRECTORIES:  # the nearest have been seen: code lies there, caches below
                self.is_truncated = True
                break
            self._visited.add(identity)
            entries = dict(_entries(prefix, directory))
            if prefix + "pyvenv.cfg" in entries:  # a virtual environment
                continue
            self.directories[real] = identity
            for relative, entry in entries.items():
                if is_directory(entry):
                    if entry.is_symlink():
                        links.append((relative + "/", entry.path))
                    else:
                        to_visit.append((relative + "/", entry.path, f"{real}/{entry.name}"))
                else:
                    self.visit_file(relative, entry, f"{real}/{entry.name}", entries)
            if len(self.stamps) > max_files:
                raise _TooManyFilesError
        return links

    def visit_file(self, relative: str, entry: os.DirEntry[str], path: str, siblings: Collection[str]) -> None:
        database, _, suffix = relative.rpartition("-")
        if suffix in ("journal", "wal", "shm") and database in siblings:  # SQLite keeps it while it works
            return
        try:
            status = entry.stat()
        except OSError:  # a dangling link
            return
        if not stat.S_ISREG(status.st_mode):
            return
        stamp = Stamp.of(status)
        self._unseen.discard(path)
        if path in self._written and self_writes.is_self_written(self._folder, path, stamp):
            self.self_written.add(relative)
            if not relative.endswith(".py"):
                return
        self.stamps[relative] = stamp


class _TooManyFilesError(Exception):
    """A walk met more files than it may."""


def _entries(prefix: str, directory: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not is_ignored(entry.name):
                    yield prefix + entry.name, entry
    except FileNotFoundError:  # removed since its parent was listed
        return
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # too deep to be opened by any path
            raise


def cached_realpath(directory: str, identity: tuple[int, int]) -> str:
    """Return the real path of *directory*, found once for each *identity*."""
    real = _known_real_path(directory, identity)
    if real != directory and identity_of(real) != identity:  # the target was renamed, and the link flipped to it
        _known_real_path.cache_clear()
        real = _known_real_path(directory, identity)
    return real


@lru_cache(maxsize=10_000)  # each part of a path costs a system call
def _known_real_path(directory: str, identity: tuple[int, int]) -> str:
    return real_path(directory)


def watch_roots(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the root to watch, and its parent if the root is a link or missing."""
    for directory in (root, root.parent) if root.is_symlink() or not root.is_dir() else (root,):
        if directory.is_dir():
            yield real_path(directory), identity_of(directory)
