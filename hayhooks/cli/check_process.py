"""The process in which ``hayhooks pipeline check`` loads a wrapper.

Its arguments are NAME PATH OUT LIFELINE: the finding is written as JSON to the descriptor *OUT*. The process ends when
its parent, which holds the other end of *LIFELINE*, has ended.
"""

import asyncio
import json
import logging
import os
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from hayhooks.endpoints import BUILTIN
from hayhooks.http.dispatch import build_deployment_routes, reserved_names
from hayhooks.http.types import HTTP_TYPES
from hayhooks.kernel.load import load, unload
from hayhooks.kernel.options import KernelOptions
from hayhooks.kernel.phases import Phases
from hayhooks.kernel.process_hooks import ProcessHooks
from hayhooks.kernel.scan import Scanner
from hayhooks.kernel.state import Deployment, Failure, Revision
from hayhooks.kernel.threads import run_on
from hayhooks.observability.log import configure_logging, log
from hayhooks.openai.models import is_model
from hayhooks.settings import Settings, export_env_file

_UNCHANGED_TIMEOUT_S = 10.0  # for the folder to be unchanged for the debounce time


def main() -> None:
    """Load, write the finding, unload, and end the process with its threads."""
    name, path, out, lifeline = sys.argv[1:]

    def end_with_parent() -> None:
        os.read(int(lifeline), 1)  # returns when the parent has ended
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    warned: list[str] = []
    settings = Settings()
    export_env_file()
    configure_logging("WARNING")
    logging.captureWarnings(True)
    warnings.simplefilter("default", DeprecationWarning)
    log.add(lambda entry: warned.append(entry.record["message"]), level="WARNING", format="{message}")
    loop = asyncio.new_event_loop()  # stands for the serving loop
    threading.Thread(target=loop.run_forever, daemon=True).start()
    on_loop, phases = partial(run_on, loop), Phases()
    ProcessHooks(settings.python_path).install()
    outcome = load(
        _revision(name, Path(path), settings),
        options=KernelOptions(threads=settings.threads, check_s=settings.check_timeout),
        transport=HTTP_TYPES,
        build_routes=partial(build_deployment_routes, plug_ins=BUILTIN),
        on_loop=on_loop,
        phases=phases,
    )
    with open(int(out), "w", encoding="utf-8") as file:
        file.write(json.dumps({**_finding(outcome), "warnings": warned}) + "\n")
    if isinstance(outcome, Deployment):
        unload(outcome, on_loop, phases)
    sys.stdout.flush()
    os._exit(0)


def _revision(name: str, path: Path, settings: Settings) -> Revision:
    scanner = Scanner(
        path.parent,
        reserved=reserved_names(BUILTIN),
        python_path=settings.python_path,
        debounce_s=settings.debounce_ms / 1000,
        removal_grace_s=0.0,
    )
    end = time.monotonic() + _UNCHANGED_TIMEOUT_S
    while time.monotonic() < end:
        revision = scanner.read_one(name, path, time.monotonic())
        if revision is not None:
            return revision
        time.sleep(0.01)
    return Revision(name, path, "0" * 32, problem=f"{path} is not a wrapper's folder, or keeps changing")


def _finding(outcome: Deployment | Failure) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        place = outcome.place and {
            "file": outcome.place.file,
            "line": outcome.place.line,
            "source": outcome.place.source,
        }
        return {
            "ok": False,
            "name": outcome.revision.name,
            "reason": outcome.reason,
            "causes": outcome.causes,
            "place": place,
            "hint": outcome.hint,
            "traceback": outcome.traceback,
        }
    return {
        "ok": True,
        "name": outcome.name,
        "revision": outcome.revision.id,
        "description": outcome.description,
        "operations": list(outcome.operations),
        "endpoints": list(outcome.endpoints.paths),
        "models": [outcome.name] if is_model(outcome) else [],
        "load_ms": round(outcome.load_ms, 1),
    }
