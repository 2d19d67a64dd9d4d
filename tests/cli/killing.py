"""Run a command again and again, and kill it with SIGKILL one step later each time; say what it leaves behind.

``main`` takes the JSON of a ``Spec`` as its argument; a line of JSON comes out for each kill. A step is a
call that Python audits and that may change files, folders or locks, and each line of the functions whose calls it does
not see: between two of these the directory stays as it is.

It is a process of its own, for it forks: that is only safe in one without threads.
"""

import ctypes
import gc
import itertools
import json
import os
import platform
import re
import shutil
import signal
import struct
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

import click

import hayhooks.cli.new  # noqa: F401 - before the forks
from hayhooks.cli import main as command_line
from hayhooks.cli.deploy import usable_name
from tests.fork_server import run_code

UNSEEN = "hayhooks/cli/atomic.py"
SYNCS = ("sync", "sync_tree")  # functions of that module which change nothing that a process can see
CALLS = ("open", "os.", "fcntl.")
READS = ("os.scandir", "os.listdir", "os.walk", "os.listxattr", "os.getxattr", "os.chdir", "os.putenv", "os.unsetenv")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass
class Spec:
    """What to run, and what on."""

    command: list[str]
    root: str  # the pipelines directory
    before: str  # a directory that it is made like before each run
    in_place: bool = False  # only its entries are made so, not it itself: a server watches it
    settings: dict[str, str] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)  # in which steps are counted; all if empty
    without_exchange: bool = False  # as on a file system that cannot exchange two names


def killed(spec: Spec, cwd: Path) -> list[dict[str, Any]]:
    """What each kill has left, and at the end what there is when it was not killed."""
    done = run_code(
        "from tests.cli.killing import main; main()",
        json.dumps(asdict(spec)),
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "TMPDIR": str(cwd)},
        imports=("tests.cli.killing",),
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def contents(directory: Path) -> dict[str, str]:
    """What lies below *directory*: files with their text, links with what they lead to, folders."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(directory))] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[str(path.relative_to(directory))] = path.read_bytes().decode("latin-1")
        else:
            found[str(path.relative_to(directory))] = "folder"
    return found


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    os.environ.update({f"HAYHOOKS_{name}": value for name, value in spec.settings.items()})
    os.environ["HAYHOOKS_PIPELINES_DIR"] = spec.root
    # Once here, so that no child needs to import, and to fill the caches of libraries, again.
    usable_name("imports-what-it-needs")
    for command in (["pipeline", "undeploy", "no-such-name"], spec.command):
        reset(spec)
        with suppress(click.ClickException, SystemExit), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            command_line(command, standalone_mode=False)
    if spec.without_exchange:
        forbid_renameat2()
    gc.freeze()  # or each child would look through, and so copy, all that was imported
    after: dict[str, dict[str, str]] = {}  # what the next command leaves, by what it finds
    for step in itertools.count(1):
        reset(spec)
        status = run(spec.command, Killer(step, spec.functions))
        left = contents(Path(spec.root))
        found = re.sub(r"\.hayhooks-\w+", ".hayhooks-x", json.dumps(left))
        if found not in after:
            run(["pipeline", "undeploy", "no-such-name"])
            after[found] = contents(Path(spec.root))
        told = {"step": step, "left": left, "next": after[found], "status": status}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        if status is not None:
            return


def run(command: list[str], killer: "Killer | None" = None) -> int | None:
    """The exit status of *command*; None if it was killed."""
    if (child := os.fork()) == 0:
        sink = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(sink, descriptor)
        if killer is not None:
            sys.addaudithook(killer.hear)
        try:
            command_line(command, prog_name="hayhooks")
        except SystemExit as exit_:
            os._exit(int(exit_.code or 0))  # to tear the interpreter down takes longer than the command
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def reset(spec: Spec) -> None:
    root = Path(spec.root)
    if not spec.in_place:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(spec.before, root, symlinks=True)
        return
    for entry in Path(spec.before).iterdir():
        with tempfile.TemporaryDirectory(dir=root, prefix=".reset-") as aside:
            copy = Path(aside) / "new"
            shutil.copytree(entry, copy, symlinks=True) if entry.is_dir() else shutil.copyfile(entry, copy)
            if (root / entry.name).exists():
                (root / entry.name).rename(Path(aside) / "old")
            copy.rename(root / entry.name)


class Killer:
    """Kills this process at the n-th step."""

    def __init__(self, steps: int, functions: list[str]) -> None:
        self.steps = steps
        self.functions = functions

    def hear(self, event: str, arguments: Any) -> None:
        if event == "fcntl.flock":  # before anything is moved; tracing from the beginning would take twice the time
            sys.settrace(self.trace)
        if event.startswith(CALLS) and event not in READS and not (event == "open" and not arguments[2] & WRITING):
            self.step(sys._getframe(1))

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        return self.line if code.co_filename.endswith(UNSEEN) and code.co_name not in SYNCS else None

    def line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.step(frame)
        return self.line

    def step(self, frame: FrameType | None) -> None:
        while self.functions and frame is not None and frame.f_code.co_name not in self.functions:
            frame = frame.f_back
        if frame is not None:
            self.steps -= 1
            if self.steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def forbid_renameat2() -> None:
    """Have the kernel answer renameat2 with EINVAL, as file systems do that cannot exchange names (seccomp)."""
    number = {"x86_64": 316, "aarch64": 276}[platform.machine()]
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the system call's number
            (0x15, 0, 3, number),  # another: allow
            (0x20, 0, 0, 48),  # load its fifth argument, the flags
            (0x15, 1, 0, 0),  # none: a plain rename, allow
            (0x06, 0, 0, 0x00050000 | 22),  # EINVAL
            (0x06, 0, 0, 0x7FFF0000),  # allow
        )
    )
    code = ctypes.create_string_buffer(program)
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    assert libc.prctl(22, 2, ctypes.create_string_buffer(head), 0, 0) == 0, os.strerror(ctypes.get_errno())
