"""Copy a wrapper's folder as it is: binary files, dot files, modes, and links as links."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

# Nothing that a wrapper needs, or that would work elsewhere: the history, caches, virtual environments.
LEFT_OUT = frozenset({".git", ".hg", ".svn", "__pycache__"})
_ENVIRONMENT = "pyvenv.cfg"


def files_in(source: Path) -> list[str]:
    """The paths below *source*, relative to it, that a copy has: folders before what is in them.

    Raises:
        OSError: a folder cannot be read.
    """
    return list(_below(source, ""))


def copy(source: Path, target: Path, paths: list[str], copied: Callable[[], None]) -> list[str]:
    """Copy the *paths* below *source* to *target*, which must not exist; *source* is only read.

    Args:
        source: a folder.
        target: where the copy will be.
        paths: relative ones, as ``files_in`` gives them.
        copied: called after each.

    Returns:
        Those that cannot be copied, because they are no files: sockets, FIFOs, devices.

    Raises:
        OSError: something cannot be read or written; a part of the copy is there.
    """
    target.mkdir()
    left: list[str] = []
    for path in paths:
        if not _copy_one(source / path, target / path):
            left.append(path)
        copied()
    for path in reversed(["", *paths]):  # the modes of folders last: one that may not be written to is filled by now
        if (source / path).is_dir() and not (source / path).is_symlink():
            _like(source / path, target / path)
    return left


def links_out_of(source: Path, paths: list[str]) -> list[str]:
    """The links among *paths* that would lead elsewhere from a copy: relative ones that leave *source*."""
    folder = os.path.abspath(source)
    return [path for path in paths if (source / path).is_symlink() and _leads_out(folder, path)]


def _leads_out(folder: str, path: str) -> bool:
    link = os.path.join(folder, path)
    to = os.readlink(link)
    reached = os.path.normpath(os.path.join(os.path.dirname(link), to))
    return not os.path.isabs(to) and not f"{reached}/".startswith(f"{folder}/")


def _below(source: Path, prefix: str) -> Iterator[str]:
    with os.scandir(source / prefix) as entries:
        listing = sorted(entries, key=lambda entry: entry.name)
    for entry in listing:
        if entry.name in LEFT_OUT:
            continue
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and os.path.lexists(f"{entry.path}/{_ENVIRONMENT}"):
            continue
        yield prefix + entry.name
        if is_folder:
            yield from _below(source, f"{prefix}{entry.name}/")


def _copy_one(source: Path, target: Path) -> bool:
    """Copy one thing, of a folder that there is one; False if it is nothing that can be copied."""
    mode = source.lstat().st_mode
    if stat.S_ISDIR(mode):
        target.mkdir()
    elif stat.S_ISLNK(mode):
        target.symlink_to(os.readlink(source))
    elif stat.S_ISREG(mode):
        shutil.copyfile(source, target, follow_symlinks=False)
        _like(source, target)
    else:
        return False
    return True


def _like(source: Path, target: Path) -> None:
    """Give *target* mode and times of *source*; a folder's owner may write to it, or it could not be replaced."""
    shutil.copystat(source, target)
    if target.is_dir():
        target.chmod(stat.S_IMODE(source.stat().st_mode) | stat.S_IRWXU)
