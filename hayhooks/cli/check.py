"""``hayhooks pipeline check``: load a wrapper in a process of its own, and tell what would be served."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hayhooks.cli.output import note, progress, say, say_deployment, say_json
from hayhooks.settings import Settings

_MAIN = "from hayhooks.cli.check_process import main; main()"
_LETTING_GO_S = 5.0  # that a teardown gets
_STEP_S = 0.1  # between two looks at the process

Finding = dict[str, Any]


def check(settings: Settings, path: Path, *, name: str, timeout_s: float, as_json: bool) -> int:
    """Print what the folder or YAML file *path* would serve as *name*; 1 if it would not load."""
    with progress(f"Loading {path.name}"):
        finding = find(settings, path, name=name, timeout_s=timeout_s)
    if as_json:
        say_json(finding)
    else:
        show(finding)
    return 0 if finding["ok"] else 1


def show(finding: Finding) -> None:
    """Print a finding for people."""
    if finding["ok"]:
        say_deployment(True, finding["name"], f"{finding['revision']}  in {finding['load_ms']:.0f} ms")
        rows = {
            "description": finding["description"].partition("\n")[0],
            "operations": ", ".join(finding["operations"]),
            "endpoints": ", ".join(finding["endpoints"]),
            "models": ", ".join(finding["models"]) or "none",
        }
        for label, value in rows.items():
            if value:
                say((f"  {label:<12}", "dim"), value)
    else:
        show_failure(finding)
    for warning in finding["warnings"]:
        say((f"  warning: {' '.join(warning.split())}", "yellow"))


def show_failure(finding: Finding) -> None:
    """Print why something would not load, where, and what would help."""
    say_deployment(False, finding["name"], "")
    say((f"  {finding['reason']}", "red"))
    if place := finding["place"]:
        say((f"  {place['file']}:{place['line']}: {place['source']}".rstrip(": "), "bold"))
    if finding["hint"]:
        say((f"  hint: {finding['hint']}", "cyan"))


def find(settings: Settings, path: Path, *, name: str, timeout_s: float) -> Finding:
    """Load *path* as the deployment *name* in a process of its own, and return what came of it.

    Returns:
        ``ok``, ``name`` and ``warnings``; of what loads ``revision``, ``description``, ``operations``, ``endpoints``,
        ``models`` and ``load_ms``; of what does not ``reason``, ``place`` (``file``, ``line``, ``source``, or None),
        ``hint`` and ``traceback``.
    """
    reader, writer = os.pipe()
    life, ours = os.pipe()
    # -P: nothing in the working directory is imported in place of what is installed, as in the server.
    arguments = [sys.executable, "-P", "-c", _MAIN, name, str(path.absolute()), str(writer), str(life)]
    process = subprocess.Popen(  # noqa: S603 - ourselves
        arguments,
        env={**os.environ, **settings.environment()},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,  # what the wrapper prints is not our result
        pass_fds=(writer, life),
        start_new_session=True,  # so that it can be ended with all that it has started
    )
    os.close(writer)
    os.close(life)
    try:
        told = _read(process, reader, timeout_s)
        if told:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LETTING_GO_S)
            return dict(json.loads(told))
        return _failed(name, _ending(process, timeout_s, is_late=told is None))
    finally:
        os.close(ours)
        os.close(reader)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(process: "subprocess.Popen[bytes]", descriptor: int, timeout_s: float) -> bytes | None:
    """The line that is written to *descriptor*; empty if *process* ends without, None if it does not come in time."""
    told = b""
    end = time.monotonic() + timeout_s
    while not told.endswith(b"\n"):
        has_ended = process.poll() is not None  # looked at before reading: what it wrote last is read all the same
        if select.select([descriptor], [], [], _STEP_S)[0]:
            part = os.read(descriptor, 65536)
            if not part:
                return b""
            told += part
        elif has_ended:  # what it has started may hold the descriptor open
            return b""
        elif time.monotonic() > end:
            return None
    return told


def _ending(process: "subprocess.Popen[bytes]", timeout_s: float, *, is_late: bool) -> str:
    """Why there is no finding."""
    if is_late:
        return f"it was not loaded after {timeout_s:g} s (--timeout)"
    status = process.wait()
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
    return f"the process that loaded it ended {how}: the server would have ended too"


def _failed(name: str, reason: str) -> Finding:
    return {
        "ok": False,
        "name": name,
        "reason": reason,
        "place": None,
        "hint": "",
        "traceback": "",
        "warnings": [],
    }


def warn(lines: Sequence[str]) -> None:
    """Print warnings, to standard error."""
    for line in lines:
        note((f"warning: {line}", "yellow"))
