"""Start ``hayhooks`` for 0.1 s of a processor, where a new interpreter and its imports take 0.5 s.

A *fork server*, one for each process that runs tests, has imported what ``hayhooks run`` and ``dev`` import, and
nothing else: not Haystack, no wrapper. For each start it forks a child, which runs the script ``hayhooks`` with its own
arguments, environment, directory, standard streams, session and terminal. That is a process as any other, with real
signals, ports and an exit status; ``popen`` gives a ``subprocess.Popen`` of it.

It differs from a new interpreter in its parent, in the name that ``ps`` shows, and in that all is imported already: a
test of these starts ``HAYHOOKS`` with ``subprocess``, or with ``started(..., forks=False)``.
"""

import atexit
import fcntl
import gc
import io
import json
import multiprocessing.process
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
from functools import cache
from pathlib import Path
from typing import Any

HAYHOOKS = str(Path(sys.executable).with_name("hayhooks"))

# Read at a start of the interpreter or at an import: with other values than the fork server's it must be a new process.
_READ_AT_START = re.compile("PYTHON|COVERAGE_|HAYSTACK_|LOGURU_|LANG|LC_|LD_|TZ$")

_TERMINAL_AND_EXEC = (  # after setsid the terminal is to be the process's own, so that Ctrl+C reaches it
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def popen(command: list[str], *, env: dict[str, str], terminal: bool = False, **options: Any) -> subprocess.Popen[Any]:
    """Start *command*, forking if that is ``hayhooks``; *terminal*: standard input becomes its controlling terminal."""
    can_fork = hasattr(os, "pidfd_open") and not any(name.startswith("COVERAGE_") for name in env)
    if can_fork and command[0] == HAYHOOKS and _read_at_start(env) == _fork_server()[1]:
        return _Fork(command, env=env, terminal=terminal, **options)
    if terminal:
        command = [sys.executable, "-c", _TERMINAL_AND_EXEC, *command]
    return subprocess.Popen(command, env=env, **options)


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


class _Fork(subprocess.Popen[Any]):
    """A child of the fork server, which tells through a pipe its process id, and at its end its status."""

    def __init__(self, command: list[str], *, terminal: bool, **options: Any) -> None:
        self._terminal = terminal
        super().__init__(command, **options)

    def _execute_child(  # in place of fork and exec
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        stdin, p2cwrite, c2pread, stdout, errread, stderr, restore_signals, gid, gids, uid, umask, session, group,
    ):  # fmt: skip
        assert not any((preexec_fn, pass_fds, shell)), "the fork server knows nothing of these"
        self._status, status = os.pipe()
        start = {"arguments": args, "directory": str(cwd), "environment": env, "session": session}
        streams = [number if stream == -1 else stream for number, stream in enumerate((stdin, stdout, stderr))]
        message = json.dumps({**start, "terminal": self._terminal}).encode()
        socket.send_fds(_fork_server()[0], [message], [*streams, status])
        os.close(status)
        self._close_pipe_fds(stdin, p2cwrite, c2pread, stdout, errread, stderr)  # type: ignore[attr-defined]
        self.pid = int.from_bytes(os.read(self._status, 8))
        self._child_created = True

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        super()._internal_poll(_deadstate, _waitpid=lambda _, flags: self._try_wait(flags))  # type: ignore[misc]
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        poll = select.poll()
        poll.register(self._status)
        if not poll.poll(0 if flags & os.WNOHANG else None):
            return 0, 0
        status = os.read(self._status, 8)
        os.close(self._status)
        return self.pid, int.from_bytes(status) if status else signal.SIGKILL  # with the fork server


def _serve(connection: socket.socket) -> None:
    """Fork a child for each message, and tell its end, until the tests are over; in a child run ``hayhooks``."""
    children: dict[int, tuple[int, int]] = {}  # by descriptor of the process: its id, and the pipe for its status
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != connection.fileno():
                pid, pipe = children.pop(descriptor)
                poll.unregister(descriptor)
                os.close(descriptor)
                os.write(pipe, os.waitpid(pid, 0)[1].to_bytes(8))
                os.close(pipe)
                continue
            message, descriptors, *_ = socket.recv_fds(connection, 1_000_000, 4)
            if not message:
                return None
            if (pid := os.fork()) == 0:
                connection.detach()  # closed with all others
                return _run(descriptors, json.loads(message))
            *streams, pipe = descriptors
            for stream in streams:
                os.close(stream)
            os.write(pipe, pid.to_bytes(8))
            child = os.pidfd_open(pid)
            children[child] = (pid, pipe)
            poll.register(child, select.POLLIN)


def _run(descriptors: list[int], start: dict[str, Any]) -> None:
    """Be what ``subprocess`` would have started."""
    if start["session"]:
        os.setsid()
    for number, name, mode in ((0, "stdin", "rb"), (1, "stdout", "wb"), (2, "stderr", "wb")):
        os.dup2(descriptors[number], number)
        old = getattr(sys, name)
        at_once = old.write_through  # PYTHONUNBUFFERED
        file = open(number, mode, 0 if at_once else -1, closefd=False)  # noqa: SIM115
        by_lines = not at_once and (file.isatty() or name == "stderr")
        new = io.TextIOWrapper(file, old.encoding, old.errors, line_buffering=by_lines, write_through=at_once)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if start["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(start["directory"])
    os.environ.clear()
    os.environ.update(start["environment"])
    tempfile.tempdir = None  # it may have been asked for: TMPDIR
    multiprocessing.process.ORIGINAL_DIR = start["directory"]  # type: ignore[attr-defined]  # where spawned workers begin
    sys.argv = start["arguments"]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    sys.path[0] = str(Path(HAYHOOKS).parent)  # as the script has it
    from hayhooks.server.process import permanent_imports

    with permanent_imports():
        import hayhooks.cli.dev
        import hayhooks.cli.run
        import hayhooks.cli.try_requests  # noqa: F401
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
