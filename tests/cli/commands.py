"""Call the command line in this process: what a command does, without the start of an interpreter.

What needs a process of its own (signals, limits, several at a time, what is imported) uses ``tests.cli.processes``.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from unittest.mock import patch

from hayhooks.cli import main
from tests.cli.processes import environment
from tests.fork_server import CHECK, popen

_POPEN = subprocess.Popen


def hayhooks(*arguments: str | Path, cwd: Path, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; an exception that would be a traceback fails the test."""
    command = [str(argument) for argument in arguments]
    with (
        TemporaryFile("w+", encoding="utf-8") as out,
        TemporaryFile("w+", encoding="utf-8") as err,
        _standard_input(stdin),
        _surroundings(cwd, environment(**settings)),
        patch("subprocess.Popen", _popen),
    ):
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main(command, prog_name="hayhooks")
            except SystemExit as exit_:
                status = exit_.code or 0
        for file in (out, err):
            file.seek(0)
        assert isinstance(status, int)
        return subprocess.CompletedProcess(command, status, out.read(), err.read())


def pipeline(*arguments: str | Path, cwd: Path, port: str = "1", **settings: str) -> subprocess.CompletedProcess[str]:
    """A command on the directory, asking a server at *port*; where none is meant nobody listens."""
    return hayhooks("pipeline", *arguments, cwd=cwd, PORT=port, **settings)


def _popen(command: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Fork the process of a check; one of a new interpreter is that of a command that is a process itself."""
    if command[:3] != CHECK:
        return _POPEN(command, **options)
    return popen(command, **{"cwd": os.getcwd(), **options})


@contextmanager
def _standard_input(text: str) -> Iterator[None]:
    """Let *text* be what comes through the pipe."""
    before, sys.stdin = sys.stdin, StringIO(text)
    try:
        yield
    finally:
        sys.stdin = before


@contextmanager
def _surroundings(cwd: Path, variables: dict[str, str]) -> Iterator[None]:
    """Be in the directory *cwd*, with the environment *variables*."""
    directory, before = Path.cwd(), dict(os.environ)
    os.chdir(cwd)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.chdir(directory)
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
