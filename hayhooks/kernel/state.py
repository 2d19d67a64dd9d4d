"""The values that the kernel passes on: revision, deployment, failure, and the snapshot of all of them."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hayhooks.errors import Place
from hayhooks.kernel.admission import Leases
from hayhooks.kernel.limits import Slots
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.threads import DaemonThreadPool


class Stamp(NamedTuple):
    """What tells, without reading it, that a file is still the same."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int  # cannot be set back, as tar and rsync do with mtime

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """The stamp of the file with *status*."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class File:
    """One file of a revision."""

    stamp: Stamp
    digest: bytes
    source: bytes | None  # the content, of what runs only, Python and pipelines in YAML: what was digested is that


class Shared(NamedTuple):
    """A module of the additional Python path."""

    path: str
    version: str  # a digest of it, and of those that it imports


class RevisionKind(Enum):
    """What a revision is one of."""

    FOLDER = "folder"  # with a pipeline_wrapper.py
    YAML = "yaml"  # a file
    CODE = "code"  # no part of the directory: the application was given it


@dataclass(frozen=True, slots=True)
class Revision:
    """One version of what a name stands for; no code has run."""

    name: str
    path: Path  # the folder or file, as it is called in the pipelines directory; of a class in code, its file
    fingerprint: str  # hex; of the relative paths and bytes of all files and the shared modules, or of the problem
    files: Mapping[str, File] = field(default_factory=dict, repr=False)  # by path relative to the folder, with "/"
    problem: str = ""  # why this can never be a deployment, and what to do about it
    shared: Mapping[str, Shared] = field(default_factory=dict, repr=False)  # modules that it imports, by name
    kind: RevisionKind = RevisionKind.FOLDER
    make: Callable[[], Any] | None = field(default=None, repr=False)  # makes the wrapper, where code has given it
    identity: tuple[int, int] = field(default=(0, 0), compare=False)  # device and inode of the folder or file

    @property
    def id(self) -> str:
        """The fingerprint, as short as people can use it: 12 hex digits."""
        return self.fingerprint[:12]

    def changed_since(self, before: "Revision | None") -> tuple[str, ...]:
        """The files that differ from *before*, removed ones included, in order; none if there is no *before*."""
        if before is None:
            return ()
        ours, theirs = self._digests(), before._digests()
        return tuple(sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)))

    def _digests(self) -> dict[str, bytes | str]:
        shared = {module.path: module.version for module in self.shared.values()}
        return {**shared, **{path: file.digest for path, file in self.files.items()}}


@dataclass(frozen=True, slots=True, eq=False)
class DeploymentRuntime:
    """The counters and queues of one deployment: they change while it serves, the deployment itself does not."""

    threads: DaemonThreadPool  # runs its sync methods
    slots: Slots | None = None  # for the requests that it works on; None: no limit
    leases: Leases = field(default_factory=Leases)
    cache: dict[str, Any] = field(
        default_factory=dict
    )  # results that plug-ins compute once per deployment, by their keys


@dataclass(frozen=True, slots=True, eq=False)
class Deployment:
    """A loaded revision, ready to serve: a value, apart from the user's wrapper and the `runtime` beside it."""

    revision: Revision
    package: str  # the private package that its modules live in
    wrapper: Any
    operations: Mapping[str, Operation]  # by method name: those that the wrapper implements
    description: str  # the wrapper's docstring, "" without one
    loaded_at: float  # Unix seconds
    load_ms: float
    runtime: DeploymentRuntime
    timeout_s: float = 0.0  # of one request, to the last byte; 0: no limit
    endpoints: Any = None  # the routes that `build_routes` made of it; the kernel does not look inside

    @property
    def name(self) -> str:
        """The public name: the folder's, the route's, the model's."""
        return self.revision.name

    def operation(self, *names: str) -> Operation | None:
        """The first of the methods *names* that the wrapper implements."""
        return next((self.operations[name] for name in names if name in self.operations), None)


@dataclass(frozen=True, slots=True)
class Failure:
    """A revision that would not load, and why. Text only: an exception would keep the failed modules alive."""

    revision: Revision
    reason: str
    traceback: str  # "" when no code ran
    place: Place | None
    hint: str
    failed_at: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class Loading:
    """A revision that is being loaded."""

    revision: Revision
    since: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class Retired:
    """A deployment that has been replaced or removed, and still lives."""

    name: str
    revision: str
    since: float  # Unix seconds
    why: str  # the requests and threads that it waits for, "teardown", or what refers to it


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All deployments, failures and loads at one moment, by name and in name order."""

    generation: int = 0  # how often deployments or failures have changed
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    loading: Mapping[str, Loading] = field(default_factory=dict)
    looked: bool = False  # every name that lay there at the start is in one of the three
    ready: bool = False  # the first reconciliation is done: they are loaded, or had their time
    problem: str = ""  # why the pipelines directory cannot be read at the moment

    def __post_init__(self) -> None:
        for name in ("deployments", "failures", "loading"):
            object.__setattr__(self, name, MappingProxyType(dict(sorted(getattr(self, name).items()))))

    def state(self, name: str) -> str:
        """The state of *name*, which lies there: ``serving``, ``stale``, ``failed`` or ``loading``.

        ``loading`` only where nothing serves: a deployment that is being replaced serves as before.
        """
        if name in self.deployments:
            return "stale" if name in self.failures else "serving"
        return "loading" if name in self.loading else "failed"


def advance(
    snapshot: Snapshot,
    *,
    outcomes: Iterable[Deployment | Failure] = (),
    forget: Iterable[str] = (),
    remove: Iterable[str] = (),
    loading: Iterable[Loading] = (),
    looked: bool = False,
    ready: bool = False,
    problem: str = "",
) -> Snapshot:
    """The snapshot after *outcomes* have come and the names in *remove* have gone.

    A deployment takes the place of the one before it and of its failure; a failure leaves the deployment before it in
    place. *forget* drops failures alone. The result is *snapshot* itself when nothing differs, and its generation
    is one higher when deployments or failures do.
    """
    deployments, failures = dict(snapshot.deployments), dict(snapshot.failures)
    for outcome in outcomes:
        if isinstance(outcome, Deployment):
            deployments[outcome.name] = outcome
            failures.pop(outcome.revision.name, None)
        else:
            failures[outcome.revision.name] = outcome
    for name in forget:
        failures.pop(name, None)
    for name in remove:
        deployments.pop(name, None)
        failures.pop(name, None)
    changed = deployments != snapshot.deployments or failures != snapshot.failures
    successor = Snapshot(
        generation=snapshot.generation + changed,
        deployments=deployments,
        failures=failures,
        loading={load.revision.name: load for load in loading},
        looked=snapshot.looked or looked,
        ready=snapshot.ready or ready,
        problem=problem,
    )
    return snapshot if successor == snapshot else successor
