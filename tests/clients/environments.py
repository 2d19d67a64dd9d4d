"""Environments of their own for clients that cannot live beside ours, kept on this machine."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live_server import replace

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "hayhooks-tests"


def ran(*command: str | Path, cwd: Path | None = None) -> str:
    """The output of a command that succeeds."""
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd)
    assert found.returncode == 0, found.stderr
    return found.stdout


@contextmanager
def _to_itself(folder: Path) -> Iterator[None]:
    """Let one process at a time make *folder*: the tests of two may need it at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(command: list[str | Path], cwd: Path, *, required: bool = False) -> None:
    """Run the installation in *cwd*; skip the test where there is no registry, unless it is *required*."""
    found = subprocess.run(command, capture_output=True, text=True, check=required, timeout=300, cwd=cwd)
    if found.returncode:
        pytest.skip(f"not installable here: {found.stderr[-200:]}")
    (cwd / "complete").touch()


def python_with(requirement: str) -> Path:
    """The interpreter of an environment of its own.

    Our pip installs into it, and compiles nothing: for each to have its own, and for all that no test imports, took
    half of the time.
    """
    folder = CACHE / f"{requirement}-py{sys.version_info.minor}"
    python = folder / "venv/bin/python"
    with _to_itself(folder):
        if not (folder / "complete").exists():
            ran(sys.executable, "-m", "venv", "--clear", "--without-pip", folder / "venv")
            pip: list[str | Path] = [
                sys.executable,
                "-m",
                "pip",
                "--python",
                python,
                "install",
                "--quiet",
                "--no-compile",
            ]
            _install([*pip, requirement], folder)
    return python


def npm_with(source: Path, *, required: bool = False) -> Path:
    """A folder with the script of *source*, and the packages that its ``package.json`` names."""
    if shutil.which("npm") is None:
        pytest.skip("no Node here")
    wanted = (source / "package.json").read_bytes()
    folder = CACHE / f"{source.name}-{hashlib.sha256(wanted).hexdigest()[:12]}"
    with _to_itself(folder):
        if not (folder / "complete").exists():
            folder.mkdir(parents=True, exist_ok=True)
            replace(folder / "package.json", wanted.decode())
            command: list[str | Path] = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefer-offline"]
            _install(command, folder, required=required)
        replace(folder / "check.mjs", (source / "check.mjs").read_text())
    return folder
