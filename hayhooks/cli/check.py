"""``hayhooks pipeline check``: load a wrapper in a separate process."""

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

from hayhooks.cli.options import refuse_long
from hayhooks.cli.output import note, progress, say, say_deployment, say_json
from hayhooks.settings import Settings

_MAIN = """
from hayhooks.server.process import permanent_imports
with permanent_imports():
    from hayhooks.cli.check_process import main
main()
"""
_TEARDOWN_TIMEOUT_S = 5.0
_POLL_S = 0.1

Finding = dict[str, Any]


def check(settings: Settings, path: Path, *, name: str, timeout_s: float, as_json: bool) -> int:
    """Print the result of loading *path* as *name*; return 1 if it does not load."""
    refuse_long(name)
    with progress(f"Loading {path.name}"):
        finding = check_in_process(settings, path, name=name, timeout_s=timeout_s)
    if as_json:
        say_json(finding)
    else:
        show(finding)
    return 0 if finding["ok"] else 1


def show(finding: Finding) -> None:
    """Print *finding* as text."""
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
    """Print the reason, the place and the hint of a failed load."""
    say_deployment(False, finding["name"], "")
    for line in (finding["reason"], *finding["causes"]):
        say((f"  {line}", "red"))
    if place := finding["place"]:
        say((f"  {place['file']}:{place['line']}: {place['source']}".rstrip(": "), "bold"))
    if finding["hint"]:
        say((f"  hint: {finding['hint']}", "cyan"))


def check_in_process(settings: Settings, path: Path, *, name: str, timeout_s: float) -> Finding:
    """Load *path* in a separate process; ``check_process`` lists the result's keys."""
    reader, writer = os.pipe()
    lifeline, our_end = os.pipe()
    # -P: as in the server, nothing in the working directory shadows installed packages.
    arguments = [sys.executable, "-P", "-c", _MAIN, name, str(path.absolute()), str(writer), str(lifeline)]
    process = subprocess.Popen(  # noqa: S603 - this program
        arguments,
        env={**os.environ, **settings.environment()},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,  # a wrapper's prints are not the result
        pass_fds=(writer, lifeline),
        start_new_session=True,  # so that its children can be killed with it
    )
    os.close(writer)
    os.close(lifeline)
    try:
        line = _read_line(process, reader, timeout_s)
        if line:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TEARDOWN_TIMEOUT_S)
            return dict(json.loads(line))
        if line is None:
            reason = f"the load was not complete after {timeout_s:g} s (--timeout)"
        else:
            status = process.wait()
            how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
            reason = f"the loading process ended {how}: the server would have ended too"
        failed = {"ok": False, "name": name, "reason": reason, "causes": []}
        return {**failed, "place": None, "hint": "", "traceback": "", "warnings": []}
    finally:
        os.close(our_end)
        os.close(reader)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read_line(process: "subprocess.Popen[bytes]", descriptor: int, timeout_s: float) -> bytes | None:
    """Read one line: empty if *process* ends without one, None after *timeout_s*."""
    line = b""
    end = time.monotonic() + timeout_s
    while not line.endswith(b"\n"):
        has_ended = process.poll() is not None  # asked before reading, so that its last output is read
        if select.select([descriptor], [], [], _POLL_S)[0]:
            part = os.read(descriptor, 65536)
            if not part:
                return b""
            line += part
        elif has_ended:  # its children may keep the descriptor open
            return b""
        elif time.monotonic() > end:
            return None
    return line


def warn(lines: Sequence[str]) -> None:
    """Print warnings, to standard error."""
    for line in lines:
        note((f"warning: {line}", "yellow"))
