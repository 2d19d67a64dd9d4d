"""Copy a wrapper's folder unchanged: binary files, dot files, modes, and links as links."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

# History and caches; virtual environments are skipped too, for they do not work elsewhere.
SKIPPED = frozenset({".git", ".hg", ".svn", "__pycache__"})
_VENV_MARKER = "pyvenv.cfg"


def files_in(source: Path) -> list[str]:
    """Return the relative paths to copy, folders before their content.

    Raises:
        OSError: a folder cannot be read.
    """
    return list(_below(source, ""))


def copy(source: Path, target: Path, paths: list[str], copied: Callable[[], None]) -> list[str]:
    """Copy the *paths* below *source* to *target*, which must not exist.

    Args:
        source: a folder; it is only read.
        target: the new folder.
        paths: relative paths from ``files_in``.
        copied: called after each.

    Returns:
        The special files that were skipped: sockets, FIFOs, devices.

    Raises:
        OSError: something cannot be read or written; the copy is incomplete.
    """
    target.mkdir()
    skipped: list[str] = []
    for path in paths:
        if not _copy_one(source / path, target / path):
            skipped.append(path)
        copied()
    for path in reversed(["", *paths]):  # modes of folders last, for they may forbid writing
        if (source / path).is_dir() and not (source / path).is_symlink():
            _copy_mode_and_times(source / path, target / path)
    return skipped


def links_out_of(source: Path, paths: list[str]) -> list[str]:
    """Return the relative links among *paths* that leave *source*: in a copy their targets differ."""
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
        if entry.name in SKIPPED:
            continue
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and os.path.lexists(f"{entry.path}/{_VENV_MARKER}"):
            continue
        yield prefix + entry.name
        if is_folder:
            yield from _below(source, f"{prefix}{entry.name}/")


def _copy_one(source: Path, target: Path) -> bool:
    """Copy one entry, of a folder not its content; return False for a special file."""
    mode = source.lstat().st_mode
    if stat.S_ISDIR(mode):
        target.mkdir()
    elif stat.S_ISLNK(mode):
        target.symlink_to(os.readlink(source))
    elif stat.S_ISREG(mode):
        shutil.copyfile(source, target, follow_symlinks=False)
        _copy_mode_and_times(source, target)
    else:
        return False
    return True


def _copy_mode_and_times(source: Path, target: Path) -> None:
    """Copy mode and times; a folder's owner keeps write permission, so that it can be replaced."""
    shutil.copystat(source, target)
    if target.is_dir():
        target.chmod(stat.S_IMODE(source.stat().st_mode) | stat.S_IRWXU)
