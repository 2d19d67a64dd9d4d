"""Revision store: the last revisions of each name that served, in the state directory."""

import hashlib
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loguru import logger as log

from hayhooks.errors import sendable
from hayhooks.kernel.discovery import real_path
from hayhooks.kernel.state import Deployment, Revision, RevisionKind, digest_of
from hayhooks.kernel.store_files import (
    Mark,
    blob_of,
    clean,
    folder_of,
    is_whole,
    last_good,
    manifests,
    mark_of,
    read_manifest,
    removable,
    unmark,
    write_manifest,
    write_whole,
    write_within,
)
from hayhooks.kernel.threads import DaemonThreadPool

_MAX_DATA_BYTES = 64 * 2**20  # of one revision; its larger data files stay links to their place
_MAX_FILE_BYTES = 16 * 2**20  # of data, as the scan reads it
_MAX_OFFERED_BYTES = 64 * 2**20  # data that was read and is not saved yet
_CLEAN_INTERVAL_S = 60.0
_FLUSH_S = 2.0
_REPLACED = "replaced"  # in the mark of a canary


def open_store(root: Path, state_dir: str, kept: int) -> "RevisionStore | None":
    """Return the store of the pipelines directory *root*, in ``HAYHOOKS_STATE_DIR``; None if it keeps nothing."""
    path = state_dir_of(root, state_dir)
    if path is None and state_dir:
        log.warning("No revisions are kept, for there is no home directory: set HAYHOOKS_STATE_DIR")
    return RevisionStore(path, kept) if path is not None else None


def state_dir_of(root: Path, state_dir: str) -> Path | None:
    """Return the state directory of *root* by the setting *state_dir*; None if there is none."""
    if not state_dir:
        return None
    path = default_state_dir(root) if state_dir == "auto" else Path(state_dir).absolute()
    return path if path.is_absolute() else None


def default_state_dir(root: Path) -> Path:
    """Return the state directory of the pipelines directory *root*, in that of the user."""
    import platformdirs  # noqa: PLC0415 - an application with a directory of its own needs none of it

    # A root that is a link to the newest release keeps its history.
    place = os.path.join(real_path(root.parent), root.name)
    return platformdirs.user_state_path("hayhooks") / hashlib.blake2b(os.fsencode(place), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class SavedRevision:
    """One revision of the store."""

    name: str
    fingerprint: str
    kind: RevisionKind
    entry: str  # of the pipelines directory
    files: Mapping[str, str]  # digests by path
    linked: Sequence[str]  # paths of data that is too large to be saved
    shared: Mapping[str, tuple[str, str, str]]  # path, digest and version by module
    served_at: float  # Unix seconds, for the first time
    last_served_at: float
    load_ms: float
    ended: str  # "replaced", "undeployed", "rolled back", "not promoted"; "canary": it is one; "": it is the last
    executable: Sequence[str] = ()  # paths of files that may be run

    @property
    def id(self) -> str:
        """The first 12 hex digits of the fingerprint, as of a `Revision`."""
        return self.fingerprint[:12]

    @property
    def is_good(self) -> bool:
        """Whether it has served all requests, and was not rolled back."""
        return self.ended in ("", "replaced", "undeployed")

    def facts(self) -> dict[str, Any]:
        """Return what people want to know of it, for JSON."""
        return {
            "revision": self.id,
            "served_at": self.served_at,
            "last_served_at": self.last_served_at,
            "load_ms": round(self.load_ms, 1),
            "ended": self.ended or None,
            "files": sorted(map(sendable, (*self.files, *self.linked))),
        }


class RevisionStore:
    """Saves revisions in a thread of its own, and restores them; an error costs the history alone."""

    def __init__(self, directory: Path, kept: int) -> None:
        self.directory = directory
        self._kept = kept
        self._threads = DaemonThreadPool("revisions", limit=1)
        self._offered: OrderedDict[bytes, bytes] = OrderedDict()  # data by digest
        self._offered_bytes = 0
        self._lock = threading.Lock()
        self._cleaned_at = -_CLEAN_INTERVAL_S
        self._is_told = False  # that nothing can be saved

    def start(self) -> None:
        """Keep a thread. Raises UnavailableError or RuntimeError without threads."""
        self._threads.keep_thread()

    def stop(self) -> None:
        """Save what is left, for a short time."""
        done = threading.Event()
        self._threads.submit(done.set)
        done.wait(_FLUSH_S)
        self._threads.close()

    def offer(self, digest: bytes, content: bytes) -> None:
        """Remember data as it was read, until its revision is saved; the oldest is forgotten."""
        with self._lock:
            if digest not in self._offered and len(content) <= _MAX_OFFERED_BYTES:
                self._offered[digest] = content
                self._offered_bytes += len(content)
            while self._offered_bytes > _MAX_OFFERED_BYTES:
                self._offered_bytes -= len(self._offered.popitem(last=False)[1])

    def save(self, deployment: Deployment, *, is_canary: bool = False) -> None:
        """Save the revision of *deployment*, which serves; in another thread."""
        revision = deployment.revision
        if revision.kind is not RevisionKind.CODE and not revision.is_restored:
            save = partial(self._save, revision, deployment.load_ms, is_canary)
            self._threads.submit(partial(self._attempt, save, f"revision {revision.id} of {revision.name}"))

    def undeployed(self, name: str) -> None:
        """Note that *name* was removed: it is not restored until it has served again; in another thread."""

        def mark() -> None:
            if (folder := folder_of(self.directory, name)).is_dir():
                write_whole(folder / "undeployed", b"")

        self._threads.submit(partial(self._attempt, mark, f"that {name} was removed"))

    def rolled_back(self, revision: Revision, why: str) -> None:
        """Note that *revision* failed its requests: it is not restored; in another thread."""
        mark = partial(self.roll_back, revision.name, revision.fingerprint, why)
        self._threads.submit(partial(self._attempt, mark, f"that {revision.id} was rolled back"))

    def roll_back(self, name: str, fingerprint: str, why: str) -> None:
        """Mark a revision as one that must not serve; a canary ends, in every process. Raises OSError."""
        path = folder_of(self.directory, name) / fingerprint
        if path.exists() or mark_of(path, "canary").exists():
            write_whole(mark_of(path, "rolled-back"), why.encode(errors="replace"))
        mark_of(path, "canary").unlink(missing_ok=True)

    def ask_canary(self, name: str, fingerprint: str, share: float) -> Path:
        """Note the share that a revision is to begin with, before a server has it; 0: it is no canary. Return the mark.

        Raises OSError.
        """
        path = folder_of(self.directory, name) / fingerprint
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark_of(path, "rolled-back").unlink(missing_ok=True)
        write_whole(mark := mark_of(path, "asked"), f"{share:g}".encode())
        return mark

    def begin_canary(self, revision: Revision, share: float) -> None:
        """Mark *revision* as a canary; a restarted process goes on with it and the one before it."""

        def mark() -> None:
            path = self._manifest_of(revision)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(mark_of(path, "canary"), f"{share:g}".encode())
            mark_of(path, "asked").unlink(missing_ok=True)

        self._attempt(mark, f"that {revision.id} is a canary")

    def canary_replaced(self, revision: Revision) -> None:
        """Note that *revision*, a canary, was replaced before it was promoted; in another thread."""
        mark = mark_of(self._manifest_of(revision), "canary")

        def replace() -> None:
            if mark.exists():  # it stays: without it the revision would be promoted
                write_whole(mark, _REPLACED.encode())

        self._threads.submit(partial(self._attempt, replace, f"that {revision.id} was not promoted"))

    def promote(self, name: str, fingerprint: str) -> None:
        """Remove the mark of a canary: it gets all requests, in every process. Raises OSError."""
        mark_of(folder_of(self.directory, name) / fingerprint, "canary").unlink()

    def canary_of(self, name: str, revision: str) -> str | None:
        """Return the fingerprint of the canary whose id is *revision*; None without its mark."""
        marks = folder_of(self.directory, name).glob(f".{revision}*-canary")
        return next((path.name[1:].removesuffix("-canary") for path in marks), None)

    def why_rolled_back(self, revision: Revision) -> str | None:
        """Return why *revision* was rolled back; None if it was not."""
        return _text_of(mark_of(self._manifest_of(revision), "rolled-back"))

    def canary_share(self, revision: Revision) -> float | None:
        """Return the share of the requests that *revision* gets at first, by a mark; None without one."""
        path = self._manifest_of(revision)
        try:
            share = float(_text_of(mark_of(path, "asked")) or _text_of(mark_of(path, "canary")) or "")
        except ValueError:
            return None
        return share if 0 <= share <= 1 else None

    def is_canary(self, revision: Revision) -> bool:
        """Whether *revision* is marked as a canary."""
        return os.path.exists(mark_of(self._manifest_of(revision), "canary"))

    def is_promoted(self, revision: Revision) -> bool:
        """Whether *revision*, which has been a canary, is saved as one that serves all requests."""
        path = self._manifest_of(revision)
        # In this order, for another process may roll it back meanwhile; and unlike those of `Path` they never raise.
        marks: tuple[Mark, ...] = ("canary", "rolled-back")
        return os.path.exists(path) and not any(os.path.exists(mark_of(path, mark)) for mark in marks)

    def names(self) -> list[str]:
        """List the names that have saved revisions. Raises OSError."""
        folders = self.directory.glob("names/*")
        found = (next(iter(self._in(folder)), None) for folder in folders)
        return sorted(saved.name for saved in found if saved)

    def saved(self, name: str) -> list[SavedRevision]:
        """List the saved revisions of *name*, the last first. Raises OSError."""
        return list(self._in(folder_of(self.directory, name)))

    def content(self, digest: str) -> bytes:
        """Return the file with the *digest*. Raises OSError, or ValueError if it is damaged."""
        content = blob_of(self.directory, digest).read_bytes()
        if digest_of(content).hex() != digest:
            with suppress(OSError):
                blob_of(self.directory, digest).unlink()  # the next save writes it again
            raise ValueError(f"the stored file {digest} is damaged")
        return content

    def write(self, saved: SavedRevision, place: Path, present: Path, *, links: bool = False) -> dict[str, bytes]:
        """Write the files of *saved* at *place*, and return them; those too large to be saved are taken from *present*.

        They are copied, or with *links* linked. Raises OSError, or ValueError if one is damaged.
        """
        folder = place if saved.kind is RevisionKind.FOLDER else place.parent
        contents = {path: self.content(digest) for path, digest in saved.files.items()}
        for path, content in contents.items():
            write_within(folder, path, content)
            if path in saved.executable:
                (folder / path).chmod(0o755)
        for path in saved.linked:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (os.symlink if links else shutil.copy2)(present / path, folder / path)
        return contents

    def _in(self, folder: Path) -> Iterator[SavedRevision]:
        ended = "undeployed" if (folder / "undeployed").exists() else ""
        for path in manifests(folder):
            try:
                # What a later version of hayhooks adds is passed over.
                known = SavedRevision.__dataclass_fields__
                manifest = {key: value for key, value in read_manifest(path).items() if key in known}
                manifest["kind"] = RevisionKind(manifest["kind"])
                canary, how = _text_of(mark_of(path, "canary")), ended
                if canary is not None:
                    how = "not promoted" if canary == _REPLACED or ended else "canary"
                elif mark_of(path, "rolled-back").exists():
                    how = "rolled back"
                yield SavedRevision(**manifest, last_served_at=path.stat().st_mtime, ended=how)
            except (OSError, ValueError, LookupError, TypeError) as error:
                log.warning("The saved revision {} cannot be used: {}", path.name[:12], error)
            else:
                ended = "replaced" if how == ended else ended  # what served before a good one

    def is_last_good(self, revision: Revision) -> bool:
        """Whether *revision* is the last good one of its name."""
        try:
            return last_good(manifests(folder_of(self.directory, revision.name))) == self._manifest_of(revision)
        except OSError:
            return False

    def _manifest_of(self, revision: Revision) -> Path:
        return folder_of(self.directory, revision.name) / revision.fingerprint

    def _attempt(self, work: Any, what: str) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.check_owner()
            work()
            if time.monotonic() - self._cleaned_at >= _CLEAN_INTERVAL_S:
                self._cleaned_at = time.monotonic()
                clean(self.directory)
        except OSError as error:
            log.log("DEBUG" if self._is_told else "WARNING", "The state directory cannot keep {}: {}", what, error)
            self._is_told = True

    def check_owner(self) -> None:
        """Refuse a directory that others can write to: code of it is run."""
        status = self.directory.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(f"{self.directory} belongs to another user, or others can write to it")

    def _save(self, revision: Revision, load_ms: float, is_canary: bool) -> None:
        folder = folder_of(self.directory, revision.name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / revision.fingerprint
        if is_whole(self.directory, path):
            os.utime(path)
        else:
            files, executable, rest = {}, [], _MAX_DATA_BYTES
            for relative, file in revision.files.items():
                is_data = file.source is None
                if is_data and file.stamp.size > min(rest, _MAX_FILE_BYTES):
                    continue
                rest -= file.stamp.size * is_data
                origin = revision.path / relative if revision.kind is RevisionKind.FOLDER else revision.path
                if not self._keep(file.digest, file.source, origin):
                    log.debug("{}: revision {} is not saved: {} has changed", revision.name, revision.id, relative)
                    return
                files[relative] = file.digest.hex()
                if os.access(origin, os.X_OK):
                    executable.append(relative)
            shared = {}
            for module, each in revision.shared.items():
                if not self._keep(each.digest, None, Path(each.path)):
                    log.debug("{}: revision {} is not saved: {} has changed", revision.name, revision.id, each.path)
                    return
                shared[module] = [each.path, each.digest.hex(), each.version]
            manifest = {
                "name": revision.name,
                "fingerprint": revision.fingerprint,
                "kind": revision.kind.value,
                "entry": revision.path.name,
                "files": files,
                "executable": executable,
                "linked": [relative for relative in revision.files if relative not in files],
                "shared": shared,
                "served_at": time.time(),
                "load_ms": load_ms,
            }
            write_manifest(path, manifest)
        (folder / "undeployed").unlink(missing_ok=True)
        if not is_canary:
            unmark(path)
        for old in removable(folder, self._kept):
            old.unlink(missing_ok=True)
            unmark(old)

    def _keep(self, digest: bytes, content: bytes | None, origin: Path) -> bool:
        """Store the content of *digest*; where it was not kept, read it again if it is the same."""
        blob = blob_of(self.directory, digest.hex())
        with self._lock:
            offered = self._offered.pop(digest, None)
            self._offered_bytes -= len(offered or b"")
        if blob.exists():
            os.utime(blob)
            return True
        content = offered if content is None else content
        if content is None:
            try:
                content = origin.read_bytes()
            except OSError:
                return False
        if digest_of(content) != digest:
            return False
        blob.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(blob, content)
        return True


def _text_of(mark: Path) -> str | None:
    """Return what a mark says; None without it."""
    try:
        return mark.read_text(errors="replace")
    except OSError:
        return None
