"""Follow what the running server makes of a change of the directory."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hayhooks.cli.client import NoAnswerError, Server, Unreachable, differing_workers
from hayhooks.cli.output import CommandError, note, progress, say, say_deployment

_STEP_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DeployResult:
    """What the server has made of what lies under one name."""

    state: dict[str, Any]
    serves: bool  # what lies there is what serves, in every worker


def follow(server: Server, path: Path, name: str, timeout_s: float, stands: Callable[[], bool]) -> DeployResult:
    """Wait until the server has loaded what lies at *path*, or has failed to.

    Args:
        server: one that serves the directory which *path* lies in.
        path: the folder or file, or a link to it.
        name: the deployment's.
        timeout_s: how long to wait.
        stands: whether it is still the change of this command that lies there.

    Raises:
        CannotError: the server has said neither in time or has gone, or somebody else has replaced what lay there.
    """
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)

    def told() -> DeployResult | None:
        if not stands():
            raise CommandError(f"{path} has been replaced by somebody else meanwhile: ask `hayhooks status`")
        state = server.state(name)
        return None if state is None else _outcome(server, state, identity)

    return _wait(told, f"Waiting for the server to load {name}", timeout_s, f"has not loaded {name}")


def _outcome(server: Server, state: dict[str, Any], identity: tuple[int, int]) -> DeployResult | None:
    """What has become of what has *identity*; None while the server has not seen it, or has not loaded it."""
    found = state["found"]
    if found is None or (found["device"], found["inode"]) not in (identity, (0, 0)):
        return None
    if state["failed_revision"] == found["revision"]:
        return DeployResult(state, serves=False)
    if (
        state["revision"] == found["revision"]
        and state["state"] == "serving"
        and not differing_workers(server.status())
    ):
        return DeployResult(state, serves=True)
    return None


def until_gone(server: Server, name: str, timeout_s: float) -> str:
    """Wait until no request can reach *name*, and then until those that it has are answered.

    Returns:
        What the server still waits for, "" if nothing.

    Raises:
        CannotError: it still serves it after *timeout_s*, or has gone.
    """
    end = time.monotonic() + timeout_s

    def is_gone() -> bool:
        body = server.status()
        return all(entry["name"] != name for entry in body["deployments"]) and not differing_workers(body)

    def is_over() -> bool:
        return not _draining(server, name)

    _wait(is_gone, f"Waiting for the server to let go of {name}", timeout_s, f"still serves {name}")
    try:
        _wait(is_over, f"Waiting for what {name} still answers", max(end - time.monotonic(), 0), "")
    except CommandError:
        return _draining(server, name)
    return ""


def _draining(server: Server, name: str) -> str:
    """What retired deployments of *name* wait for, as ``/status`` tells it."""
    waiting = [retired["why"] for retired in server.status()["retired"] if retired["name"] == name]
    return "; ".join(why for why in waiting if not why.startswith("still referred to"))


def show(outcome: DeployResult, name: str) -> None:
    """Print what has become of it, as ``hayhooks dev`` does."""
    state = outcome.state
    if outcome.serves:
        endpoints = "  ".join(f"POST {path}" for path in state["endpoints"])
        say_deployment(True, name, f"{state['revision']}  {endpoints}")
        return
    say_deployment(False, name, state["failed_revision"])
    for line in str(state["error"]).partition("\n\n")[0].splitlines():  # the rest is the traceback
        say((f"  {line}", "cyan" if line.startswith("hint: ") else "red"))
    if state["revision"]:
        say((f"  revision {state['revision']} keeps serving", "yellow"))


def _wait(told: Callable[[], T | None], what: str, timeout_s: float, failing: str) -> T:
    end = time.monotonic() + timeout_s
    with progress(what):
        while True:
            try:
                if found := told():
                    return found
            except NoAnswerError as error:
                raise CommandError(f"the server has gone while it was waited for: {error}") from None
            if time.monotonic() > end:
                raise CommandError(
                    f"the server {failing} after {timeout_s:g} s: ask `hayhooks status`, or wait longer (--timeout)"
                )
            time.sleep(_STEP_S)


def tell_no_server(absence: Unreachable) -> None:
    """Say what comes of a change that nobody can be asked about."""
    note((absence.why, "yellow"))
    if absence.is_locked:
        say("What the server there makes of it could not be asked.")
    else:
        say("It will be served at the next start.")
