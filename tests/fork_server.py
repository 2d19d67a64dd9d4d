"""Start ``hayhooks`` for 0.1 s of a processor, where a new interpreter and its imports take 0.5 s.

A *fork server*, one for each process that runs tests, has imported what ``hayhooks run`` and ``dev`` import, and
nothing else: not Haystack, no wrapper. For each start it forks a child, which runs the script ``hayhooks`` with its own
arguments, environment, directory, standard streams, session and terminal. That is a process as any other, with real
signals, ports and an exit status; ``popen`` gives a ``subprocess.Popen`` of it.

Tests that start many servers whose wrappers import the same large packages name those as *imports*: another fork
server, itself a fork of the first, has imported them too.

It differs from a new interpreter in its parent, in the name that ``ps`` shows, and in that all is imported already: a
test of these starts ``HAYHOOKS`` with ``subprocess``, or with ``started(..., forks=False)``.
"""

import atexit
import fcntl
import gc
import importlib
import io
import json
import multiprocessing.popen_spawn_posix
import multiprocessing.process
import multiprocessing.util
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

HAYHOOKS = str(Path(sys.executable).with_name("hayhooks"))
CHECK = [sys.executable, "-P", "-c"]  # how ``hayhooks.cli.check`` starts the process that loads a wrapper

# Read at a start of the interpreter or at an import: with other values than the fork server's it must be a new process.
_READ_AT_START = re.compile("PYTHON|COVERAGE_|HAYSTACK_|LOGURU_|LANG|LC_|LD_|TZ$")

_TERMINAL_AND_EXEC = (  # after setsid the terminal is to be the process's own, so that Ctrl+C reaches it
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def popen(
    command: list[str], *, env: dict[str, str], terminal: bool = False, imports: tuple[str, ...] = (), **options: Any
) -> subprocess.Popen[Any]:
    """Start *command*, forking if that is ``hayhooks``, which has then imported *imports* already.

    With *terminal* standard input becomes its controlling terminal.
    """
    can_fork = hasattr(os, "pidfd_open") and not any(name.startswith("COVERAGE_") for name in env)
    is_ours = command[0] == HAYHOOKS or command[:3] == CHECK
    if can_fork and is_ours and _read_at_start(env) == _fork_server()[1]:
        server = _with_imports(imports) if imports else _fork_server()[0]
        return _Fork(server, command, env=env, terminal=terminal, **options)
    if terminal:
        command = [sys.executable, "-c", _TERMINAL_AND_EXEC, *command]
    return subprocess.Popen(command, env=env, **options)


def run_code(
    code: str, *arguments: str, cwd: Path, env: Mapping[str, str], imports: tuple[str, ...], timeout_s: float = 170
) -> subprocess.CompletedProcess[str]:
    """Run *code*, as ``python -c`` does, in a process that has imported *imports* already."""
    command, pipe = [*CHECK, code, *arguments], subprocess.PIPE
    with popen(command, cwd=cwd, env=dict(env), imports=imports, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            output, errors = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if _READ_AT_START.match(name)}


@cache
def _fork_server() -> tuple[socket.socket, dict[str, str]]:
    """Start it; return the connection to it, whose end ends it, and which variables it was started with."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, __file__, str(theirs.fileno())]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours, _read_at_start(os.environ)


@cache
def _with_imports(names: tuple[str, ...]) -> socket.socket:
    """Let the fork server fork one that imports *names* too; return the connection to that."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel, other_end = socket.socketpair()
    with theirs, other_end:
        message = json.dumps({"imports": names}).encode()
        socket.send_fds(_fork_server()[0], [message], [theirs.fileno(), other_end.fileno()])
    channel.recv(8)  # its process id
    atexit.register(channel.close)
    atexit.register(ours.close)
    return ours


class _Fork(subprocess.Popen[Any]):
    """A child of a fork server, which tells its process id, and when asked its status: it is a zombie until then."""

    def __init__(self, server: socket.socket, command: list[str], *, terminal: bool = False, **options: Any) -> None:
        self._server, self._terminal = server, terminal
        super().__init__(command, **options)

    def _execute_child(  # in place of fork and exec
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        stdin, p2cwrite, c2pread, stdout, errread, stderr, restore_signals, gid, gids, uid, umask, session, group,
    ):  # fmt: skip
        assert not (preexec_fn or shell), "the fork server knows nothing of these"  # noqa: PT018
        self._channel, theirs = socket.socketpair()
        start = {"arguments": args, "directory": str(cwd), "environment": env, "session": session}
        message = json.dumps({**start, "terminal": self._terminal, "files": [0, 1, 2, *pass_fds]}).encode()
        streams = [number if stream == -1 else stream for number, stream in enumerate((stdin, stdout, stderr))]
        socket.send_fds(self._server, [message], [*streams, *pass_fds, theirs.fileno()])
        theirs.close()
        self._close_pipe_fds(stdin, p2cwrite, c2pread, stdout, errread, stderr)  # type: ignore[attr-defined]
        self.pid = int.from_bytes(self._channel.recv(8))
        self._end = os.pidfd_open(self.pid)
        self._child_created = True

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid == self.pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        poll = select.poll()
        poll.register(self._end)
        if not poll.poll(0 if flags & os.WNOHANG else None):
            return 0, 0
        os.close(self._end)
        with self._channel, suppress(ConnectionError):
            self._channel.send(b"?")
            if status := self._channel.recv(8):
                return self.pid, int.from_bytes(status)
        return self.pid, signal.SIGKILL  # the fork server is gone too


def _serve(connection: socket.socket) -> None:
    """Fork a child for each message, and tell its status when asked, until the other side is gone; run in a child."""
    children: dict[int, int] = {}  # process ids, by the channel of each
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != connection.fileno():
                is_asked = os.read(descriptor, 1)  # or nobody will
                status = os.waitpid(children.pop(descriptor), 0 if is_asked else os.WNOHANG)[1]
                if is_asked:
                    os.write(descriptor, status.to_bytes(8))
                poll.unregister(descriptor)
                os.close(descriptor)
                continue
            message, descriptors, *_ = socket.recv_fds(connection, 1_000_000, 64)
            if not message:
                return None
            *files, channel = descriptors
            if (pid := os.fork()) == 0:
                start = json.loads(message)
                if "imports" in start:
                    connection.close()
                    for other in (channel, *children):
                        os.close(other)
                    return _serve_with(start["imports"], socket.socket(fileno=files[0]))
                connection.detach()  # closed with all others
                return _run(files, start)
            for file in files:
                os.close(file)
            os.write(channel, pid.to_bytes(8))
            children[channel] = pid
            poll.register(channel, select.POLLIN)


def _serve_with(imports: list[str], connection: socket.socket) -> None:
    """Be another fork server."""
    gc.disable()
    for name in imports:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    _serve(connection)


def _run(files: list[int], start: dict[str, Any]) -> None:
    """Be what ``subprocess`` would have started."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if start["session"]:
        os.setsid()
    _take_files(files, start["files"])
    if start["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(start["directory"])
    os.environ.clear()
    os.environ.update(start["environment"])
    tempfile.tempdir = None  # it may have been asked for: TMPDIR
    multiprocessing.process.ORIGINAL_DIR = start["directory"]  # type: ignore[attr-defined]  # where spawned workers begin
    sys.argv = start["arguments"]
    if "-c" in sys.argv:  # a worker: what its parent ignores, or handles, it does not
        for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_DFL)
        sys.argv = sys.argv[sys.argv.index("-c") :]
        exec(sys.argv.pop(1), {"__name__": "__main__"})
        return
    if not {"-w", "--workers", "HAYHOOKS_WORKERS"}.isdisjoint([*sys.argv, *os.environ]):
        _fork_workers()
    runpy.run_path(sys.argv[0], run_name="__main__")


def _take_files(files: list[int], numbers: list[int]) -> None:
    """Give *files* the *numbers*, close all others, and make the standard streams of what 0, 1 and 2 are."""
    end = max(*numbers, *files) + 1
    for aside, number in zip([fcntl.fcntl(file, fcntl.F_DUPFD, end) for file in files], numbers, strict=True):
        os.dup2(aside, number)
    for number in set(range(end)) - set(numbers):
        with suppress(OSError):
            os.close(number)
    os.closerange(end, os.sysconf("SC_OPEN_MAX"))
    for number, name, mode in ((0, "stdin", "rb"), (1, "stdout", "wb"), (2, "stderr", "wb")):
        old = getattr(sys, name)
        at_once = old.write_through  # PYTHONUNBUFFERED
        file = open(number, mode, 0 if at_once else -1, closefd=False)  # noqa: SIM115
        by_lines = not at_once and (file.isatty() or name == "stderr")
        new = io.TextIOWrapper(file, old.encoding, old.errors, line_buffering=by_lines, write_through=at_once)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def _fork_workers() -> None:
    """Let the processes that ``multiprocessing`` will spawn be forked too, by a copy of this process as it is here."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # those to the process group are not for it
        _serve(theirs)
        sys.exit()
    theirs.close()
    spawn, workers = multiprocessing.util.spawnv_passfds, dict[int, _Fork]()

    def fork(path: Any, arguments: Any, files: Any) -> int:
        if "--multiprocessing-fork" not in arguments:
            return spawn(path, arguments, files)
        command = [os.fsdecode(argument) for argument in arguments]
        worker = _Fork(ours, command, pass_fds=files, cwd=os.getcwd(), env=dict(os.environ))
        workers[worker.pid] = worker
        return worker.pid

    def poll(self: Any, flag: int = os.WNOHANG) -> int | None:
        status = self.returncode = workers[self.pid].poll() if flag else workers[self.pid].wait()
        return status

    multiprocessing.util.spawnv_passfds = fork  # type: ignore[assignment]
    multiprocessing.popen_spawn_posix.Popen.poll = poll  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.path[0] = str(Path(HAYHOOKS).parent)  # as the script has it
    from hayhooks.server.process import permanent_imports

    with permanent_imports():
        import hayhooks.cli.dev
        import hayhooks.cli.run
        import hayhooks.cli.try_requests  # noqa: F401
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
