"""Environments of their own for clients that cannot live beside ours, kept on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "hayhooks-tests"


def ran(*command: str | Path, cwd: Path | None = None) -> str:
    """The output of a command that succeeds."""
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=cwd)
    assert found.returncode == 0, found.stderr
    return found.stdout


def install(*command: str | Path, cwd: Path) -> None:
    """Run the installation in *cwd*, once on this machine; skip the test where there is no registry."""
    if (cwd / "complete").exists():
        return
    cwd.mkdir(parents=True, exist_ok=True)
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=cwd)
    if found.returncode:
        pytest.skip(f"not installable here: {found.stderr[-200:]}")
    (cwd / "complete").touch()


def python_with(requirement: str) -> Path:
    """The interpreter of an environment of its own."""
    folder = CACHE / f"{requirement}-py{sys.version_info.minor}"
    python = folder / "venv/bin/python"
    if not python.exists():
        ran(sys.executable, "-m", "venv", folder / "venv")
    install(python, "-m", "pip", "install", "--quiet", requirement, cwd=folder)
    return python
