"""Renames that the standard library does not know: into a name that is free, and of two names with each other."""

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)  # to this file system, kernel, or sandbox

_libc = ctypes.CDLL(None, use_errno=True)


def place(new: Path, target: Path) -> None:
    """Rename *new* to *target*, which must not exist.

    Raises:
        FileExistsError: it does.
        OSError: as ``os.rename``.
    """
    if not _renameat2(new, target, _NOREPLACE):
        if os.path.lexists(target):  # without that call there is a moment between the look and the rename
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        os.rename(new, target)


def exchange(first: Path, second: Path) -> bool:
    """Let *first* and *second* change their names, in one step; False where that cannot be done.

    Linux can, on nearly every file system of its own (ext4, XFS, Btrfs, tmpfs, overlayfs since 6.4), and on few that
    lead elsewhere (NFS and FUSE often cannot). macOS has another call for it, and is treated as if it had none.

    Raises:
        OSError: as ``os.rename``.
    """
    return _renameat2(first, second, _EXCHANGE)


def flush(directory: Path) -> None:
    """Have all that was written to the file system of *directory* survive a loss of power."""
    syncfs = getattr(_libc, "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if syncfs(descriptor) != 0:
            raise OSError(error := ctypes.get_errno(), os.strerror(error))
    finally:
        os.close(descriptor)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Rename with *flags*; False if that is unknown here."""
    renameat2 = getattr(_libc, "renameat2", None)  # glibc has it since 2.28, musl since 1.2.5
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    error = ctypes.get_errno()
    # What is not permitted may be the rename itself: then the plain one, which comes next, says so too.
    if error in _UNKNOWN:
        return False
    raise OSError(error, os.strerror(error), str(source), None, str(target))
