"""Renames in one step, and flushes to disk."""

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)  # by this file system, kernel, or sandbox


def place(new: Path, target: Path) -> None:
    """Rename *new* to *target*, or raise ``FileExistsError``."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(new, target)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return False where the system cannot.

    tests/cli/test_killed.py fails without this: two renames leave a moment with neither, and Python has no call for
    it. Linux supports it on most local file systems; NFS, FUSE and macOS use the two renames.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    renameat2 = getattr(libc, "renameat2", None)  # glibc has it since 2.28, musl since 1.2.5
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _UNSUPPORTED:  # if renames are not permitted at all, the plain one that follows says so
        return False
    raise OSError(error, os.strerror(error), str(first), None, str(second))


def sync_tree(path: Path) -> None:
    """Write the content of *path* to disk, so that it survives a loss of power."""
    for directory, folders, files in os.walk(path):
        for name in (*files, *folders):
            entry = os.path.join(directory, name)
            if not os.path.islink(entry) and os.access(entry, os.R_OK):
                sync(entry)
    sync(path)


def sync(path: str | Path) -> None:
    """Write one file, or the names in one folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a special file, or a file system without fsync
            raise
    finally:
        os.close(descriptor)
