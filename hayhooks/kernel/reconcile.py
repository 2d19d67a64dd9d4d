"""Reconcile: bring the snapshot up to the directory, again and again.

One thread runs the line of ``hayhooks.kernel`` for every tick. Loads run in threads beside it and report back through
its inbox, so that ``Reconciler.snapshot`` and ``LoadTable`` have one writer, and no lock.
"""

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from loguru import logger as log

from hayhooks.errors import sendable
from hayhooks.kernel.calls import AbandonedCode
from hayhooks.kernel.canary import Canaries
from hayhooks.kernel.discovery import FIRST_STEP, deployment_name, real_path
from hayhooks.kernel.isolation import replace_stuck_import
from hayhooks.kernel.load import BuildRoutes, check_threads, load, unload
from hayhooks.kernel.load_job import Finished, Reload
from hayhooks.kernel.load_table import LoadTable
from hayhooks.kernel.load_threads import LoadThreads
from hayhooks.kernel.operations import TransportTypes
from hayhooks.kernel.options import KernelOptions
from hayhooks.kernel.phases import Phase, Phases
from hayhooks.kernel.preload import Preloader
from hayhooks.kernel.quarantine import Quarantine
from hayhooks.kernel.restore import Restored, Restorer, discard
from hayhooks.kernel.retire import Retirement
from hayhooks.kernel.revision_store import RevisionStore
from hayhooks.kernel.scan import EVERYTHING, Scanner, ScanResult, ScanScope
from hayhooks.kernel.state import (
    Change,
    Deployment,
    Failure,
    Revision,
    RevisionKind,
    Snapshot,
    Unfinished,
    advance,
    changes,
    plan,
)
from hayhooks.kernel.threads import OnLoop, run_on, server_threads
from hayhooks.kernel.trial import Rollbacks, Trials
from hayhooks.kernel.watch import Watch

_READY_AFTER_S = 30.0  # the server is ready after this long, even if some wrappers are still loading
_RETRY_AFTER_S = 0.2  # after a fault of ours
_HOUSEKEEPING_INTERVAL_S = 1.0  # how long a hanging thread may go unnoticed
_LOADING_INTERVAL_S = 0.25  # the same for a load
_MIN_STOP_S = 1.0  # what the conductor gets to end its turn at the server's stop


Publish = Callable[[Snapshot, Callable[[], None]], None]


class Reconciler:
    """Keeps the snapshot of the deployments in a pipelines directory.

    It calls *publish* with each new snapshot and a function to call once requests meet only that one. The pipelines
    *given* in code keep their names, whatever the directory contains.
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
        quarantine: Quarantine | None = None,
        rolled_back: Callable[[], Rollbacks] = dict,
        store: RevisionStore | None = None,
        restore: bool = True,
    ) -> None:
        self.snapshot = Snapshot()
        on_loop = partial(run_on, loop)
        self._phases = phases = Phases()
        self._quarantine = quarantine or Quarantine()
        unload_ = partial(self._unload, on_loop=on_loop, phases=phases)
        self.retirement = Retirement(unload_, loop=loop, drain_s=options.drain_s, phases=phases, trim=options.trim)
        self._root = root
        self._publish = publish
        self._observe = observe
        load_ = partial(
            load, options=options, transport=transport, build_routes=build_routes, on_loop=on_loop, phases=phases
        )
        self._debounce_s = options.debounce_ms / 1000
        self._scanner = Scanner(
            root,
            reserved=reserved,
            taken=[revision.name for revision in given],
            python_path=options.python_path,
            only=options.only,
            offer=store.offer if store is not None else None,
            debounce_s=self._debounce_s,
            removal_grace_s=options.removal_grace_ms / 1000,
        )
        self._inbox: queue.SimpleQueue[frozenset[str] | Finished | Restored | Reload | Failure | None] = (
            queue.SimpleQueue()
        )  # ticks, …, stop
        self._trials = Trials(self.retirement, options, self._inbox.put, rolled_back)
        self.canaries = Canaries(options, store, self._inbox.put, rolled_back)
        self._reloads: set[str] = set()  # names that are to be loaded again, though nothing has changed
        self.watch = Watch(self._inbox.put, poll_interval_s=options.poll_interval_ms / 1000, events=options.events)
        self._preloader = Preloader(freeze=options.freeze)
        self._abandoned = AbandonedCode()
        self._last_scan = ScanResult({}, {}, {}, {}, pending=True, problem="")
        self._given = {revision.name: revision for revision in given}
        self._began_at = 0.0
        self._stopped = threading.Event()
        self._restorer = Restorer(
            store,
            load=load_,
            quarantine=self._quarantine,
            retire=self.retirement.add,
            stopped=self._stopped,
            restores=restore,
        )
        self._load_threads = LoadThreads(
            load_,
            at_a_time=options.loads_at_a_time,
            quarantine=self._quarantine,
            restorer=self._restorer,
            canaries=self.canaries,
            retire=self.retirement.add,
            send=self._inbox.put,
            stopped=self._stopped,
        )
        self._loads = LoadTable(
            preloader=self._preloader,
            threads=self._load_threads,
            scanner=self._scanner,
            phases=phases,
            jitter_s=options.load_jitter_ms / 1000,
            retire=self.retirement.add,
        )
        self._ready_after_s = _READY_AFTER_S + options.load_jitter_ms / 1000
        self._pools = (*self._load_threads.pools, check_threads)
        self.store = store
        self._thread = threading.Thread(target=self._run, name="hayhooks reconcile", daemon=True)

    def start(self) -> None:
        """Begin to watch and to load. Raises UnavailableError or RuntimeError without threads."""
        self._began_at = time.monotonic()
        self.retirement.start()
        for pool in self._pools:
            pool.keep_thread()
        self._restorer.start()
        self.watch.start()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def directory(self) -> tuple[str, tuple[int, int]] | None:
        """The directory's real path, device and inode at the last scan, or None."""
        return None if self._last_scan.problem else next(iter(self._last_scan.roots.items()), None)

    def found(self, name: str) -> Revision | None:
        """Return the revision of *name* that was read last, deployed or not."""
        return self._last_scan.revisions.get(name)

    def reload(self, name: str) -> None:
        """Load *name* again though nothing has changed, as after a change of a database; from any thread."""
        self._inbox.put(Reload(name))

    def loading(self) -> list[Unfinished]:
        """List the loads that are not finished, with what runs of each."""
        return self._loads.unfinished()

    def retired(self) -> list[Unfinished]:
        """List what is left of replaced and removed revisions, the oldest first."""
        draining = [deployment.revision for deployment in self.retirement.draining()]
        left = [
            Unfinished(phase.revision.name, phase.revision.id, phase.since, str(phase))
            for phase in self._left_behind()
            if not any(phase.revision is revision for revision in draining)
        ]
        return sorted((*left, *self.retirement.living()), key=lambda retired: retired.since)

    def _left_behind(self) -> list[Phase]:
        """List the phases that run though nobody waits for them any more."""
        wanted = [job.revision for job in self._loads.jobs.copy().values() if job.outcome is None]
        return [phase for phase in self._phases.running() if not any(phase.revision is r for r in wanted)]

    def stop(self, timeout_s: float) -> None:
        """Stop watching and retire every deployment; wait for *timeout_s* at most."""
        end = time.monotonic() + timeout_s
        self._stopped.set()
        self.watch.stop()
        self._inbox.put(None)
        self._thread.join(max(timeout_s, _MIN_STOP_S))
        for pool in self._pools:
            pool.close()
        self._restorer.stop()
        self.retirement.add(self.snapshot.loaded)
        if not self.retirement.stop(max(end - time.monotonic(), 0.0)):
            log.warning("Stopped with {} deployment(s) not torn down in time", self.retirement.pending)

    def _run(self) -> None:
        scope = EVERYTHING
        while not self._stopped.is_set():
            try:
                self._reconcile(scope)
                scope = self._wait_for_work()
            except Exception:  # a fault of ours must not end the deployer: the next scan starts from what is there
                scope = EVERYTHING
                with suppress(Exception):  # nor may a sink that a wrapper has added
                    log.exception("The reconciler failed and will scan again")
                self._receive(_RETRY_AFTER_S)

    def _reconcile(self, scope: ScanScope) -> None:
        """Take one turn: scan, plan, cancel and start loads, publish changes."""
        began = time.thread_time()
        self._last_scan = scan = self._scanner.scan(time.monotonic(), scope)
        if scope.everything:
            self.watch.full_scan_took(time.thread_time() - began)
        self.watch.follow(scan.directories)
        before, deployed = self.snapshot, self.snapshot.deployments
        revisions = self._wanted(scan)
        # The plan would take reloads for obsolete.
        reloads = [name for name, job in self._loads.jobs.items() if job.is_reload]
        todo = plan(self.snapshot, self._loads.loading(without=reloads), revisions)
        cancelled = {name: self._loads.cancel(name) for name in (*todo.forget, *todo.remove)}
        # Loads that a person knows of and that are over; a failure that is over is a change by itself.
        given_up = [name for name, job in cancelled.items() if job and job.told and name not in before.failures]
        if todo.load:
            self._preloader.start(todo.load)
        for revision in todo.load:
            self._loads.start(revision, waits=True)
        while self._reloads:
            name = self._reloads.pop()
            if name in revisions and revisions[name] not in todo.load:
                self._loads.start(replace(revisions[name]), is_reload=name in {*deployed, *self.snapshot.failures})
        outcomes = self._loads.publishable(revisions)
        begun = self.canaries.begun(outcomes, self.snapshot, {each.name for each in self._restorer.waiting})
        settled = [outcome for name, outcome in outcomes.items() if name not in begun]
        restored = self._restorer.take(revisions, settled)
        loading = self._loads.loading(without=outcomes)
        snapshot = advance(
            self.snapshot,
            outcomes=[*self._trials.outcomes(), *self.canaries.outcomes(), *settled],
            canaries=begun.values(),
            restored=restored,
            forget=todo.forget,
            drop=todo.drop,
            remove=todo.remove,
            loading=loading,
            scanned=not scan.pending,
            # What a saved revision serves can wait for its own.
            ready=not (scan.pending or loading.keys() - deployed.keys() - {each.name for each in restored})
            or self._is_late,
            problem=scan.problem,
        )
        if snapshot.ready and not self.snapshot.ready and not (revisions or scan.problem):
            log.info("There are no pipelines in {}. {}", self._root, FIRST_STEP)
        if snapshot is not self.snapshot:
            self._go_live(snapshot, given_up)
        for name in outcomes:  # not before they are published: if that failed, the next turn publishes them
            del self._loads.jobs[name]

    def _wanted(self, scan: ScanResult) -> dict[str, Revision]:
        """Return the revisions on disk and given in code; in place of one that must not serve, one that says why."""
        # A folder with the name of a given pipeline is a failure beside it, but not before that one serves: a name has
        # one load at a time.
        deployed = self.snapshot.deployments
        claimed = scan.revisions.keys() & deployed.keys()
        given = {name: revision for name, revision in self._given.items() if name not in claimed}
        return {
            name: self._quarantine.refused(revision, deployed.get(name))
            for name, revision in self._trials.refused({**scan.revisions, **given}, self.snapshot).items()
        }

    def _unload(self, deployment: Deployment, on_loop: OnLoop, phases: Phases) -> None:
        leases = deployment.runtime.leases
        with self._quarantine.loading(leases):
            unload(deployment, on_loop, phases)
        self._quarantine.forget(leases)
        discard(deployment.revision)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() - self._began_at > self._ready_after_s

    def _go_live(self, snapshot: Snapshot, given_up: Sequence[str]) -> None:
        """Publish *snapshot*; retire replaced deployments when requests cannot reach them."""
        before, serving = self.snapshot, snapshot.deployments
        retiring = [*self.canaries.replace(before, snapshot), *self._trials.replace(before, snapshot)]
        self._publish(snapshot, partial(self.retirement.add, retiring))
        self.snapshot = snapshot
        self._restorer.published(before, snapshot)
        restored = (Change(name, None, serving[name]) for name in given_up if name in serving)
        for change in (*changes(before, snapshot), *restored):
            is_given = change.serving is not None and change.serving.revision.kind is RevisionKind.CODE
            changed_at = self._began_at if is_given else self._scanner.changed_at(change.name)
            job = self._loads.jobs.get(change.name)
            took_s = time.time() - job.since if job and job.is_reload else time.monotonic() - changed_at
            try:
                self._observe(replace(change, name=sendable(change.name), took_ms=took_s * 1000))
            except Exception:  # an observer, or a sink that a wrapper has added, must not keep us from deploying
                with suppress(Exception):
                    log.exception("An observer failed on a change of {}", change.name)

    def _wait_for_work(self) -> ScanScope:
        """Wait for a reason to scan again, replace stuck threads, return the scan's scope.

        The scope has the folders of changed paths and of finished loads; everything if in doubt.
        """
        while True:
            self._preloader.tick()
            for pool in (*self._pools, server_threads):
                pool.tick()
            replace_stuck_import()
            self.retirement.tick()
            self._trials.tick()
            self.canaries.tick()
            self._report_slow()
            for job in self._restorer.hanging(self._loads.jobs.values(), self._phases):
                self._load_threads.restore(job)
            interval_s = _LOADING_INTERVAL_S if self._loads.jobs else _HOUSEKEEPING_INTERVAL_S
            interval_s = min(interval_s, self._loads.tick())
            if self._trials.failed or self.canaries.decided:
                interval_s = 0.0
            ticks = self._receive(min(self._debounce_s, interval_s) if self._last_scan.pending else interval_s)
            becomes_ready = self._is_late and not self.snapshot.ready
            names = self._reloads | self._loads.finished() | self._trials.failed | self.canaries.decided
            if (
                ticks
                or names
                or self._restorer.waiting
                or becomes_ready
                or self._last_scan.pending
                or self._stopped.is_set()
            ):
                break
        if not all(ticks):  # a tick without paths
            return EVERYTHING
        root = real_path(self._root)
        for path in frozenset[str]().union(*ticks):
            directory, filename = os.path.split(path)
            known = self._last_scan.names_by_directory
            concerned = known.get(directory, frozenset()) | known.get(path, frozenset())
            if directory == root:
                concerned |= {filename, deployment_name(filename)}
            if not concerned:
                return EVERYTHING
            names |= concerned
        return ScanScope(frozenset(names))

    def _report_slow(self) -> None:
        # A method of its own, so that no local variable holds a retired deployment in memory while the deployer waits.
        self._loads.tell_slow()
        self._abandoned.tick(self._left_behind(), [*self.snapshot.loaded, *self.retirement.draining()])

    def _receive(self, timeout_s: float) -> list[frozenset[str]]:
        ticks = []
        try:
            message = self._inbox.get(timeout=timeout_s)
            while True:
                if isinstance(message, Finished):
                    message.job.outcome, message.job.finished_at = message.outcome, time.monotonic()
                    if isinstance(message.outcome, Failure):
                        self.retirement.collect_soon()
                    elif message.job.is_cancelled:
                        self.retirement.add([message.outcome])
                elif isinstance(message, Restored):
                    self._restorer.waiting.append(message.deployment)
                elif isinstance(message, Reload):
                    self._reloads.add(message.name)
                elif isinstance(message, Failure):
                    self._trials.fail(message)
                    self.canaries.fail(message)
                elif message is not None:
                    ticks.append(message)
                message = self._inbox.get_nowait()
        except queue.Empty:
            return ticks
