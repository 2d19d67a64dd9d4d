"""Self-writes: files that a wrapper writes into its own folder do not reload it.

An audit hook sees every file that is opened for writing, and the context tells whether a wrapper's code opens it.
Workers, and servers of one directory, leave each other notes in the temporary directory. A process leaves a note before
the write, and retracts it when it sees a change that it has not made. So a change without a note is somebody else's.
"""

import hashlib
import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from hayhooks.kernel.discovery import is_ignored, real_path
from hayhooks.kernel.isolation import current_folder
from hayhooks.kernel.places import outward
from hayhooks.kernel.state import Stamp

_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MAX_NOTES = 2_000  # of one process


class _CallSite(NamedTuple):
    """A call on a thread's stack, as numbers: a frame would keep objects alive."""

    frame: int
    code: int
    instruction: int

    @classmethod
    def of(cls, frame: FrameType) -> "_CallSite":
        return cls(id(frame), id(frame.f_code), frame.f_lasti)


@dataclass(slots=True)
class _WrittenFile:
    by_this_process: bool = False  # its present state; False: another process's
    stamp: Stamp | None = None  # as of the last scan
    closed: bool = False  # this is the state it was closed in: a further change is somebody else's
    calls: dict[int, _CallSite] = field(default_factory=dict)  # the last call of each thread that announced a write
    announced: int = 0  # how many writes have been announced


class ProcessNotes:
    """Notes on written files, which the processes that serve for one user leave each other in a directory.

    *is_first*: no other process of this server runs, and the notes of dead ones of any server are removed.
    """

    def __init__(self, directory: Path | None = None, *, is_first: bool = False) -> None:
        self._directory = directory  # where each process has a directory of its own; None: no notes
        self._published: set[str] = set()
        self._read: dict[str, tuple[str, str]] = {}  # folder and path, by the name of the note
        if directory is not None:
            dead = [other for other in self._others() if is_first and not is_process_alive(int(other.name))]
            for notes in (self._own(directory), *dead):  # its own: of a dead process that had the same id
                shutil.rmtree(notes, ignore_errors=True)

    def publish(self, folder: str, path: str) -> None:
        """Leave a note that the wrapper in *folder* writes *path*."""
        if self._directory is None or path in self._published or len(self._published) >= _MAX_NOTES:
            return
        note = self._own(self._directory) / _note_name(path)
        draft = note.with_name(f".{note.name}")
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(os.fsencode(folder) + b"\0" + os.fsencode(path))
            draft.replace(note)
        except OSError:  # a full or read-only disk: other processes load what this one writes
            return
        self._published.add(path)

    def withdraw(self, path: str) -> None:
        """Remove the note on *path*, if there is one of this process."""
        if self._directory is not None and path in self._published:
            (self._own(self._directory) / _note_name(path)).unlink(missing_ok=True)
            self._published.discard(path)

    def retract(self, path: str) -> None:
        """Remove the note on *path*, and those of dead processes."""
        self.withdraw(path)
        for process in self._others():
            if not is_process_alive(int(process.name)):
                (process / _note_name(path)).unlink(missing_ok=True)

    def is_noted_elsewhere(self, path: str) -> bool:
        """Whether another process has a note on *path*."""
        return any((process / _note_name(path)).exists() for process in self._others())

    def of_others(self) -> Iterator[tuple[str, str]]:
        """Yield the folder and the path of each note of the other processes."""
        before, self._read = self._read, {}
        for process in self._others():
            for name in _names_in(process):
                if name not in before:
                    try:
                        folder, path = (process / name).read_bytes().split(b"\0")
                    except (OSError, ValueError):  # retracted meanwhile
                        continue
                    before[name] = os.fsdecode(folder), os.fsdecode(path)
                self._read[name] = before[name]
                yield before[name]

    def _others(self) -> list[Path]:
        if self._directory is None:
            return []
        others = (name for name in _names_in(self._directory) if name.isdecimal() and name != str(os.getpid()))
        return [self._directory / name for name in others]

    @staticmethod
    def _own(directory: Path) -> Path:
        return directory / str(os.getpid())


class SelfWrites:
    """The files that wrappers wrote into their own folders. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a garbage collection may run a __del__ that writes, here too
        self._written: dict[str, dict[str, _WrittenFile]] = {}  # by real path of the folder, then of the file
        self._notes = ProcessNotes()
        self._listening = False
        self._hook_added = False

    def share_notes(self, *, is_first: bool) -> None:
        """Exchange notes with other workers and servers; see ``ProcessNotes``."""
        directory = Path(tempfile.gettempdir()) / f"hayhooks-{os.geteuid()}"
        is_ours = False  # only this user can write to it
        with suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
            status = os.lstat(directory)
            is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
        self._notes = ProcessNotes(directory / "notes" if is_ours else None, is_first=is_first)

    def read_other_processes(self) -> None:
        """Take over the notes of the other workers and servers."""
        for folder, path in self._notes.of_others():
            with self._lock:
                self._written.setdefault(folder, {}).setdefault(path, _WrittenFile())

    def written_in(self, folder: str) -> frozenset[str]:
        """Return the real paths of the files that the wrapper in *folder* wrote there."""
        with self._lock:
            return frozenset(self._written.get(folder, ()))

    def is_self_written(self, folder: str, path: str, stamp: Stamp) -> bool:
        """Whether *path* is as the wrapper left it; forget it otherwise."""
        with self._lock:
            file = self._written.get(folder, {}).get(path)
            if file is None:
                return False
            if file.by_this_process:
                is_changed = file.closed and file.stamp != stamp and not _is_open(path)
            else:
                is_changed = file.stamp not in (None, stamp)
            if is_changed:
                file.by_this_process = False
                self._notes.retract(path)
            if not file.by_this_process and not self._notes.is_noted_elsewhere(path):
                del self._written[folder][path]
                return False
            unchanged = file.closed and file.stamp == stamp
            # A file passes through these states in this order, so checking them in this order misses none. The stamp
            # shows that it was not written between its scan and its being closed.
            file.closed = unchanged or not (_is_being_opened(file) or _is_open(path) or Stamp.at(path) != stamp)
            file.stamp = stamp
            return True

    def forget_removed(self, folder: str, paths: Iterable[str]) -> None:
        """Forget those of *paths*, written in *folder*, that do not exist and are not being created."""
        gone = [path for path in paths if not os.path.lexists(path)]
        with self._lock:
            written = self._written.get(folder, {})
            removed = {path: written[path].announced for path in gone if path in written}
        if not removed:
            return
        stacks = (outward(frame) for frame in sys._current_frames().values())
        calls = {_CallSite.of(frame) for stack in stacks for frame in stack}
        for path, announced in removed.items():
            with self._lock:
                file = self._written.get(folder, {}).get(path)
                if file is None or not calls.isdisjoint(file.calls.values()):
                    continue
                # A write that was announced before the look at the stacks, and is in none, has created the file by now.
                if file.announced == announced and not os.path.lexists(path):
                    del self._written[folder][path]
                    self._notes.withdraw(path)

    def forget(self, folder: str) -> None:
        """Forget the files of the wrapper in *folder*, which is gone."""
        with self._lock:
            for path in self._written.pop(folder, ()):
                self._notes.retract(path)

    def install_audit_hook(self) -> None:
        """Begin to record writes."""
        self._listening = True
        if not self._hook_added:  # Python cannot remove an audit hook
            self._hook_added = True
            sys.addaudithook(self._on_audit_event)

    def forget_in_child(self) -> None:
        """Record nothing in a forked child, where another thread may have held the lock."""
        self._lock = threading.RLock()
        self._listening = False

    def uninstall_audit_hook(self) -> None:
        """Stop recording writes."""
        self._listening = False

    def _on_audit_event(self, event: str, args: Sequence[Any]) -> None:
        # Python calls this for every event in the process: other events must return early.
        written_paths = _WRITTEN_PATHS.get(event)
        if written_paths is None or not self._listening or (folder := current_folder()) is None:
            return
        real_folder = real_path(folder)
        for argument in written_paths(args):
            if not isinstance(argument, str | bytes | os.PathLike):
                continue
            try:
                directory, name = os.path.split(os.path.abspath(os.fsdecode(argument)))
            except OSError:  # no working directory; an error raised here would come out of the wrapper's open()
                continue
            directory = real_path(directory)
            if not f"{directory}/".startswith(f"{real_folder}/"):
                continue
            path = f"{directory}/{name}"
            if any(map(is_ignored, path.removeprefix(f"{real_folder}/").split("/"))):  # the scan does not see it
                continue
            with self._lock:
                file = self._written.setdefault(real_folder, {}).setdefault(path, _WrittenFile())
                file.by_this_process, file.closed = True, False
                file.announced += 1
                if (caller := sys._getframe().f_back) is not None:
                    file.calls[threading.get_ident()] = _CallSite.of(caller)
                self._notes.publish(real_folder, path)


self_writes = SelfWrites()  # one for the process, as the audit hook

os.register_at_fork(after_in_child=self_writes.forget_in_child)  # for good: Python cannot undo it


def is_process_alive(pid: int) -> bool:
    """Whether a process *pid* exists, anybody's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# The arguments of an audit event that are written paths.
_WRITTEN_PATHS: dict[str, Callable[[Sequence[Any]], Sequence[Any]]] = {
    "open": lambda args: args[:1] if isinstance(args[2], int) and args[2] & _WRITE_FLAGS else (),
    "os.rename": lambda args: args[:2],
    "os.remove": lambda args: args[:1],
    "os.truncate": lambda args: args[:1],
    "os.link": lambda args: args[1:2],
    "os.symlink": lambda args: args[1:2],
    "sqlite3.connect": lambda args: args[:1],
}


def _is_being_opened(file: _WrittenFile) -> bool:
    """Whether a thread is still in a call that announced a write."""
    # Linux truncates a file before it lists it among the open ones, and a busy machine may pause in between.
    stacks = sys._current_frames() if file.calls else {}
    for thread, call in list(file.calls.items()):
        if call not in map(_CallSite.of, outward(stacks.get(thread))):
            del file.calls[thread]
    return bool(file.calls)


def _is_open(path: str) -> bool:
    # A log is opened once and written for ever.
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:  # not Linux: it may be
        return True
    for descriptor in descriptors:
        try:
            if os.readlink(f"/proc/self/fd/{descriptor}") == path:
                return True
        except OSError:  # closed meanwhile
            continue
    return False


def _names_in(directory: Path) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if not name.startswith(".")]
    except OSError:  # no process has left a note there
        return []


def _note_name(path: str) -> str:
    return hashlib.blake2b(os.fsencode(path), digest_size=16).hexdigest()
