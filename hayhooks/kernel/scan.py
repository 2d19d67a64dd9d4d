"""Scan: from the pipelines directory to ``{name: Revision}``; reads files and runs none.

A look costs a ``stat`` for each file; only what changed is read. A folder is read when it has kept still for the
settle time, so that one that is still being copied is not taken half-way; until then its last revision stands, as
it does for a short while after the folder has gone (``rm -r`` followed by ``cp -r``).
"""

import errno
import hashlib
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

from hayhooks.kernel import own_files
from hayhooks.kernel.paths import WRAPPER_FILE, YAML_SUFFIXES, real_path
from hayhooks.kernel.shared import PythonPath, imported_names, named_modules
from hayhooks.kernel.snapshot import File, Kind, Revision, Shared, Stamp
from hayhooks.logger import log

_FILE_SUFFIXES = (*YAML_SUFFIXES, ".py")

# Hidden files, and what editors, tools and Python leave behind.
_LEAVING = re.compile(r"\..*|.*(\.sw[pxo]|~|\.tmp|\.py[co]|___jb_\w+___)|#.*#|4913|__pycache__|node_modules", re.DOTALL)
_DIGEST_BYTES = 16 * 2**20  # of a larger file that is not Python the stamp stands for the content
_MAX_FILES = 20_000  # of a folder, each of which costs a stat with every look
_MAX_DIRECTORIES = 2_000  # that are looked into, the nearest first: each costs several system calls and a watch
_MAX_LINKED_FILES = 2_000  # below one link: those of a link to more, as to "/usr", are not looked at

_OLD_S = 2.0  # what was changed so long before the first look is not being copied just now

# A folder in which something always moves: data that other processes write, or that the wrapper writes unseen.
_PATIENCE_S = 10.0  # so long changes of Python files wait for the rest to keep still
_RESTLESS_S = 2.0  # data that changes again so soon after it was read is restless
_FREE_CHANGES = 5  # so many times that costs nothing, then the folder has to keep still twice as long each time
_MAX_SETTLE_S = 5.0


Directories = Mapping[str, tuple[int, int]]  # real path: (device, inode)


@dataclass(frozen=True, slots=True)
class Sight:
    """What claims a name, as it looked at one moment; nothing was read."""

    path: Path
    stamps: Mapping[str, Stamp] = field(default_factory=dict)  # by path relative to the folder
    shared: Mapping[str, Shared] = field(default_factory=dict)  # modules that it imports, by name
    directories: Directories = field(default_factory=dict)  # those that were visited, and those of shared modules
    problem: str = ""
    is_deployment: bool = True
    own: frozenset[str] = field(default=frozenset(), compare=False)  # what the wrapper writes there itself
    is_cut: bool = False  # it has more directories than are looked into
    kind: Kind = Kind.FOLDER

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the folder or file, links followed; zeros where it was not looked at."""
        file = None if WRAPPER_FILE in self.stamps else self.stamps.get(self.path.name)
        return (file.device, file.inode) if file else next(iter(self.directories.values()), (0, 0))

    @property
    def code(self) -> Mapping[str, Stamp | None]:
        """The stamps of what runs; of the other files only that they are there."""
        return {path: stamp if _is_code(path, self.kind) else None for path, stamp in self.stamps.items()}


@dataclass(frozen=True, slots=True)
class Look:
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

    sight: Sight
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
        own_files.listen()
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
        self._last: Look | None = None  # while nothing has changed since

    def look(self, now: float, names: Collection[str] | None = None) -> Look:
        """Look at the folders *names*, at those that are new or still changing, and at all of them if None.

        Args:
            now: a monotonic clock's seconds.
            names: where a change was reported; the listing of the directory itself is always read.
        """
        self._looked_at = now
        try:
            listing = _list(self._root)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._taken and not self._memory:
                return self._result("")  # it may never have been meant to be there
            return self._result(f"the pipelines directory {self._root} cannot be read: {error.strerror or error}")
        if self._only is not None:
            listing = {name: entries for name, entries in listing.items() if name == self._only}
        self._python_path.look()
        own_files.look()
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
        sight = _sight(name, paths, partial(self._name_problem, paths))
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

    def _with_shared(self, sight: Sight, imports: frozenset[str]) -> Sight:
        shared = self._python_path.modules(imports)
        if not shared:
            return sight
        places = {os.path.dirname(module.path) for module in shared.values()}
        identities = {place: _identity(place) for place in places}
        visited = {_real_path(place, identity): identity for place, identity in identities.items()}
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
        revision = _read(name, memory.sight, memory.revision, in_hurry=hurry)
        if revision is not None and self._python_path.roots and (imports := _imports(revision)) != memory.imports:
            memory.imports = imports
            memory.sight = self._with_shared(memory.sight, imports)
            revision = _read(name, memory.sight, revision, in_hurry=hurry)
        if revision is None:  # it changed while being read
            memory.seen_at = now
            return
        if memory.revision is None and memory.sight.is_cut:
            log.warning("{}: changes below its {:,} nearest folders are not noticed", name, _MAX_DIRECTORIES)
        memory.restless = self._restless(name, memory, revision, now)
        memory.revision, memory.read_at, memory.settled = revision, now, True

    def _restless(self, name: str, memory: _Memory, revision: Revision, now: float) -> int:
        """How many times in a row, now included, data alone has changed soon after it was read."""
        changed = revision.changed_since(memory.revision)
        if not changed or now - memory.read_at > _RESTLESS_S + (now - memory.seen_at):
            return 0
        if any(_is_code(path, revision.kind) and path not in memory.sight.own for path in changed):
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
            own_files.forget(real_path(memory.sight.path))

    def _result(self, problem: str) -> Look:
        surroundings = dict(_surroundings(self._root))
        last = self._last
        if last is None or last.problem != problem or last.surroundings != surroundings:
            self._last = last = self._fresh_result(surroundings, problem)
        return last

    def _fresh_result(self, surroundings: Directories, problem: str) -> Look:
        directories = {**surroundings}
        names_in: dict[str, set[str]] = {}
        seen = [(name, memory.sight.directories) for name, memory in self._memory.items()]
        for name, visited in [*seen, *self._bystanders.items()]:
            directories.update(visited)
            for directory in visited:
                names_in.setdefault(directory, set()).add(name)
        return Look(
            revisions={name: memory.revision for name, memory in self._memory.items() if memory.revision is not None},
            surroundings=surroundings,
            directories=directories,
            names_in={directory: frozenset(names) for directory, names in names_in.items()},
            unsettled=bool(self._unsettled),
            problem=problem,
        )


def name_problem(name: str, reserved: Collection[str]) -> str:
    """Why *name* cannot be a deployment's name, and what to do; "" if it can."""
    if name in reserved:
        return f"the name {name!r} belongs to a route of the server (/{name}): rename it"
    unfit = sorted({character for character in name if not _fits_a_path_segment(character)})
    if unfit:
        listed = " ".join(repr(character) for character in unfit)
        return (
            f"the name {name!r} cannot be a part of a URL, because of {listed}: use letters, digits, '-', '_' and '.'"
        )
    return ""


def _fits_a_path_segment(character: str) -> bool:
    return character.isalnum() or character in "-._~!$&'()*+,;=:@"  # RFC 3986, and letters of every script


def is_leaving(name: str) -> bool:
    """Whether *name* is a hidden file, or one that editors, tools and Python leave behind."""
    return _LEAVING.fullmatch(name) is not None


def _list(root: Path) -> dict[str, tuple[str, ...]]:
    """The names in *root* that may be deployments, each with the entries that claim it."""
    claims: dict[str, tuple[str, ...]] = {}
    with os.scandir(root) as entries:
        for entry in entries:
            filename = entry.name
            if filename.startswith("_") or is_leaving(filename):
                continue
            name = filename
            if filename.endswith(_FILE_SUFFIXES) and not _is_directory(entry):
                name = name_of(filename)
            claims[name] = (*claims.get(name, ()), filename)
    return claims


def name_of(filename: str) -> str:
    """The name that a file of the pipelines directory claims."""
    return filename.rpartition(".")[0] if filename.endswith(_FILE_SUFFIXES) else filename


def claims_on(root: Path, names: Collection[str]) -> dict[str, Path]:
    """What in *root* is, or was meant to be, a deployment of one of *names*."""
    try:
        listing = _list(root)
    except OSError:  # there is none, or it will be told when it is looked at
        return {}
    entries = [(name, root / entry) for name in names for entry in listing.get(name, ())]
    return {name: path for name, path in entries if _claim_problem(path) is not None}


def _sight(name: str, paths: Sequence[Path], problem_of: Callable[[str], str]) -> Sight:
    """Look at what claims *name*."""
    claims = [(path, problem) for path in paths if (problem := _claim_problem(path)) is not None]
    if not claims:
        return Sight(paths[0], directories=_folders(paths), is_deployment=False)
    path, problem = claims[0]
    if len(claims) > 1:
        listed = " and ".join(path.name + "/" * path.is_dir() for path, _ in claims)
        problem = f"{listed} both claim the name {name!r}: rename or remove one"
    problem = problem or problem_of(name)
    if problem:
        return Sight(path, directories=_folders(paths), problem=problem)
    try:
        return _walk(path) if path.is_dir() else _look_at_file(path)
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror or error}"
        return Sight(path, directories=_folders(paths), problem=problem)


def _is_old(sight: Sight) -> bool:
    """Whether what it saw has kept still for long, as far as the file system's clock is ours."""
    newest_ns = max((stamp.ctime_ns for stamp in sight.stamps.values()), default=0)
    return newest_ns < time.time_ns() - _OLD_S * 1e9


def _folders(paths: Sequence[Path]) -> Directories:
    return {_real_path(str(path), _identity(path)): _identity(path) for path in paths if path.is_dir()}


def _claim_problem(path: Path) -> str | None:
    """None if *path* is no deployment and was not meant as one, "" if it is one, else what is wrong with it."""
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        wrapper_mode = _mode(f"{path}/{WRAPPER_FILE}")
        if stat.S_ISDIR(wrapper_mode):
            return f"{path / WRAPPER_FILE} is a folder: it must be the Python file with class PipelineWrapper"
        return "" if stat.S_ISREG(wrapper_mode) else None
    if not stat.S_ISREG(mode):
        return None
    if path.suffix in YAML_SUFFIXES:
        return ""
    if _looks_like_a_wrapper(path):
        return f"{path.name} is a file where a folder should be: move it to {path.stem}/{WRAPPER_FILE}"
    return None


def _mode(path: str | Path) -> int:
    """What kind of file *path* is, links followed; 0 if it is none."""
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def _looks_like_a_wrapper(path: Path) -> bool:
    """Whether the file *path* was probably meant to be a deployment: a wrapper, or a plain file named like a folder."""
    if path.suffix == ".py":
        try:
            return b"class PipelineWrapper" in path.read_bytes()
        except OSError:
            return False
    return path.suffix == "" and path.name == path.name.lower()  # but not LICENSE, Makefile, Dockerfile


class _Walk:
    """A stat of every file below *folder*; links are followed, each real directory once."""

    def __init__(self, folder: Path) -> None:
        self.stamps: dict[str, Stamp] = {}
        self.directories: dict[str, tuple[int, int]] = {}
        self.own: set[str] = set()
        self.is_cut = False  # there are more directories than are looked into
        self._folder = _real_path(str(folder), _identity(folder))
        self._written = own_files.written_in(self._folder)
        self._visited: set[tuple[int, int]] = set()
        links = self._tree("", str(folder), _MAX_FILES)
        while links:
            prefix, directory = links.pop()
            if not f"{self._folder}/".startswith(real_path(directory).rstrip("/") + "/"):  # no way back up
                links += self._link(prefix, directory)

    def _link(self, prefix: str, directory: str) -> list[tuple[str, str]]:
        """Visit what a link leads to; where that is too much, nothing of it."""
        stamps, directories = dict(self.stamps), dict(self.directories)
        try:
            return self._tree(prefix, directory, len(stamps) + _MAX_LINKED_FILES)
        except _TooManyError:
            self.stamps, self.directories = stamps, directories
            return []

    def _tree(self, prefix: str, directory: str, most: int) -> list[tuple[str, str]]:
        """Visit *directory* and what lies below it; returns the links to directories, with their prefixes."""
        links: list[tuple[str, str]] = []
        to_visit = deque([(prefix, directory, _real_path(directory, _identity(directory)))])
        while to_visit:
            prefix, directory, real = to_visit.popleft()
            identity = _identity(directory)
            if identity in self._visited:
                continue
            if len(self.directories) >= _MAX_DIRECTORIES:  # the nearest have been seen: code lies there, caches below
                self.is_cut = True
                break
            self._visited.add(identity)
            entries = dict(_entries(prefix, directory))
            if prefix + "pyvenv.cfg" in entries:  # a virtual environment
                continue
            self.directories[real] = identity
            for relative, entry in entries.items():
                if _is_directory(entry):
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
        if path in self._written and own_files.is_own(self._folder, path, stamp):
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


def _walk(folder: Path) -> Sight:
    try:
        walk = _Walk(folder)
    except _TooManyError:
        problem = f"{folder} holds more than {_MAX_FILES:,} files: move what is no part of the wrapper out of it"
        return Sight(folder, directories=_folders((folder,)), problem=problem)
    return Sight(folder, walk.stamps, directories=walk.directories, own=frozenset(walk.own), is_cut=walk.is_cut)


def _look_at_file(path: Path) -> Sight:
    """A pipeline in YAML. Changes of it are told of the directory; where it is a link, also by what that leads to."""
    stamp = Stamp.of(os.stat(path))
    places = {str(path.parent), os.path.dirname(real_path(path))} if path.is_symlink() else set()
    directories = {real_path(place): _identity(place) for place in places}
    return Sight(path, {path.name: stamp}, directories=directories, kind=Kind.YAML)


def _is_code(path: str, kind: Kind) -> bool:
    return kind is Kind.YAML or path.endswith(".py")


def _entries(prefix: str, directory: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not is_leaving(entry.name):
                    yield prefix + entry.name, entry
    except FileNotFoundError:  # removed since its parent was listed
        return
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # so deep that nothing there can be called by a name
            raise


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _stamp(entry: os.DirEntry[str]) -> Stamp | None:
    """The stamp of a regular file; None for all others, and for links that lead nowhere."""
    try:
        status = entry.stat()
    except OSError:
        return None
    return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None


def _identity(path: str | Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def _real_path(directory: str, identity: tuple[int, int]) -> str:
    """The real path of *directory*, found once for each *identity*: it costs a system call for each part."""
    real = _known_real_path(directory, identity)
    if real != directory and _identity(real) != identity:  # what a link leads to was renamed, and the link flipped
        _known_real_path.cache_clear()
        real = _known_real_path(directory, identity)
    return real


@lru_cache(maxsize=10_000)
def _known_real_path(directory: str, identity: tuple[int, int]) -> str:
    return real_path(directory)


def _surroundings(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """The root as a directory to watch; its parent too, where a link to it may be flipped or it may come back."""
    for directory in (root, root.parent) if root.is_symlink() or not root.is_dir() else (root,):
        if directory.is_dir():
            yield real_path(directory), _identity(directory)


def _read(name: str, sight: Sight, before: Revision | None, *, in_hurry: bool) -> Revision | None:
    """Read what *sight* saw; None if it is no longer the same. What did not change since *before* is not read again.

    *in_hurry* of data that moves while it is read the stamp stands for the content.
    """
    path = sight.path
    if sight.problem:
        return _unreadable(name, sight, sight.problem)
    folder = path.parent if sight.kind is Kind.YAML else path
    known = before.files if before else {}
    files: dict[str, File] = {}
    for relative, stamp in sorted(sight.stamps.items()):
        old = known.get(relative)
        if old is not None and old.stamp == stamp:
            files[relative] = old
            continue
        try:
            files[relative] = _read_file(folder / relative, stamp, is_code=_is_code(relative, sight.kind))
        except _ChangedError:
            if not in_hurry or _is_code(relative, sight.kind):
                return None
            files[relative] = _by_stamp(stamp)
        except OSError as error:
            return _unreadable(name, sight, f"{folder / relative} cannot be read: {error.strerror or error}")
    fingerprint = _fingerprint(files, sight.shared)
    return Revision(name, path, fingerprint, files, shared=sight.shared, kind=sight.kind, identity=sight.identity)


def _unreadable(name: str, sight: Sight, problem: str) -> Revision:
    fingerprint = _digest(problem.encode(errors="surrogateescape")).hex()
    return Revision(name, sight.path, fingerprint, {}, problem, identity=sight.identity)


def _imports(revision: Revision) -> frozenset[str]:
    """What the code of *revision* imports from outside its folder."""
    sources = {path: file.source for path, file in revision.files.items() if file.source is not None}
    if revision.kind is Kind.YAML:
        return frozenset().union(*map(named_modules, sources.values()))
    siblings = {path.partition("/")[0].removesuffix(".py") for path in sources}
    names = frozenset().union(*map(imported_names, sources.values()))
    return frozenset(name for name in names if name.partition(".")[0] not in siblings)


def _code_of(revision: Revision) -> Mapping[str, Stamp | None]:
    return {path: file.stamp if _is_code(path, revision.kind) else None for path, file in revision.files.items()}


class _ChangedError(Exception):
    """A file is no longer what its stamp says."""


def _read_file(path: Path, stamp: Stamp, *, is_code: bool) -> File:
    if stamp.size > _DIGEST_BYTES and not is_code:
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
    return File(stamp, _digest(content), content if is_code else None)


def _by_stamp(stamp: Stamp) -> File:
    return File(stamp, _digest(repr(stamp).encode()), None)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _fingerprint(files: Mapping[str, File], shared: Mapping[str, Shared]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for relative, file in sorted(files.items()):
        total.update(os.fsencode(relative) + b"\0" + file.digest)
    for name, module in sorted(shared.items()):
        total.update(f"{name}\0{module.version}\0".encode())
    return total.hexdigest()
