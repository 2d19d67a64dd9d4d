"""Restore: let the last good revision serve where the one in the directory cannot."""

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger as log

from hayhooks.kernel.failure import rolled_back
from hayhooks.kernel.load_job import LoadJob
from hayhooks.kernel.phases import Phases
from hayhooks.kernel.quarantine import Quarantine
from hayhooks.kernel.revision_store import RevisionStore, SavedRevision
from hayhooks.kernel.stat_tree import is_code
from hayhooks.kernel.state import Deployment, Failure, File, Revision, RevisionKind, Snapshot, Stamp, digest_of
from hayhooks.kernel.store_files import write_within

_RESTORED = "-restored"  # ends the fingerprint of a restored revision
_RESTORE_AFTER_S = 3.0  # a saved revision serves when the first load takes longer


@dataclass(frozen=True, slots=True)
class Restored:
    """A loader thread's message: a saved revision can serve where the one on disk cannot."""

    deployment: Deployment


class Restorer:
    """Saves in *store* what serves, and loads it from there; without one it does nothing."""

    def __init__(
        self,
        store: RevisionStore | None,
        *,
        load: Callable[..., Deployment | Failure],
        quarantine: Quarantine,
        retire: Callable[[Iterable[Deployment]], None],
        stopped: threading.Event,
        restores: bool,
    ) -> None:
        self.store = store
        self.waiting: list[Deployment] = []  # to be published; the conductor's
        self._load = load
        self._quarantine = quarantine
        self._retire = retire
        self._stopped = stopped
        self._restores = restores
        self._unsaved: list[tuple[Deployment, bool]] = []  # and whether it is a canary
        self._served: Collection[str] = ()  # names, as of the last publication

    def start(self) -> None:
        """Keep a thread for the store. Raises UnavailableError or RuntimeError without threads."""
        if self.store is not None:
            self.store.start()

    def stop(self) -> None:
        """Save what is left, for a short time, and retire what was not published."""
        if self.store is not None:
            self._save(self.store)
            self.store.stop()
        self._retire(self.waiting)

    def _save(self, store: RevisionStore) -> None:
        for deployment, is_canary in self._unsaved:
            store.save(deployment, is_canary=is_canary)
        self._unsaved = []

    def is_served(self, name: str) -> bool:
        """Whether *name* is served, as of the last publication; from any thread."""
        return name in self._served

    def refused(self, job: LoadJob, send: Callable[[Restored], None]) -> Failure | None:
        """Return why the revision of *job* must not serve: it was rolled back before this process began.

        What served before it is restored; one that was a canary then begins beside that again. In a loader thread.
        """
        revision, store = job.revision, self.store
        if store is None or revision.name in self._served:
            return None
        why, share = store.why_rolled_back(revision), store.canary_share(revision)
        if why is None and not share:
            return None
        is_restored = self.restore(job, send)
        if why is None or not is_restored:
            return None
        return rolled_back(revision, why or "rolled back")

    def restore(self, job: LoadJob, send: Callable[[Restored], None]) -> bool:
        """Load the last good revision of the name of *job*, unless one serves, and *send* it; in a loader thread.

        False without one.
        """
        name, store = job.revision.name, self.store
        job.restores = True
        if store is None or not self._restores or name in self._served:
            return False
        for revision in _restorable(store, job.revision):
            if name in self._served or self._stopped.is_set():
                discard(revision)
                return False
            if self._quarantine.refused(revision, None) is revision:
                leases = self._quarantine.leases_of(revision)
                with self._quarantine.loading(leases):
                    outcome = self._load(revision, leases=leases)
                if isinstance(outcome, Deployment):
                    send(Restored(outcome))
                    return True
                log.warning("{}: the saved revision {} does not load: {}", name, revision.id, outcome.reason)
                self._quarantine.forget(leases)
            discard(revision)
        return False

    def hanging(self, jobs: Iterable[LoadJob], phases: Phases) -> list[LoadJob]:
        """List those of *jobs*, once each, that do not come to an end, though another revision served before."""
        now = time.time()
        late = [phase.revision for phase in phases.running() if now - phase.since > _RESTORE_AFTER_S]
        found = [job for job in jobs if not job.restores and any(job.revision is revision for revision in late)]
        for job in found:
            job.restores = True
        # One that served last is only slow.
        return [job for job in found if self.store is not None and not self.store.is_last_good(job.revision)]

    def take(self, revisions: Mapping[str, Any], outcomes: Iterable[Deployment | Failure]) -> list[Deployment]:
        """Return those that wait, one of each name, which nothing better serves; retire the others."""
        loaded = {outcome.name for outcome in outcomes if isinstance(outcome, Deployment)}
        names = revisions.keys() - self._served - loaded
        wanted = {each.name: each for each in self.waiting if each.name in names}
        self._retire([each for each in self.waiting if wanted.get(each.name) is not each])
        self.waiting = []
        return list(wanted.values())

    def published(self, before: Snapshot, snapshot: Snapshot) -> None:
        """Save what serves since *before*, and note which names are gone."""
        self._served = snapshot.deployments.keys()
        if self.store is None:
            return
        for is_canary, old, new in (
            (False, before.deployments, snapshot.deployments),
            (True, before.canaries, snapshot.canaries),
        ):
            self._unsaved += [(each, is_canary) for name, each in new.items() if old.get(name) is not each]
        for name, canary in before.canaries.items():
            failure = snapshot.failures.get(name)
            is_rolled_back = failure is not None and failure.revision is canary.revision
            if canary not in snapshot.loaded and not is_rolled_back:
                self.store.canary_replaced(canary.revision)
            if name in snapshot.deployments and name not in snapshot.canaries:  # again the last that serves
                self._unsaved.append((snapshot.deployments[name], False))
        if snapshot.ready:  # not before: it would delay the other loads of the start
            self._save(self.store)
        for name, failure in snapshot.failures.items():
            if failure.has_served and before.failures.get(name) is not failure:
                self.store.rolled_back(failure.revision, failure.reason)
        left = {*snapshot.deployments, *snapshot.failures, *snapshot.loading}
        for name in {*before.deployments, *before.failures} - left:
            self.store.undeployed(name)


def discard(revision: Revision) -> None:
    """Remove the files of *revision*, if it is a restored one, when nothing uses them any more."""
    if revision.is_restored:
        shutil.rmtree(revision.path.parent, ignore_errors=True)


def _restorable(store: RevisionStore, failed: Revision) -> Iterator[Revision]:
    """Yield the saved revisions of the name of *failed* but itself, the last good one first, with their files."""
    try:
        store.check_owner()
        saved = store.saved(failed.name)
    except FileNotFoundError:  # the first start
        return
    except OSError as error:
        log.warning("{}: no saved revision can be read: {}", failed.name, error)
        return
    if any(each.ended == "undeployed" for each in saved):
        return
    for each in saved:
        if each.fingerprint in (failed.fingerprint, failed.replaces) or not each.is_good:
            continue
        tree: Path | None = None
        try:
            tree = _new_tree(store.directory)
            yield _materialised(store, each, failed.path, tree)
        except (OSError, ValueError, LookupError) as error:
            log.warning("{}: the saved revision {} cannot be used: {}", failed.name, each.id, error)
            if tree is not None:
                shutil.rmtree(tree, ignore_errors=True)


def _new_tree(directory: Path) -> Path:
    prefix = f"{socket.gethostname()}-{os.getpid()}-"
    try:
        (directory / "running").mkdir(mode=0o700, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=prefix, dir=directory / "running"))
    except OSError:  # read-only, or full
        return Path(tempfile.mkdtemp(prefix="hayhooks-restored-"))


def _materialised(store: RevisionStore, saved: SavedRevision, present: Path, tree: Path) -> Revision:
    """Write the files of *saved* below *tree*; raise ValueError if one is not as it was."""
    place = tree / saved.entry
    folder = place if saved.kind is RevisionKind.FOLDER else tree
    contents = store.write(saved, place, present, links=True)
    for module, (path, digest, _) in saved.shared.items():
        if saved.kind is RevisionKind.FOLDER:  # beside the wrapper: other revisions go on with the present ones
            own = module.replace(".", "/") + ("/__init__.py" if path.endswith("/__init__.py") else ".py")
            if own not in contents:
                contents[own] = store.content(digest)
                write_within(folder, own, contents[own])
        elif digest_of(Path(path).read_bytes()).hex() != digest:
            raise ValueError(f"{path} is not as it was")
    files = {
        path: File(Stamp.of(os.stat(folder / path)), digest_of(content), content if is_code(path, saved.kind) else None)
        for path, content in contents.items()
    }
    # The same files in their place are another revision.
    fingerprint = saved.fingerprint + _RESTORED
    return Revision(saved.name, place, fingerprint, files, kind=saved.kind, is_restored=True)
