"""State: the kernel's values, and pure functions on them."""

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hayhooks.errors import Place
from hayhooks.kernel.admission import Leases, Outcomes, Slots
from hayhooks.kernel.discovery import Identity
from hayhooks.kernel.operations import DurableMethod, Operation
from hayhooks.kernel.threads import DaemonThreadPool


class Stamp(NamedTuple):
    """The stat fields of a file that change with its content."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int  # unlike mtime it cannot be set back, as tar and rsync do

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Take the stamp of the file with *status*."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @classmethod
    def at(cls, path: str, *, only_regular: bool = False) -> "Stamp | None":
        """Take the stamp of the file *path*; None if there is none."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        return None if only_regular and not stat.S_ISREG(status.st_mode) else cls.of(status)


def digest_of(content: bytes) -> bytes:
    """Return the digest by which files are compared, and stored in the state directory."""
    return hashlib.blake2b(content, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class File:
    """One file of a revision."""

    stamp: Stamp
    digest: bytes
    source: bytes | None  # the digested content; kept for files that run: Python, and pipelines in YAML


class SharedModule(NamedTuple):
    """A module of the additional Python path."""

    path: str
    digest: bytes  # of its source
    version: str  # digest of its source and of the shared modules that it imports


class RevisionKind(Enum):
    """Where a revision comes from."""

    FOLDER = "folder"  # with a pipeline_wrapper.py
    YAML = "yaml"  # a file
    CODE = "code"  # passed to the application, not in the directory


@dataclass(frozen=True, slots=True)
class Revision:
    """One version of one folder, YAML file or pipeline given in code; no code has run."""

    name: str
    path: Path  # of the folder or file, links not resolved; of a class given in code, its source file
    fingerprint: str  # hex digest of the paths and bytes of all files and shared modules, or of the problem
    files: Mapping[str, File] = field(default_factory=dict, repr=False)  # by path relative to the folder, with "/"
    problem: str = ""  # why this can never be a deployment, and what to do about it
    shared: Mapping[str, SharedModule] = field(default_factory=dict, repr=False)  # imported shared modules, by name
    kind: RevisionKind = RevisionKind.FOLDER
    make: Callable[[], Any] | None = field(default=None, repr=False)  # makes the wrapper; only for RevisionKind.CODE
    replaces: str = ""  # the fingerprint of the revision in whose place this is: it must not serve any more
    identity: Identity = field(default=Identity(), compare=False)  # of the wrapper or YAML file; zeros: it is code
    is_restored: bool = False  # it was saved when it served; its files are not in the pipelines directory

    @property
    def id(self) -> str:
        """The first 12 hex digits of the fingerprint, for people."""
        return self.fingerprint[:12]

    def changed_since(self, before: "Revision | None") -> tuple[str, ...]:
        """List the files that differ from *before*, removed ones included."""
        if before is None:
            return ()
        files, old_files = ({path: file.digest for path, file in r.files.items()} for r in (self, before))
        shared, old_shared = ({module.path: module.digest for module in r.shared.values()} for r in (self, before))
        changed = {path for path in files.keys() | old_files.keys() if files.get(path) != old_files.get(path)}
        changed |= {path for path in shared.keys() & old_shared.keys() if shared[path] != old_shared[path]}
        # Another set of shared modules follows from changed imports; only if there are none, files came or went.
        return tuple(sorted(changed or shared.keys() ^ old_shared.keys()))


@dataclass(frozen=True, slots=True, eq=False)
class DeploymentRuntime:
    """The parts of a deployment that change while it serves."""

    threads: DaemonThreadPool  # for its sync methods
    slots: Slots | None = None  # its concurrency limit; None: no limit
    leases: Leases = field(default_factory=Leases)
    outcomes: Outcomes = field(default_factory=Outcomes)
    cache: dict[str, Any] = field(default_factory=dict)  # what plug-ins compute once per deployment, by their keys


@dataclass(frozen=True, slots=True, eq=False)
class Deployment:
    """A loaded revision, ready to serve."""

    revision: Revision
    package: str  # the private package that its modules live in
    wrapper: Any
    operations: Mapping[str, Operation]  # by method name: those that the wrapper implements
    description: str  # the wrapper's docstring, "" without one
    loaded_at: float  # Unix seconds
    load_ms: float
    runtime: DeploymentRuntime
    timeout_s: float = 0.0  # of one request, to the last byte; 0: no limit
    trial_s: float = 0.0  # for which the deployment that it replaces stays loaded
    canary: float = 0.0  # share of the requests that it gets as a canary; 0: it serves all at once
    durable: DurableMethod | None = None  # what its executions run
    owner: Callable[..., Any] | None = None  # `durable_owner_id` of the wrapper: whose executions a request may see
    endpoints: Any = None  # what `build_routes` made of it; the kernel does not look inside
    is_set_up: bool = True  # else it is only described here

    @property
    def name(self) -> str:
        """The public name: the folder's, the route's, the model's."""
        return self.revision.name

    def operation(self, *names: str) -> Operation | None:
        """Return the first of the methods *names* that the wrapper implements."""
        return next((self.operations[name] for name in names if name in self.operations), None)


@dataclass(frozen=True, slots=True)
class Failure:
    """A revision that would not load, or that was rolled back, and the reason as text."""

    revision: Revision
    reason: str
    traceback: str  # "" when no code ran
    place: Place | None
    hint: str
    failed_at: float  # Unix seconds
    causes: tuple[str, ...] = ()  # what led to the error, the nearest first: "caused by KeyError: 'x'"
    has_served: bool = False  # it was rolled back: requests failed


@dataclass(frozen=True, slots=True)
class Loading:
    """A revision that is being loaded."""

    revision: Revision
    since: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A revision that is being loaded, or that was replaced or removed and has not gone yet."""

    name: str
    revision: str
    since: float  # Unix seconds
    why: str  # what of it runs, and at which line; its requests; or what refers to it
    has_served: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All deployments, failures and loads at one moment, by name and in name order."""

    generation: int = 0  # one higher each time that deployments, canaries or failures change
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    canaries: Mapping[str, Deployment] = field(default_factory=dict)  # that get a share of a deployment's requests
    failures: Mapping[str, Failure] = field(default_factory=dict)
    # The rest changes without a new generation: routes do not depend on it.
    loading: Mapping[str, Loading] = field(default_factory=dict)
    scanned: bool = False  # each name that the first scan found is in one of the three mappings
    ready: bool = False  # the first reconciliation is done, or took too long
    problem: str = ""  # why the pipelines directory cannot be read at the moment

    def __post_init__(self) -> None:
        for name in ("deployments", "canaries", "failures", "loading"):
            object.__setattr__(self, name, MappingProxyType(dict(sorted(getattr(self, name).items()))))

    def state(self, name: str) -> str:
        """Return the state of *name*: ``serving``, ``stale``, ``failed`` or ``loading``."""
        if name in self.deployments:
            is_restored = self.deployments[name].revision.is_restored and name not in self.canaries
            return "stale" if name in self.failures or is_restored else "serving"
        return "loading" if name in self.loading else "failed"

    @property
    def loaded(self) -> list[Deployment]:
        """All that get requests: deployments and canaries."""
        return [*self.deployments.values(), *self.canaries.values()]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one name, for the log, the metrics and ``hayhooks dev``."""

    name: str
    outcome: Deployment | Failure | None  # None: it was removed, or its failure is over
    serving: Deployment | None  # what serves the name now
    files: tuple[str, ...] = ()  # that differ from what was deployed or failed before
    took_ms: float = 0.0  # from when the scan first saw the change to its publication
    same_as: str = ""  # the name of another failure, already told, with the same error in a shared module
    was_canary: bool = False  # the outcome was one before

    @property
    def event(self) -> str:
        """What has happened: deployed, canary (it gets a share), failed, restored or undeployed.

        Restored: the one that serves is on disk again.
        """
        if self.outcome is not None and self.outcome is not self.serving and isinstance(self.outcome, Deployment):
            return "canary"
        if self.outcome is not None:
            return "deployed" if isinstance(self.outcome, Deployment) else "failed"
        return "restored" if self.serving else "undeployed"

    @property
    def still(self) -> str:
        """What serves though the outcome is a failure, for people; "" if nothing does."""
        if self.serving is None:
            return ""
        again = isinstance(self.outcome, Failure) and self.outcome.has_served and not self.was_canary
        return f"revision {self.serving.revision.id} {'serves again' if again else 'keeps serving'}"

    @property
    def revision(self) -> Revision | None:
        """The revision that was deployed, failed, or serves again."""
        concerned = self.outcome or self.serving
        return concerned.revision if concerned else None


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps that bring the snapshot up to the directory; false without any."""

    load: tuple[Revision, ...] = ()
    forget: tuple[str, ...] = ()  # names whose failure or load is obsolete: the files are those that serve again
    drop: tuple[str, ...] = ()  # names whose canary is obsolete: the files are those that serve all others again
    remove: tuple[str, ...] = ()  # names that are gone

    def __bool__(self) -> bool:
        return bool(self.load or self.forget or self.drop or self.remove)


def plan(snapshot: Snapshot, loading: Mapping[str, Loading], revisions: Mapping[str, Revision]) -> Plan:
    """Compare *snapshot* and the running loads with the *revisions* on disk."""
    # A revision that serves, is being loaded or is known to fail is not loaded again: a broken folder costs one attempt
    # per save and not one per tick, and a save that takes everything back costs none.
    serving = {name: deployment.revision.fingerprint for name, deployment in snapshot.deployments.items()}
    tried = {name: canary.revision.fingerprint for name, canary in snapshot.canaries.items()}
    failed = {name: failure.revision.fingerprint for name, failure in snapshot.failures.items()}
    in_progress = {name: load.revision.fingerprint for name, load in loading.items()}
    latest = {**serving, **failed, **in_progress}
    return Plan(
        load=tuple(
            r
            for r in revisions.values()
            if r.fingerprint not in (serving.get(r.name), tried.get(r.name), latest.get(r.name))
        ),
        forget=tuple(
            name
            for name in (failed.keys() | in_progress.keys()) & serving.keys() & revisions.keys()
            # An equal failure is one of a reload of what serves: it stays until the next load.
            if revisions[name].fingerprint in (serving[name], tried.get(name))
            and revisions[name].fingerprint != failed.get(name)
        ),
        drop=tuple(name for name in tried.keys() & revisions.keys() if revisions[name].fingerprint == serving[name]),
        remove=tuple(sorted(latest.keys() - revisions.keys())),
    )


def advance(
    snapshot: Snapshot,
    *,
    outcomes: Iterable[Deployment | Failure] = (),
    canaries: Iterable[Deployment] = (),
    restored: Iterable[Deployment] = (),
    forget: Iterable[str] = (),
    drop: Iterable[str] = (),
    remove: Collection[str] = (),
    loading: Mapping[str, Loading] = MappingProxyType({}),
    scanned: bool = False,
    ready: bool = False,
    problem: str = "",
) -> Snapshot:
    """Return *snapshot* with *outcomes*, *canaries* and *restored*, without *remove* and the failures in *forget*.

    A failure leaves the deployment of its name in place. The result is *snapshot* itself when nothing differs.
    """
    deployments, failures, tried = dict(snapshot.deployments), dict(snapshot.failures), dict(snapshot.canaries)
    for outcome in outcomes:
        _settle(outcome, deployments, failures, tried)
    deployments = {each.name: each for each in restored} | deployments
    for canary in canaries:
        tried[canary.name] = canary
        failures.pop(canary.name, None)
    for mapping, names in ((failures, {*forget, *remove}), (tried, {*drop, *remove}), (deployments, remove)):
        for name in names:
            mapping.pop(name, None)
    for name in tried.keys() - deployments.keys():  # what served beside it is gone
        deployments[name] = tried.pop(name)
    changed = (deployments, failures, tried) != (snapshot.deployments, snapshot.failures, snapshot.canaries)
    successor = Snapshot(
        generation=snapshot.generation + changed,
        deployments=deployments,
        canaries=tried,
        failures=failures,
        loading=loading,
        scanned=snapshot.scanned or scanned,
        ready=snapshot.ready or ready,
        problem=problem,
    )
    return snapshot if successor == snapshot else successor


def _settle(
    outcome: Deployment | Failure,
    deployments: dict[str, Deployment],
    failures: dict[str, Failure],
    canaries: dict[str, Deployment],
) -> None:
    name = outcome.revision.name
    canary = canaries.get(name)
    if isinstance(outcome, Deployment):
        deployments[name] = outcome
        if outcome is not canary:  # else a failure is one of a newer save
            failures.pop(name, None)
        if canary is not None and canary.loaded_at <= outcome.loaded_at:  # not of a trial that is rolled back
            del canaries[name]
    elif canary is not None and canary.revision is outcome.revision:  # it is rolled back
        del canaries[name]
        failures.setdefault(name, outcome)  # as above
    else:
        failures[name] = outcome
        if name in deployments and deployments[name].revision.fingerprint == outcome.revision.replaces:
            del deployments[name]


def changes(before: Snapshot, after: Snapshot) -> Iterator[Change]:
    """Yield the changes of deployments and failures, in name order."""
    told = {_shared_error(failure): name for name, failure in before.failures.items()}
    for name in sorted({*before.deployments, *before.failures, *after.deployments, *after.failures}):
        old, new = before.deployments.get(name), after.deployments.get(name)
        old_canary, canary = before.canaries.get(name), after.canaries.get(name)
        old_failure, failure = before.failures.get(name), after.failures.get(name)
        if failure is not None and failure is not old_failure:
            last = old_failure or old
            files = failure.revision.changed_since(last.revision if last else None)
            error = _shared_error(failure)
            first = told.setdefault(error, name) if error else name
            was_canary = old_canary is not None and old_canary.revision is failure.revision
            yield Change(name, failure, new, files, same_as=first if first != name else "", was_canary=was_canary)
        elif new is not old:
            files = new.revision.changed_since(old.revision if old else None) if new else ()
            yield Change(name, new, new, files, was_canary=new is not None and new is old_canary)
        if canary is not None and canary is not old_canary and new is not None:
            yield Change(name, canary, new, canary.revision.changed_since(new.revision))
        elif new is old and failure is None and (old_failure or (old_canary and not canary)):
            yield Change(name, None, new)


def _shared_error(failure: Failure) -> tuple[str, Place, bytes] | None:
    """Return what is equal for the failures of all who import the same broken shared module."""
    if failure.place is None:
        return None
    shared = [module for module in failure.revision.shared.values() if module.path == failure.place.file]
    return (failure.reason, failure.place, shared[0].digest) if shared else None
