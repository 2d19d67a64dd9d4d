"""Store files: the layout of a state directory.

    blobs/ab/abcd…              content of a file, named by its digest
    names/DIGEST/FINGERPRINT    manifest of one revision; the one touched last served last
    names/DIGEST/.FINGERPRINT-rolled-back   mark: it must not serve; says why
    names/DIGEST/.FINGERPRINT-asked         mark: it is to begin as a canary with this share, or with 0 as none
    names/DIGEST/.FINGERPRINT-canary        mark: it gets a share of the requests, so large, beside the one before it
    names/DIGEST/undeployed     the name was removed after all of them
    running/HOST-PID-…          files of a restored revision, for the process that serves it

Each file appears by a rename, whole, so that several processes can use the directory without locks. What is read is
compared with its digest.
"""

import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

from hayhooks.kernel.self_writes import is_process_alive
from hayhooks.kernel.state import digest_of

Mark = Literal["rolled-back", "asked", "canary"]

_MAX_STORE_BYTES = 2**30
_YOUNG_S = 600.0  # blobs of this age may belong to a manifest that is being written
_ASKED_S = 86_400.0  # and marks of this age to a revision that has not served yet


def folder_of(directory: Path, name: str) -> Path:
    """Return the folder of the revisions of *name* in the state directory."""
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=16)
    return directory / "names" / digest.hexdigest()


def blob_of(directory: Path, digest: str) -> Path:
    """Return the file with the content of *digest*."""
    return directory / "blobs" / digest[:2] / digest


def manifests(folder: Path) -> list[Path]:
    """List the manifests in *folder*, that of the last good revision first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name != "undeployed" and not path.name.startswith(".")]
    return sorted(found, key=_mtime, reverse=True)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read one. Raises OSError, or ValueError if it is damaged."""
    digest, _, text = path.read_bytes().partition(b"\n")
    if digest_of(text).hex().encode() != digest:
        raise ValueError("its manifest is damaged")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def is_whole(directory: Path, manifest: Path) -> bool:
    """Whether *manifest* can be read, and the files of its revision are there."""
    try:
        return all(blob_of(directory, digest).exists() for digest in _digests_of(manifest))
    except (OSError, ValueError, LookupError):
        return False


def _digests_of(path: Path) -> list[str]:
    manifest = read_manifest(path)
    return [*manifest["files"].values(), *(digest for _, digest, _ in manifest["shared"].values())]


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write one. Raises OSError."""
    text = json.dumps(manifest).encode()
    write_whole(path, digest_of(text).hex().encode() + b"\n" + text)


def mark_of(manifest: Path, mark: Mark) -> Path:
    """Return the file that marks the revision of *manifest*."""
    return manifest.with_name(f".{manifest.name}-{mark}")


def unmark(manifest: Path) -> None:
    """Remove the marks of a revision. Raises OSError."""
    for mark in get_args(Mark):
        mark_of(manifest, mark).unlink(missing_ok=True)


def last_good(saved: list[Path]) -> Path | None:
    """Return the first of the manifests *saved* whose revision was no canary and was not rolled back."""
    marked = (any(mark_of(path, mark).exists() for mark in ("rolled-back", "canary")) for path in saved)
    return next((path for path, is_marked in zip(saved, marked, strict=True) if not is_marked), None)


def removable(folder: Path, kept: int) -> list[Path]:
    """List the manifests in *folder* but the first *kept* and that of the last good revision."""
    saved = manifests(folder)
    good = last_good(saved)  # canaries do not push it out
    return [path for path in saved[kept:] if path != good]


def write_within(folder: Path, path: str, content: bytes) -> None:
    """Write *content* to *path* below *folder*, and make the folders between."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)


def write_whole(path: Path, content: bytes) -> None:
    """Write *content* to *path*, whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def clean(directory: Path) -> None:
    """Remove what no manifest and no process needs, and the oldest manifests while the blobs are too large."""
    _remove_abandoned(directory)
    by_age: list[tuple[float, Path]] = []
    for folder in (directory / "names").iterdir():
        by_age += [(_mtime(path), path) for path in removable(folder, 1)]
    sizes: dict[Path, os.stat_result] = {}
    for path in (directory / "blobs").glob("??/*"):
        with suppress(FileNotFoundError):  # another process cleans too
            sizes[path] = path.stat()
    total = sum(status.st_size for status in sizes.values())
    for _, path in sorted(by_age):
        if total <= _MAX_STORE_BYTES:
            break
        with suppress(OSError, ValueError, LookupError):
            blobs = [blob_of(directory, digest) for digest in read_manifest(path)["files"].values()]
            total -= sum(sizes[blob].st_size for blob in blobs if blob in sizes)
        path.unlink(missing_ok=True)
        unmark(path)
    used: set[str] = set()
    for path in (directory / "names").glob("*/*"):
        with suppress(OSError, ValueError, LookupError):
            used.update(_digests_of(path))
    for path, status in sizes.items():
        if path.name not in used and time.time() - status.st_mtime > _YOUNG_S:
            path.unlink(missing_ok=True)


def _remove_abandoned(directory: Path) -> None:
    """Remove the restored files of processes that were killed, and old marks of what has never served."""
    host = socket.gethostname()
    for tree in (directory / "running").glob(f"{host}-*-*"):
        pid = tree.name[len(host) + 1 :].partition("-")[0]
        if not (pid.isdigit() and is_process_alive(int(pid))):
            shutil.rmtree(tree, ignore_errors=True)
    for mark in (directory / "names").glob("*/.*"):
        manifest, _, kind = mark.name[1:].rpartition("-")
        is_idle = kind == "asked" or (kind == "canary" and not mark.with_name(manifest).exists())
        if is_idle and time.time() - _mtime(mark) > _ASKED_S:
            mark.unlink(missing_ok=True)


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime_ns / 1e9
    except FileNotFoundError:
        return 0.0
