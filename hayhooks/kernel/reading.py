"""Reading: from what was seen to a revision, with the bytes that were digested."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from hayhooks.kernel.stat_tree import TreeStat, is_code
from hayhooks.kernel.state import File, Revision, RevisionKind, Shared, Stamp

_DIGEST_BYTES = 16 * 2**20  # of a larger file that is not Python the stamp stands for the content


def read_revision(name: str, sight: TreeStat, before: Revision | None, *, in_hurry: bool) -> Revision | None:
    """Read what *sight* saw; None if it is no longer the same. What did not change since *before* is not read again.

    *in_hurry* of data that moves while it is read the stamp stands for the content.
    """
    path = sight.path
    if sight.problem:
        return _unreadable(name, sight, sight.problem)
    folder = path.parent if sight.kind is RevisionKind.YAML else path
    known = before.files if before else {}
    files: dict[str, File] = {}
    for relative, stamp in sorted(sight.stamps.items()):
        old = known.get(relative)
        if old is not None and old.stamp == stamp:
            files[relative] = old
            continue
        try:
            files[relative] = _read_file(folder / relative, stamp, is_code=is_code(relative, sight.kind))
        except _ChangedError:
            if not in_hurry or is_code(relative, sight.kind):
                return None
            files[relative] = _by_stamp(stamp)
        except OSError as error:
            return _unreadable(name, sight, f"{folder / relative} cannot be read: {error.strerror or error}")
    fingerprint = _fingerprint(files, sight.shared)
    return Revision(name, path, fingerprint, files, shared=sight.shared, kind=sight.kind, identity=sight.identity)


def _unreadable(name: str, sight: TreeStat, problem: str) -> Revision:
    fingerprint = _digest(problem.encode(errors="surrogateescape")).hex()
    return Revision(name, sight.path, fingerprint, {}, problem, identity=sight.identity)


class _ChangedError(Exception):
    """A file is no longer what its stamp says."""


def _read_file(path: Path, stamp: Stamp, *, is_code: bool) -> File:
    if stamp.size > _DIGEST_BYTES and not is_code:
        return _by_stamp(stamp)
    try:
        # A FIFO may have taken the file's place since: opened like this it cannot block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _ChangedError from None
    with open(descriptor, "rb") as file:
        if Stamp.of(os.fstat(descriptor)) != stamp:
            raise _ChangedError
        content = file.read()
        if Stamp.of(os.fstat(descriptor)) != stamp:
            raise _ChangedError
    return File(stamp, _digest(content), content if is_code else None)


def _by_stamp(stamp: Stamp) -> File:
    return File(stamp, _digest(repr(stamp).encode()), None)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _fingerprint(files: Mapping[str, File], shared: Mapping[str, Shared]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for relative, file in sorted(files.items()):
        total.update(os.fsencode(relative) + b"\0" + file.digest)
    for name, module in sorted(shared.items()):
        total.update(f"{name}\0{module.version}\0".encode())
    return total.hexdigest()
