"""Reconcile: bring the snapshot up to the directory, again and again. The conductor of the kernel.

One thread runs the line of ``hayhooks.kernel`` for every tick; the loads run in threads beside it and report back
through the same inbox. So there is one writer of ``Reconciler.snapshot``, and no lock.
"""

import asyncio
import os
import queue
import threading
import time
import traceback as tracebacks
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from loguru import logger as log

from hayhooks.errors import safe_str, sendable
from hayhooks.kernel.discovery import deployment_name
from hayhooks.kernel.isolation import replace_stuck_import
from hayhooks.kernel.load import BuildRoutes, load, unload
from hayhooks.kernel.operations import TransportTypes
from hayhooks.kernel.options import KernelOptions
from hayhooks.kernel.outcome import run_on
from hayhooks.kernel.paths import real_path
from hayhooks.kernel.plan import plan
from hayhooks.kernel.preload import Preloader
from hayhooks.kernel.retire import Retirement
from hayhooks.kernel.scan import Scanner, ScanResult
from hayhooks.kernel.state import Deployment, Failure, Loading, Revision, RevisionKind, Snapshot, advance
from hayhooks.kernel.threads import DaemonThreadPool
from hayhooks.kernel.watch import Watch

_LOADS_AT_A_TIME = 4
_LOAD_PATIENCE_S = 1.0  # a load that takes longer makes room for the next one
_HOLD_S = 1.0  # what was loaded waits no longer than this for its folder to be still
_RECOVERY_S = 0.2  # after a fault of ours
_TEND_S = 1.0  # how long what hangs may go unnoticed
_START_S = 30.0  # the server is ready after this long, even if some wrappers are still loading


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that became of one name: what the log and ``hayhooks dev`` tell."""

    name: str
    outcome: Deployment | Failure | None  # None: it has been removed, or its failure is over
    serving: Deployment | None  # what serves the name now
    took_ms: float  # from the first sight of the change to its being served
    files: tuple[str, ...] = ()  # that differ from what was deployed before


Publish = Callable[[Snapshot, Callable[[], None]], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Load:
    revision: Revision
    loading: Loading
    again: bool  # the one before was misled


@dataclass(frozen=True, slots=True)
class _Loaded:
    load: _Load
    outcome: Deployment | Failure
    at: float = field(default_factory=time.monotonic)


class Reconciler:
    """Keeps a snapshot of what the pipelines directory asks for.

    Args:
        root: the pipelines directory. It is only read.
        options: how to watch, load and retire.
        publish: called with each new snapshot and with what to call once requests meet only that one.
        build_routes: makes a deployment's endpoints, see ``load``.
        transport: the serving layer's classes in annotations, see ``inspect_method``.
        observe: called with each change, after it was published.
        loop: the serving loop, for what has to run there.
        reserved: names that deployments may not have.
        given: revisions of pipelines given in code. Each has its name, whatever comes to lie in the directory.
    """

    def __init__(
        self,
        root: Path,
        options: KernelOptions,
        *,
        publish: Publish,
        build_routes: BuildRoutes,
        transport: TransportTypes,
        observe: Callable[[Change], None],
        loop: asyncio.AbstractEventLoop,
        reserved: Collection[str] = (),
        given: Collection[Revision] = (),
    ) -> None:
        self.snapshot = Snapshot()
        on_loop = partial(run_on, loop)
        self.retirement = Retirement(partial(unload, on_loop=on_loop), loop=loop, drain_s=options.drain_s)
        self._root = root
        self._publish = publish
        self._observe = observe
        self._load = partial(load, options=options, transport=transport, build_routes=build_routes, on_loop=on_loop)
        self._settle_s = options.debounce_ms / 1000
        self._scanner = Scanner(
            root,
            reserved=reserved,
            taken=[revision.name for revision in given],
            python_path=options.python_path,
            only=options.only,
            settle_s=self._settle_s,
            absence_s=options.removal_grace_ms / 1000,
        )
        self._inbox: queue.SimpleQueue[frozenset[str] | _Loaded | None] = queue.SimpleQueue()
        self.watch = Watch(self._inbox.put, look_around_s=options.poll_interval_ms / 1000, events=options.events)
        self._foundation = Preloader(freeze=options.freeze)
        self._loaders = DaemonThreadPool("load", _LOADS_AT_A_TIME, patience_s=_LOAD_PATIENCE_S)
        self._loads: dict[str, _Load] = {}
        self._outcomes: list[Deployment | Failure] = []  # that are not yet in a published snapshot
        self._loaded: list[_Loaded] = []  # what has come, and what waits for its folder to be still
        self._look = ScanResult({}, {}, {}, {}, unsettled=True, problem="")  # the last one
        self._given = {revision.name: revision for revision in given}
        self._wanted: Mapping[str, Revision] = {}  # what the last look found, and what was given
        self._began_at = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hayhooks reconcile", daemon=True)

    def start(self) -> None:
        """Begin to watch and to load."""
        self._began_at = time.monotonic()
        self.watch.start()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still looks and acts."""
        return self._thread.is_alive()

    @property
    def directory(self) -> tuple[str, tuple[int, int]] | None:
        """The real path of the pipelines directory, its device and inode, as of the last look; None if unreadable."""
        return None if self._look.problem else next(iter(self._look.surroundings.items()), None)

    def found(self, name: str) -> Revision | None:
        """What was last read of *name*, whatever has become of it since."""
        return self._look.revisions.get(name)

    def stop(self, timeout_s: float) -> None:
        """Stop watching, retire every deployment, and wait for that for *timeout_s* at most."""
        self._stopped.set()
        self.watch.stop()
        self._inbox.put(None)
        self._thread.join(timeout_s)
        for deployment in self.snapshot.deployments.values():
            self.retirement.add(deployment)
        if not self.retirement.wait(timeout_s):
            log.warning("Stopped with {} deployment(s) not torn down in {:g} s", self.retirement.pending, timeout_s)

    def _run(self) -> None:
        """Look and act, then wait for the next reason to; until stopped."""
        hints: set[str] | None = None
        while not self._stopped.is_set():
            try:
                self._reconcile(hints)
                hints = self._names(self._reasons())
            except Exception:  # a fault of ours must not end the deployer: the next look starts from what is there
                hints = None
                with suppress(Exception):  # nor may a sink that a wrapper has added
                    log.exception("The reconciler failed and will look again")
                self._wait(_RECOVERY_S)

    def _reconcile(self, hints: set[str] | None) -> None:
        """One turn: look at the folders *hints* (None: at all), take what was loaded, start what has to be."""
        if hints is not None:
            hints.update(result.load.revision.name for result in self._loaded)
        began = time.thread_time()
        self._look = look = self._scanner.look(time.monotonic(), hints)
        if hints is None:
            self.watch.looked_around(time.thread_time() - began)
        self.watch.follow(look.directories)
        self._wanted = self._with_given(look.revisions)
        self._accept()
        outcomes = self._outcomes
        todo = plan(advance(self.snapshot, outcomes=outcomes, loading=self._loading()), self._wanted)
        for name in (*todo.forget, *todo.remove):
            self._loads.pop(name, None)
        if todo.load:
            self._foundation.lay(todo.load)
        for revision in todo.load:
            self._start(revision)
        snapshot = advance(
            self.snapshot,
            outcomes=outcomes,
            forget=todo.forget,
            remove=todo.remove,
            loading=self._loading(),
            looked=not look.unsettled,
            ready=self._is_ready(),
            problem=look.problem,
        )
        if snapshot is not self.snapshot:
            self._go_live(snapshot)
        self._outcomes = []

    def _with_given(self, found: Mapping[str, Revision]) -> Mapping[str, Revision]:
        """*found*, and what was given; a revision that claims the name of such a one is a failure beside it.

        But not before that one serves: the load of the claim would take the place of its own.
        """
        claimed = found.keys() & self.snapshot.deployments.keys()
        return {**found, **{name: revision for name, revision in self._given.items() if name not in claimed}}

    def _accept(self) -> None:
        """Take the outcomes of loads that are still wanted; a deployment that came too late is retired unseen.

        A wrapper may have read files that changed while it was set up. So what comes from a folder that is moving waits
        until that is still again, and is only wanted if it is still the same.
        """
        results, self._loaded = self._loaded, []
        if any(isinstance(result.outcome, Failure) for result in results):
            self.retirement.collect_soon()
        for result in results:
            name = result.load.revision.name
            if self._loads.get(name) is not result.load or not self._is_current(result.load.revision):
                self._drop(result)
            elif self._scanner.is_moving(name) and time.monotonic() - result.at < _HOLD_S:
                self._loaded.append(result)
            elif self._was_misled(result.load):
                self._drop(result)
                self._start(self._wanted[name], again=True)
            else:
                del self._loads[name]
                self._outcomes.append(result.outcome)

    def _drop(self, result: _Loaded) -> None:
        if isinstance(result.outcome, Deployment):
            self.retirement.add(result.outcome)

    def _is_current(self, revision: Revision) -> bool:
        latest = self._wanted.get(revision.name)
        return latest is not None and latest.fingerprint == revision.fingerprint

    def _was_misled(self, load: _Load) -> bool:
        """Whether data was changed and changed back while the wrapper was set up: it may have read what was between."""
        latest = self._wanted[load.revision.name].files
        return not load.again and any(
            file.source is None and latest[path].stamp != file.stamp for path, file in load.revision.files.items()
        )

    def _loading(self) -> list[Loading]:
        return [load.loading for load in self._loads.values()]

    def _start(self, revision: Revision, *, again: bool = False) -> None:
        wanted = _Load(revision, Loading(revision, time.time()), again)
        self._loads[revision.name] = wanted  # in place of one that is running: its outcome is not wanted any more
        self._foundation.then(lambda: self._loaders.submit(lambda: self._carry_out(wanted)))

    def _carry_out(self, wanted: _Load) -> None:
        """Run in a loader's thread."""
        if self._loads.get(wanted.revision.name) is not wanted or self._stopped.is_set():
            return
        try:
            outcome = self._load(wanted.revision)
        except BaseException as error:  # a fault of ours: nobody may wait for ever for this outcome
            reason = f"hayhooks failed to load it ({type(error).__name__}: {safe_str(error)})"
            traceback = sendable("".join(tracebacks.format_tb(error.__traceback__)))
            outcome = Failure(wanted.revision, reason, traceback, None, "", time.time())
        self._inbox.put(_Loaded(wanted, outcome))
        if self._stopped.is_set() and isinstance(outcome, Deployment):  # nobody reads the inbox any more
            self.retirement.add(outcome)

    def _is_ready(self) -> bool:
        """Whether what the first look found has been loaded, or has had its time."""
        done = not self._look.unsettled and not self._loads
        return done or time.monotonic() - self._began_at > _START_S

    def _go_live(self, snapshot: Snapshot) -> None:
        """Publish *snapshot*; new before old: what it no longer holds is retired once requests meet only the new."""
        before = self.snapshot
        known = [*before.deployments.values(), *(new for new in self._outcomes if isinstance(new, Deployment))]
        released = [deployment for deployment in known if snapshot.deployments.get(deployment.name) is not deployment]
        self._publish(snapshot, lambda: self._release(released))
        self.snapshot = snapshot
        for change in self._changes(before, snapshot):
            try:
                self._observe(change)
            except Exception:  # who cannot be told, or a sink that a wrapper has added, must not keep us from deploying
                with suppress(Exception):
                    log.exception("A change of {} could not be told", change.name)

    def _release(self, released: list[Deployment]) -> None:
        for deployment in released:
            self.retirement.add(deployment)

    def _changes(self, before: Snapshot, after: Snapshot) -> Iterator[Change]:
        for name in sorted({*before.deployments, *before.failures, *after.deployments, *after.failures}):
            old, new = before.deployments.get(name), after.deployments.get(name)
            failure = after.failures.get(name)
            seen_at = self._began_at if new and new.revision.kind is RevisionKind.CODE else self._scanner.seen_at(name)
            took_ms = (time.monotonic() - seen_at) * 1000
            if failure is not None and failure is not before.failures.get(name):
                last = before.failures.get(name) or old
                yield Change(sendable(name), failure, new, took_ms, _difference(failure, last))
            elif new is not old:
                yield Change(name, new, new, took_ms, _difference(new, old))
            elif failure is None and name in before.failures:
                yield Change(sendable(name), None, new, took_ms)

    def _reasons(self) -> list[frozenset[str]]:
        """Wait for a reason to look again, and tend those that hang meanwhile; returns the ticks."""
        while True:
            self._foundation.tick()
            self._loaders.tick()
            replace_stuck_import()
            self.retirement.tick()
            ticks = self._wait(self._settle_s if self._look.unsettled else _TEND_S)
            late = self._is_ready() and not self.snapshot.ready  # a setup that hangs has had its time
            if ticks or late or self._loaded or self._look.unsettled or self._stopped.is_set():
                return ticks

    def _wait(self, timeout_s: float) -> list[frozenset[str]]:
        """Wait for messages, and take all there are: returns the ticks, and keeps what was loaded."""
        ticks = []
        try:
            message = self._inbox.get(timeout=timeout_s)
            while True:
                if isinstance(message, _Loaded):
                    self._loaded.append(message)
                elif message is not None:
                    ticks.append(message)
                message = self._inbox.get_nowait()
        except queue.Empty:
            return ticks

    def _names(self, ticks: list[frozenset[str]]) -> set[str] | None:
        """The names that the changed paths concern; None if that cannot be told, or a tick says to look around."""
        names: set[str] = set()
        root = real_path(self._root)
        for paths in ticks:
            if not paths:
                return None
            for path in paths:
                directory = os.path.dirname(path)
                found = self._look.names_in.get(directory, frozenset()) | self._look.names_in.get(path, frozenset())
                if directory == root:
                    filename = os.path.basename(path)
                    found |= {filename, deployment_name(filename)}
                if not found:
                    return None
                names |= found
        return names


def _difference(new: Deployment | Failure | None, old: Deployment | Failure | None) -> tuple[str, ...]:
    if new is None or old is None:
        return ()
    return new.revision.changed_since(old.revision)
