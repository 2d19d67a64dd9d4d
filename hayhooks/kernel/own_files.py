"""Own files: what a wrapper writes into its own folder, a log or a cache, is no change that asks for a reload.

Python tells of every file that is opened for writing (``sys.addaudithook``), and the context tells whether a wrapper's
code does it. What others write into the folder, another wrapper included, is a change as ever.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from hayhooks.kernel.modules import current_folder

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_lock = threading.Lock()
_written: dict[str, set[str]] = {}  # by the wrapper's real folder: real paths


def written_in(folder: str) -> frozenset[str]:
    """The real paths of the files that the wrapper in the real path *folder* has written there itself."""
    with _lock:
        return frozenset(_written.get(folder, ()))


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
                with _lock:
                    _written.setdefault(real_folder, set()).add(f"{directory}/{name}")
