"""Run several worker processes that share one port, each with its own deployer, and a supervisor that replaces them.

Supervisor and worker talk through a pipe, twice a second: whether the worker serves, and which deployments are
quarantined. Its end tells a worker that the supervisor is gone, whatever ended it.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from ctypes import c_ubyte
from dataclasses import replace
from multiprocessing import allow_connection_pickling, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, NoReturn

from hayhooks.app import Hayhooks, create_app
from hayhooks.errors import safe_str
from hayhooks.http.access import log_exposure
from hayhooks.kernel.quarantine import LOADING, TABLE_SIZE, Deaths, Quarantine, Verdicts, at_fault, at_work
from hayhooks.kernel.self_writes import self_writes
from hayhooks.observability.log import configure_logging, log
from hayhooks.observability.tracing import warn_if_missing
from hayhooks.observability.worker_state import WorkerStateDir
from hayhooks.server.config import ServerConfig, server_options
from hayhooks.server.process import own_process
from hayhooks.server.run import Server
from hayhooks.settings import Settings

_LOOK_S = 0.5  # between two looks at the workers
_JOIN_S = 0.02  # between two looks whether one has ended
_NO_ANSWER_S = 30.0  # a `setup` may hold the interpreter lock for a while; a worker that hangs is replaced
_START_S = 30.0  # for a worker that takes over at SIGHUP
_KILL_AFTER_S = 5.0  # after the graceful time, in which a worker ends itself (server/process.py)
_TRIAL_S = 5.0  # for which the first worker must live with suspects until the others load them
_STABLE_S = 60.0  # a worker that lived for this long is replaced at once
_FIRST_PAUSE_S = 0.5  # before the second worker in a row that dies earlier is replaced; doubled each time
_LONGEST_PAUSE_S = 30.0
_RETRY_S = 1.0  # after the system has started no process
_START_FAILURE = 3  # exit status, as uvicorn's

_STACK = "stack-"  # and the process id: the file in which a worker leaves the stack that ended it
_MAX_STACK = 10_000  # characters in the log

_FAILED = "failed"  # a worker's message: it could not start

_spawn = get_context("spawn")
allow_connection_pickling()


def serve_workers(settings: Settings) -> int:
    """Serve *settings* in ``settings.workers`` processes until SIGINT or SIGTERM; return the exit status."""
    log_exposure(settings)
    warn_if_missing()
    os.environ.update(settings.environment())  # inherited by the workers
    with TemporaryDirectory(prefix="hayhooks-", ignore_cleanup_errors=True) as directory:
        WorkerStateDir.announce(Path(directory))
        self_writes.share_notes(is_first=True)  # for no wrapper, but without those of dead processes
        listener = ServerConfig("", **server_options(settings)).bind_socket()
        return _Supervisor(settings, listener, Path(directory)).run()


def work(listener: socket, connection: Connection, table: Any, verdicts: Verdicts) -> None:
    """Serve *listener* in a worker process until SIGTERM, or until the supervisor is gone."""
    link = _Link(connection)
    try:
        settings = Settings()
        configure_logging(settings.log, settings.log_format)
        app = create_app(settings)
        _leave_stack(WorkerStateDir.of_environment())
        app.quarantine = Quarantine(memoryview(table).cast("B"), verdicts)
        app.log_requests()
        link.app = app
        link.server = server = Server(ServerConfig(own_process(app), **server_options(settings)))
        server.run(sockets=[listener])
    except BaseException as error:
        # uvicorn has logged why the lifespan failed. Wrappers' code may end the process with the same status.
        if link.server is None:
            log.critical("The worker cannot start: {}: {}", type(error).__name__, safe_str(error))
        if link.server is None or not (link.server.started or link.server.should_exit):
            connection.send(_FAILED)
            sys.exit(_START_FAILURE)
        raise


def _leave_stack(state: WorkerStateDir) -> None:
    """Write the stack of the thread that ends this process, by a fault or ``os._exit``, for the supervisor."""
    assert state.directory is not None
    state.announce(state.directory)  # a cleaner of temporary files may have removed it
    file = open(state.directory / f"{_STACK}{os.getpid()}", "w")  # noqa: SIM115 - faulthandler keeps it
    faulthandler.enable(file, all_threads=False)
    os.register_at_fork(after_in_child=faulthandler.disable)
    exit_, process = os._exit, os.getpid()

    def leave_stack_and_exit(status: int) -> NoReturn:
        if os.getpid() == process:  # not a forked child
            faulthandler.dump_traceback(file, all_threads=False)
        exit_(status)

    os._exit = leave_stack_and_exit


class _Link:
    """A worker's end of the pipe; a thread answers the supervisor."""

    def __init__(self, connection: Connection) -> None:
        self.app: Hayhooks | None = None
        self.server: Server | None = None
        self._connection = connection
        threading.Thread(target=self._run, name="hayhooks supervisor", daemon=True).start()

    def _run(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                verdicts = self._connection.recv()
                if self.app is not None:
                    self.app.quarantine.verdicts = verdicts
                    with suppress(OSError):  # the directory is gone, or not ours: that is no end of the supervisor
                        self.app.worker_state.renew()
                self._connection.send(self.server is not None and self.server.started)
        log.warning("The supervisor of the workers has ended: this worker stops")
        os.kill(os.getpid(), signal.SIGTERM)
        graceful_s = self.app.settings.graceful_shutdown_timeout if self.app is not None else 0
        time.sleep(graceful_s + _KILL_AFTER_S)
        os.kill(os.getpid(), signal.SIGKILL)


class _Worker:
    def __init__(self, listener: socket, verdicts: Verdicts, early_deaths: int = 0) -> None:
        self.early_deaths = early_deaths  # of its predecessors, in a row
        self.has_started = False
        self.has_failed = False  # it could not start
        self.replace_at: float | None = None  # once it has died
        self.table = _spawn.RawArray(c_ubyte, TABLE_SIZE)
        self._connection, theirs = _spawn.Pipe()
        self._is_asked = False
        self._answered_at = self.since = time.monotonic()
        self.process = _spawn.Process(target=work, args=(listener, theirs, self.table, verdicts))
        self.process.start()
        theirs.close()

    @property
    def hangs(self) -> bool:
        """Whether it has not answered for long."""
        return time.monotonic() - self._answered_at > _NO_ANSWER_S

    def ask(self, verdicts: Verdicts) -> None:
        """Read its answers and ask again."""
        with suppress(EOFError, OSError):  # it has died
            while self._connection.poll():
                answer = self._connection.recv()
                self.has_failed |= answer == _FAILED
                self.has_started |= answer is True
                self._is_asked, self._answered_at = False, time.monotonic()
            if not self._is_asked:
                self._is_asked = True
                self._connection.send(verdicts)

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.process.is_alive():
            self.process.terminate()

    def join(self, until: float) -> None:
        """Wait for its end, and kill it at *until*, of a monotonic clock."""
        # Not with process.join, which waits for the end of a pipe: a child that a wrapper forked may hold it.
        while self.process.is_alive() and time.monotonic() < until:
            time.sleep(_JOIN_S)
        if self.process.is_alive():
            log.warning("Worker {} did not stop within the graceful time: killed", self.process.pid)
            self.process.kill()
            self.process.join()
        self._connection.close()


class _Supervisor:
    """Starts the workers, replaces those that die, and stops them at its end.

    uvicorn's supervisor stops everything when a worker's exit status is 3, restarts one without a pause, and waits
    without limit for one that ignores SIGTERM.
    """

    def __init__(self, settings: Settings, listener: socket, directory: Path) -> None:
        self._settings = settings
        self._directory = directory  # which the workers share
        self._listener = listener
        self._deaths = Deaths()
        self._workers: list[_Worker] = []
        self._has_started = False  # a worker has, at some time: others will
        self._signals: list[int] = []
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Supervise until SIGINT or SIGTERM; return the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, self._on_signal)
        log.info("Started supervisor [{}] of {} workers", os.getpid(), self._settings.workers)
        self._workers = [self._start(index) for index in range(self._settings.workers)]
        while not self._stopping:
            time.sleep(_LOOK_S)
            self._obey_signals()
            self._look_after_workers()
        self._listener.close()  # else the system accepts connections that no worker serves
        self._stop(self._workers)
        log.info("Stopped supervisor [{}]", os.getpid())
        return self._status

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in (signal.SIGINT, signal.SIGTERM):
            self._stopping = True
        else:
            self._signals.append(number)

    def _obey_signals(self) -> None:
        while self._signals and not self._stopping:
            match self._signals.pop(0):
                case signal.SIGHUP:
                    self._renew()
                case signal.SIGTTIN:
                    if (new := self._try_start(len(self._workers))) is not None:
                        self._workers.append(new)
                case signal.SIGTTOU if len(self._workers) > 1:
                    self._stop([self._workers.pop()])

    def _start(self, index: int, early_deaths: int = 0) -> _Worker:
        return _Worker(self._listener, self._verdicts(index), early_deaths)

    def _try_start(self, index: int, early_deaths: int = 0) -> _Worker | None:
        """Start a worker; None if the system starts no more processes, which must not end the supervisor."""
        try:
            return self._start(index, early_deaths)
        except OSError as error:
            log.error("The system starts no worker (ulimit -u, pids.max, memory): {}", error)
            return None

    def _verdicts(self, index: int) -> Verdicts:
        """Return the verdicts for the worker at *index*: the first one tries suspects, and the others hold them."""
        verdicts = self._deaths.verdicts
        if index == 0 or not verdicts.suspects:
            return verdicts
        first = self._workers[0]
        if first.replace_at is None and first.has_started and time.monotonic() - first.since >= _TRIAL_S:
            loading = at_work(memoryview(first.table).cast("B"), LOADING)
            if loading.isdisjoint(verdicts.suspects):
                return verdicts
        return replace(verdicts, held=verdicts.suspects)

    def _look_after_workers(self) -> None:
        for index, worker in enumerate(self._workers):
            if worker.replace_at is not None:
                if time.monotonic() >= worker.replace_at:
                    new = self._try_start(index, worker.early_deaths)
                    worker.replace_at += _RETRY_S
                    self._workers[index] = new or worker
                continue
            is_alive = worker.process.is_alive()
            worker.ask(self._verdicts(index))
            self._has_started |= worker.has_started
            if is_alive and worker.hangs:
                log.error("Worker {} does not answer for {:g} s: killed", worker.process.pid, _NO_ANSWER_S)
                worker.process.kill()
            elif is_alive:
                continue
            worker.join(time.monotonic() + _KILL_AFTER_S)
            self._handle_death(worker)

    def _handle_death(self, worker: _Worker) -> None:
        """Decide when *worker*, which has died, is replaced, and which deployment is quarantined for it."""
        code = worker.process.exitcode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        if worker.has_failed and not self._has_started:
            log.error("Worker {} could not start, so no other will: stopping", worker.process.pid)
            self._stopping, self._status = True, _START_FAILURE
            return
        stack = self._stack_of(worker)
        table = memoryview(worker.table).cast("B")
        blamed = at_fault(table, stack, self._settings.pipelines_dir.absolute())
        guilty = self._deaths.add(blamed, blamed & at_work(table, LOADING))
        is_early = time.monotonic() - worker.since < _STABLE_S
        worker.early_deaths = worker.early_deaths + 1 if is_early and not guilty else 0
        pause_s = (
            min(_FIRST_PAUSE_S * 2 ** (worker.early_deaths - 2), _LONGEST_PAUSE_S) if worker.early_deaths > 1 else 0
        )
        worker.replace_at = time.monotonic() + pause_s
        log.error(
            "Worker {} ended {}, while code of {} ran; it is replaced in {:g} s{}",
            worker.process.pid,
            how,
            ", ".join(sorted({name for name, _ in blamed})) or "no deployment",
            pause_s,
            f"\n{stack}" if stack else "",
        )
        for name, fingerprint in guilty:
            deaths = self._deaths.verdicts.quarantined[name, fingerprint]
            log.error("{} {} ended the process {} times: it is not loaded again", name, fingerprint[:12], deaths)

    def _stack_of(self, worker: _Worker) -> str:
        """Read the stack that *worker* has left, and remove it."""
        file = self._directory / f"{_STACK}{worker.process.pid}"
        try:
            stack = file.read_text(errors="backslashreplace")
            file.unlink()
        except OSError:  # a cleaner has removed it
            return ""
        return stack[:_MAX_STACK].rstrip()

    def _renew(self) -> None:
        """Replace each worker by a new one, which serves before the old one stops, and forget past deaths."""
        self._deaths = Deaths()
        for index, old in enumerate(self._workers):
            new = self._try_start(index)
            if new is None:
                return
            end = time.monotonic() + _START_S
            while not new.has_started and time.monotonic() < end and new.process.is_alive() and not self._stopping:
                time.sleep(_LOOK_S / 5)
                new.ask(self._verdicts(index))
            if not new.has_started:
                self._stop([new])
                if not self._stopping:
                    log.error("A new worker did not start within {:g} s: the others stay", _START_S)
                return
            self._workers[index] = new
            self._stop([old])

    def _stop(self, workers: list[_Worker]) -> None:
        for worker in workers:
            worker.terminate()
        until = time.monotonic() + self._settings.graceful_shutdown_timeout + _KILL_AFTER_S
        for worker in workers:
            if worker.replace_at is None:
                worker.join(until)
