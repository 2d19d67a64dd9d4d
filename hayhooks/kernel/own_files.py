"""Own files: what a wrapper writes into its own folder, a log or a cache, is no change that asks for a reload.

Python tells of every file that is opened for writing (``sys.addaudithook``), and the context tells whether a wrapper's
code does it. What others write into the folder, another wrapper included, is a change as ever; so is what somebody else
writes later to a file that a wrapper has written once. Workers that serve the same directory tell each other.
"""

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hayhooks.kernel.modules import current_folder
from hayhooks.kernel.snapshot import Stamp

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_WORK_S = 2.0  # so long after it was opened, or was seen open, a change of a file is the wrapper's
_MOST_NOTES = 2_000  # on the board


@dataclass(slots=True)
class _Own:
    """A file that a wrapper has written."""

    until: float  # Unix seconds: changes until then are the wrapper's
    stamp: Stamp | None = None  # as it was seen last


_lock = threading.Lock()
_written: dict[str, dict[str, _Own]] = {}  # by the wrapper's real folder and the file's real path
_board: Path | None = None  # where workers tell each other
_noted: set[str] = set()  # files of the board that were read


def share(board: Path | None) -> None:
    """Tell the other workers by notes in the directory *board* what is written here, and hear of theirs."""
    global _board  # noqa: PLW0603 - as the hook, one for the process
    _board = board


def look() -> None:
    """Read what other workers have told since."""
    if _board is None or not _board.is_dir():
        return
    for note in set(os.listdir(_board)) - _noted:
        if not note.startswith("."):
            _noted.add(note)
            folder, path = (_board / note).read_bytes().split(b"\0")
            with _lock:
                own = _written.setdefault(os.fsdecode(folder), {})
                own.setdefault(os.fsdecode(path), _Own(time.time() + _WORK_S))


def written_in(folder: str) -> frozenset[str]:
    """The real paths of the files that the wrapper in the real path *folder* has written there itself."""
    with _lock:
        return frozenset(_written.get(folder, ()))


def is_own(folder: str, path: str, stamp: Stamp) -> bool:
    """Whether *path*, one of those, is as the wrapper left it; it is forgotten when somebody else has changed it."""
    with _lock:
        own = _written.get(folder, {}).get(path)
        if own is None or own.stamp == stamp:
            return own is not None
        if time.time() > own.until and not _is_open(path) and not _was_noted_lately(path):
            del _written[folder][path]
            return False
        own.stamp, own.until = stamp, max(own.until, time.time() + _WORK_S)
        return True


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


def _was_noted_lately(path: str) -> bool:
    """Whether another worker has opened *path* just now."""
    try:
        return _board is not None and time.time() - _note_of(_board, path).stat().st_mtime < _WORK_S
    except OSError:
        return False


def _note_of(board: Path, path: str) -> Path:
    return board / hashlib.blake2b(os.fsencode(path), digest_size=16).hexdigest()


def forget(folder: str) -> None:
    """The wrapper in *folder* is gone; what will lie there some day is another one's."""
    with _lock:
        _written.pop(folder, None)


@cache  # a hook cannot be removed: there is one for the process
def listen() -> None:
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
    real_folder = os.path.realpath(folder)
    for path in paths(args):
        if isinstance(path, str | bytes | os.PathLike):
            directory, name = os.path.split(os.path.abspath(os.fsdecode(path)))
            directory = os.path.realpath(directory)
            if f"{directory}/".startswith(f"{real_folder}/"):
                _note(real_folder, f"{directory}/{name}")


def _note(folder: str, path: str) -> None:
    now = time.time()
    with _lock:
        own = _written.setdefault(folder, {}).setdefault(path, _Own(0.0))
        known_for_a_while = own.until - now > _WORK_S / 2
        own.until = now + _WORK_S
    if _board is None or known_for_a_while:
        return
    note = _note_of(_board, path)
    try:
        if note.exists():
            os.utime(note)
        elif len(_noted) < _MOST_NOTES:
            draft = _board / f".{note.name}.{os.getpid()}"
            draft.write_bytes(os.fsencode(folder) + b"\0" + os.fsencode(path))
            draft.replace(note)
    except OSError:  # the board is gone: the server is stopping
        return
