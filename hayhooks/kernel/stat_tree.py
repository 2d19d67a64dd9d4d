"""Sight: how a deployment lies there at one moment; a ``stat`` for each file, and nothing is read."""

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from hayhooks.kernel import self_writes
from hayhooks.kernel.discovery import entry_problem, is_directory, is_ignored
from hayhooks.kernel.paths import WRAPPER_FILE, YAML_SUFFIXES, real_path
from hayhooks.kernel.state import RevisionKind, Shared, Stamp

_MAX_FILES = 20_000  # of a folder, each of which costs a stat with every look
MAX_DIRECTORIES = 2_000  # that are looked into, the nearest first: each costs several system calls and a watch
_MAX_LINKED_FILES = 2_000  # below one link: those of a link to more, as to "/usr", are not looked at

Directories = Mapping[str, tuple[int, int]]  # real path: (device, inode)


@dataclass(frozen=True, slots=True)
class TreeStat:
    """What claims a name, as it looked at one moment; nothing was read."""

    path: Path
    stamps: Mapping[str, Stamp] = field(default_factory=dict)  # by path relative to the folder
    shared: Mapping[str, Shared] = field(default_factory=dict)  # modules that it imports, by name
    directories: Directories = field(default_factory=dict)  # those that were visited, and those of shared modules
    problem: str = ""
    is_deployment: bool = True
    own: frozenset[str] = field(default=frozenset(), compare=False)  # what the wrapper writes there itself
    is_cut: bool = False  # it has more directories than are looked into
    kind: RevisionKind = RevisionKind.FOLDER

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the folder or file, links followed; zeros where it was not looked at."""
        file = None if WRAPPER_FILE in self.stamps else self.stamps.get(self.path.name)
        return (file.device, file.inode) if file else next(iter(self.directories.values()), (0, 0))

    @property
    def code(self) -> Mapping[str, Stamp | None]:
        """The stamps of what runs; of the other files only that they are there."""
        return {path: stamp if is_code(path, self.kind) else None for path, stamp in self.stamps.items()}


def stat_tree(name: str, paths: Sequence[Path], problem_of: Callable[[str], str]) -> TreeStat:
    """Look at what claims *name*."""
    claims = [(path, problem) for path in paths if (problem := entry_problem(path)) is not None]
    if not claims:
        return TreeStat(paths[0], directories=_folders(paths), is_deployment=False)
    path, problem = claims[0]
    if len(claims) > 1:
        listed = " and ".join(path.name + "/" * path.is_dir() for path, _ in claims)
        problem = f"{listed} both claim the name {name!r}: rename or remove one"
    problem = problem or problem_of(name)
    if problem:
        return TreeStat(path, directories=_folders(paths), problem=problem)
    try:
        return _look_at_file(path) if path.suffix in YAML_SUFFIXES and not path.is_dir() else _walk(path)
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror or error}"
        return TreeStat(path, directories=_folders(paths), problem=problem)


def _folders(paths: Sequence[Path]) -> Directories:
    identities = {path: identity_of(path) for path in paths if path.is_dir()}
    return {cached_realpath(str(path), identity): identity for path, identity in identities.items()}


class _Walk:
    """A stat of every file below *folder*; links are followed, each real directory once."""

    def __init__(self, folder: Path) -> None:
        self.stamps: dict[str, Stamp] = {}
        self.directories: dict[str, tuple[int, int]] = {}
        self.own: set[str] = set()
        self.is_cut = False  # there are more directories than are looked into
        identity = identity_of(folder)
        self._folder = cached_realpath(str(folder), identity)
        self._written = self_writes.written_in(self._folder)
        self._visited: set[tuple[int, int]] = set()
        links = self._tree("", str(folder), identity, _MAX_FILES)
        while links:
            prefix, directory = links.pop()
            if not f"{self._folder}/".startswith(real_path(directory).rstrip("/") + "/"):  # no way back up
                links += self._link(prefix, directory)

    def _link(self, prefix: str, directory: str) -> list[tuple[str, str]]:
        """Visit what a link leads to; where that is too much, nothing of it."""
        stamps, directories = dict(self.stamps), dict(self.directories)
        try:
            return self._tree(prefix, directory, identity_of(directory), len(stamps) + _MAX_LINKED_FILES)
        except _TooManyError:
            self.stamps, self.directories = stamps, directories
            return []

    def _tree(self, prefix: str, top: str, top_identity: tuple[int, int], most: int) -> list[tuple[str, str]]:
        """Visit *top* and what lies below it; returns the links to directories, with their prefixes."""
        links: list[tuple[str, str]] = []
        to_visit = deque([(prefix, top, cached_realpath(top, top_identity))])
        while to_visit:
            prefix, directory, real = to_visit.popleft()
            identity = top_identity if directory is top else identity_of(directory)
            if identity in self._visited:
                continue
            if len(self.directories) >= MAX_DIRECTORIES:  # the nearest have been seen: code lies there, caches below
                self.is_cut = True
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
                elif not _is_beside_a_database(relative, entries) and (stamp := _stamp(entry)) is not None:
                    self._file(relative, f"{real}/{entry.name}", stamp)
            if len(self.stamps) > most:
                raise _TooManyError
        return links

    def _file(self, relative: str, path: str, stamp: Stamp) -> None:
        if path in self._written and self_writes.is_self_written(self._folder, path, stamp):
            self.own.add(relative)
            if not relative.endswith(".py"):
                return
        self.stamps[relative] = stamp


def _is_beside_a_database(relative: str, entries: Collection[str]) -> bool:
    """Whether SQLite keeps that file beside its own while it works."""
    database, _, suffix = relative.rpartition("-")
    return suffix in ("journal", "wal", "shm") and database in entries


class _TooManyError(Exception):
    """A walk met more files than it may."""


def _walk(folder: Path) -> TreeStat:
    try:
        walk = _Walk(folder)
    except _TooManyError:
        problem = f"{folder} holds more than {_MAX_FILES:,} files: move what is no part of the wrapper out of it"
        return TreeStat(folder, directories=_folders((folder,)), problem=problem)
    return TreeStat(folder, walk.stamps, directories=walk.directories, own=frozenset(walk.own), is_cut=walk.is_cut)


def _look_at_file(path: Path) -> TreeStat:
    """A pipeline in YAML. Changes of it are told of the directory; where it is a link, also by what that leads to."""
    stamp = Stamp.of(os.stat(path))
    places = {str(path.parent), os.path.dirname(real_path(path))} if path.is_symlink() else set()
    directories = {real_path(place): identity_of(place) for place in places}
    return TreeStat(path, {path.name: stamp}, directories=directories, kind=RevisionKind.YAML)


def is_code(path: str, kind: RevisionKind) -> bool:
    """Whether the file *path* of a deployment of that *kind* is run, and not only there."""
    return kind is RevisionKind.YAML or path.endswith(".py")


def _entries(prefix: str, directory: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not is_ignored(entry.name):
                    yield prefix + entry.name, entry
    except FileNotFoundError:  # removed since its parent was listed
        return
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # so deep that nothing there can be called by a name
            raise


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    """The stamp of a regular file; None for all others, and for links that lead nowhere."""
    try:
        status = entry.stat()
    except OSError:
        return None
    return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None


def identity_of(path: str | Path) -> tuple[int, int]:
    """Device and inode of *path*, links followed; zeros where there is nothing."""
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def cached_realpath(directory: str, identity: tuple[int, int]) -> str:
    """The real path of *directory*, found once for each *identity*: it costs a system call for each part."""
    real = _known_real_path(directory, identity)
    if real != directory and identity_of(real) != identity:  # what a link leads to was renamed, and the link flipped
        _known_real_path.cache_clear()
        real = _known_real_path(directory, identity)
    return real


@lru_cache(maxsize=10_000)
def _known_real_path(directory: str, identity: tuple[int, int]) -> str:
    return real_path(directory)


def watch_roots(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """The root as a directory to watch; its parent too, where a link to it may be flipped or it may come back."""
    for directory in (root, root.parent) if root.is_symlink() or not root.is_dir() else (root,):
        if directory.is_dir():
            yield real_path(directory), identity_of(directory)
