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
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from hayhooks.kernel.modules import current_folder
from hayhooks.kernel.paths import real_path
from hayhooks.kernel.snapshot import Stamp

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_TELL_S = 1.0  # so often other workers are told of the same file
_ELSEWHERE_S = 2.0  # so long after it was announced by another worker a change is that one's
_MOST_NOTES = 2_000  # on the board


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

    announced_at: float  # of a monotonic clock
    is_elsewhere: bool = False  # another worker has
    stamp: Stamp | None = None  # as it was seen last
    is_done: bool = False  # as it was left when it was closed: who changes it now is somebody else
    calls: dict[int, _Call] = field(default_factory=dict)  # that were about to write it, the last of each thread


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
            try:
                folder, path = (_board / note).read_bytes().split(b"\0")
            except FileNotFoundError:  # it has just been withdrawn
                continue
            _noted.add(note)
            with _lock:
                own = _written.setdefault(os.fsdecode(folder), {})
                own.setdefault(os.fsdecode(path), _Own(time.monotonic(), is_elsewhere=True))


def written_in(folder: str) -> frozenset[str]:
    """The real paths of the files that the wrapper in the real path *folder* has written there itself."""
    with _lock:
        return frozenset(_written.get(folder, ()))


def is_own(folder: str, path: str, stamp: Stamp) -> bool:
    """Whether *path*, one of those, is as the wrapper left it; it is forgotten when somebody else has changed it."""
    with _lock:
        own = _written.get(folder, {}).get(path)
        if own is None:
            return False
        if own.is_elsewhere:
            announced = _announced_elsewhere(path)
            still = announced is not None and (own.stamp in (None, stamp) or time.time() - announced < _ELSEWHERE_S)
        else:
            still = not own.is_done or own.stamp == stamp or _is_open(path)
        if not still:
            del _written[folder][path]
            _withdraw(path)
            return False
        left_alone = own.is_done and own.stamp == stamp
        # A file that is written goes through these states in this order, so none of them is missed.
        own.is_done = left_alone or not (_is_being_opened(own) or _is_open(path) or not _is_still(path, stamp))
        own.stamp = stamp
        return True


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


def _announced_elsewhere(path: str) -> float | None:
    """When another worker has announced to write *path*, Unix seconds; None if none has."""
    try:
        return _note_of(_board, path).stat().st_mtime if _board is not None else None
    except OSError:
        return None


def _withdraw(path: str) -> None:
    """Let the other workers look at *path* again too."""
    if _board is not None:
        note = _note_of(_board, path)
        note.unlink(missing_ok=True)
        _noted.discard(note.name)


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
    now = time.monotonic()
    with _lock:
        own = _written.setdefault(folder, {}).setdefault(path, _Own(float("-inf")))
        known_for_a_while = now - own.announced_at < _TELL_S
        own.announced_at, own.is_elsewhere, own.is_done = now, False, False
        if caller is not None:
            own.calls[threading.get_ident()] = _Call.of(caller)
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
