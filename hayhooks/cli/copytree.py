"""Copy a wrapper's folder unchanged, with modes, and links as links."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

# History and caches; virtual environments are skipped too, for they do not work elsewhere.
SKIPPED = frozenset({".git", ".hg", ".svn", "__pycache__"})
_VENV_MARKER = "pyvenv.cfg"


def files_in(source: Path) -> list[str]:
    """Return the relative paths to copy, folders before their content."""
    return list(_below(source, ""))


def copy(source: Path, target: Path, paths: list[str], copied: Callable[[], None]) -> list[str]:
    """Copy *paths* to the new folder *target*, calling *copied* after each.

    Returns:
        The special files that were skipped: sockets, FIFOs, devices.
    """
    target.mkdir()
    skipped: list[str] = []
    for path in paths:
        old, new = source / path, target / path
        mode = old.lstat().st_mode
        if stat.S_ISDIR(mode):
            new.mkdir()
        elif stat.S_ISLNK(mode):
            new.symlink_to(os.readlink(old))
        elif stat.S_ISREG(mode):
            shutil.copyfile(old, new, follow_symlinks=False)
            _copy_mode_and_times(old, new)
        else:
            skipped.append(path)
        copied()
    for path in reversed(["", *paths]):  # modes of folders last, for they may forbid writing
        if (source / path).is_dir() and not (source / path).is_symlink():
            _copy_mode_and_times(source / path, target / path)
    return skipped


def links_out_of(source: Path, paths: list[str]) -> list[str]:
    """Return the relative links that leave *source*: in a copy their targets differ."""
    folder = os.path.abspath(source)
    found = []
    for path in paths:
        link = os.path.join(folder, path)
        if os.path.islink(link) and not os.path.isabs(to := os.readlink(link)):
            reached = os.path.normpath(os.path.join(os.path.dirname(link), to))
            if not f"{reached}/".startswith(f"{folder}/"):
                found.append(path)
    return found


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


def _copy_mode_and_times(source: Path, target: Path) -> None:
    """Copy mode and times; a folder stays writable, so that it can be replaced."""
    shutil.copystat(source, target)
    if target.is_dir():
        target.chmod(stat.S_IMODE(source.stat().st_mode) | stat.S_IRWXU)
