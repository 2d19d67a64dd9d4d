"""Own files: what a wrapper writes into its own folder, a log or a cache, is no change that asks for a reload.

Python tells of every file that is opened for writing (``sys.addaudithook``), and the context tells whether a wrapper's
code does it. What others write into the folder, another wrapper included, is a change as ever; so is what somebody else
writes later to a file that a wrapper has written once.

Workers that serve the same directory tell each other: each keeps a note of every file that its wrappers write. It
leaves the note before the write, and withdraws it when it sees a change that it has not made. So a change of which no
worker keeps a note is somebody else's.
"""

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from hayhooks.kernel.discovery import real_path
from hayhooks.kernel.isolation import current_folder
from hayhooks.kernel.state import Stamp

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MOST_NOTES = 2_000  # of one worker


class _Call(NamedTuple):
    """The place of a call on a thread's stack; numbers alone, for a frame would keep alive what it holds."""

    frame: int
    code: int
    instruction: int

    @classmethod
    def of(cls, frame: FrameType) -> "_Call":
        """The call that *frame* is at."""
        return cls(id(frame), id(frame.f_code), frame.f_lasti)


@dataclass(slots=True)
class _Own:
    """A file that a wrapper has written."""

    is_mine: bool = False  # it is as this worker left it; else as another did
    stamp: Stamp | None = None  # as it was seen last
    is_done: bool = False  # as it was left when it was closed: who changes it now is somebody else
    calls: dict[int, _Call] = field(default_factory=dict)  # that were about to write it, the last of each thread


_lock = threading.RLock()  # a __del__ that writes may be run by the garbage collector anywhere, here too
_written: dict[str, dict[str, _Own]] = {}  # by the wrapper's real folder and the file's real path
_worker_dir: Path | None = None  # where workers tell each other
_noted: set[str] = set()  # the real paths of which this worker has a note there
_read: dict[str, tuple[str, str]] = {}  # by name what is in the notes of others: the folder and the path


def share_with_workers(worker_dir: Path | None) -> None:
    """Tell the other workers by notes in the directory *worker_dir* what is written here, and hear of theirs."""
    global _worker_dir  # noqa: PLW0603 - as the hook, one for the process
    _worker_dir = worker_dir
    _noted.clear()
    if worker_dir is not None:
        shutil.rmtree(_mine(worker_dir), ignore_errors=True)  # of a worker that has died and had the same process id


def read_other_workers() -> None:
    """Read what other workers have told."""
    for worker in _others():
        for note in _listing(worker):
            try:
                folder, path = _read.get(note) or _read.setdefault(note, _content(worker / note))
            except FileNotFoundError:  # it has just been withdrawn
                continue
            with _lock:
                _written.setdefault(folder, {}).setdefault(path, _Own())


def written_in(folder: str) -> frozenset[str]:
    """The real paths of the files that the wrapper in the real path *folder* has written there itself."""
    with _lock:
        return frozenset(_written.get(folder, ()))


def is_self_written(folder: str, path: str, stamp: Stamp) -> bool:
    """Whether *path*, one of those, is as the wrapper left it; it is forgotten when somebody else has changed it."""
    with _lock:
        own = _written.get(folder, {}).get(path)
        if own is None:
            return False
        if _is_changed(own, path, stamp):
            own.is_mine = False
            _withdraw(path)
        if not own.is_mine and not _is_noted_elsewhere(path):
            del _written[folder][path]
            return False
        left_alone = own.is_done and own.stamp == stamp
        # A file that is written goes through these states in this order, so none of them is missed.
        own.is_done = left_alone or not (_is_being_opened(own) or _is_open(path) or not _is_still(path, stamp))
        own.stamp = stamp
        return True


def _is_changed(own: _Own, path: str, stamp: Stamp) -> bool:
    """Whether it has been written since it was seen last, and not by this worker."""
    if own.is_mine:
        return own.is_done and own.stamp != stamp and not _is_open(path)
    return own.stamp not in (None, stamp)


def _is_still(path: str, stamp: Stamp) -> bool:
    """Whether *path* has not been written between the look at it and its being closed."""
    try:
        return Stamp.of(os.stat(path)) == stamp
    except OSError:
        return False


def _is_being_opened(own: _Own) -> bool:
    """Whether a thread is still in a call that was announced: before it, or where a file is empty and not yet open.

    Linux empties a file first and lists it among those that are open afterwards, and a busy machine may do something
    else in between.
    """
    stacks = sys._current_frames() if own.calls else {}
    own.calls = {thread: call for thread, call in own.calls.items() if call in _calls(stacks.get(thread))}
    return bool(own.calls)


def _calls(frame: FrameType | None) -> Iterator[_Call]:
    """The calls that a thread is in."""
    while frame is not None:
        yield _Call.of(frame)
        frame = frame.f_back


def _is_open(path: str) -> bool:
    """Whether this process has *path* open: a log is opened once and written for ever."""
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:  # no such thing here: who knows
        return True
    return any(_target(descriptor) == path for descriptor in descriptors)


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # closed since
        return ""


def _tell(folder: str, path: str) -> None:
    """Leave a note of *path*."""
    if _worker_dir is None or path in _noted or len(_noted) >= _MOST_NOTES:
        return
    note = _mine(_worker_dir) / _name(path)
    draft = note.with_name(f".{note.name}")
    try:
        note.parent.mkdir(exist_ok=True)
        draft.write_bytes(os.fsencode(folder) + b"\0" + os.fsencode(path))
        draft.replace(note)
    except OSError:  # the worker_dir is gone: the server is stopping
        return
    _noted.add(path)


def _withdraw(path: str) -> None:
    """Take back the note of *path*, also for workers that have died and cannot."""
    if _worker_dir is not None and path in _noted:
        (_mine(_worker_dir) / _name(path)).unlink(missing_ok=True)
        _noted.discard(path)
    for worker in _others():
        if not _lives(int(worker.name)):
            (worker / _name(path)).unlink(missing_ok=True)


def _is_noted_elsewhere(path: str) -> bool:
    return any((worker / _name(path)).exists() for worker in _others())


def _others() -> list[Path]:
    """Where the other workers leave their notes."""
    if _worker_dir is None:
        return []
    return [_worker_dir / worker for worker in _listing(_worker_dir) if worker != _mine(_worker_dir).name]


def _listing(directory: Path) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if not name.startswith(".")]
    except FileNotFoundError:  # the worker_dir is gone: the server is stopping
        return []


def _mine(worker_dir: Path) -> Path:
    return worker_dir / str(os.getpid())


def _name(path: str) -> str:
    return hashlib.blake2b(os.fsencode(path), digest_size=16).hexdigest()


def _content(note: Path) -> tuple[str, str]:
    folder, path = note.read_bytes().split(b"\0")
    return os.fsdecode(folder), os.fsdecode(path)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def forget(folder: str) -> None:
    """The wrapper in *folder* is gone; what will lie there some day is another one's."""
    with _lock:
        for path in _written.pop(folder, ()):
            _withdraw(path)


@cache  # a hook cannot be removed: there is one for the process
def install_audit_hook() -> None:
    """Note from now on what wrappers write."""
    sys.addaudithook(_hear)


def _opened(args: Sequence[Any]) -> Iterator[Any]:
    path, _, flags = args
    if isinstance(flags, int) and flags & _WRITING:
        yield path


_PATHS: dict[str, Callable[[Sequence[Any]], Iterator[Any]]] = {
    "open": _opened,
    "os.rename": lambda args: iter(args[:2]),
    "os.remove": lambda args: iter(args[:1]),
    "os.truncate": lambda args: iter(args[:1]),
    "os.link": lambda args: iter(args[1:2]),
    "os.symlink": lambda args: iter(args[1:2]),
    "sqlite3.connect": lambda args: iter(args[:1]),
}


def _hear(event: str, args: Sequence[Any]) -> None:
    """One audit event; called for each in the process, so what is of no interest must cost next to nothing."""
    paths = _PATHS.get(event)
    if paths is None or (folder := current_folder()) is None:
        return
    real_folder = real_path(folder)
    for path in paths(args):
        if isinstance(path, str | bytes | os.PathLike):
            try:
                directory, name = os.path.split(os.path.abspath(os.fsdecode(path)))
            except OSError:  # the working directory is gone; what raises here would be raised by the wrapper's open()
                continue
            directory = real_path(directory)
            if f"{directory}/".startswith(f"{real_folder}/"):
                _note(real_folder, f"{directory}/{name}", sys._getframe().f_back)


def _note(folder: str, path: str, caller: FrameType | None) -> None:
    with _lock:
        own = _written.setdefault(folder, {}).setdefault(path, _Own())
        own.is_mine, own.is_done = True, False
        if caller is not None:
            own.calls[threading.get_ident()] = _Call.of(caller)
        _tell(folder, path)
