"""Wait for the running server to load or release a deployment."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hayhooks.cli.client import NoAnswerError, Server, Unreachable, differing_workers
from hayhooks.cli.options import advice
from hayhooks.cli.output import CommandError, note, progress, say, say_deployment
from hayhooks.kernel.discovery import entry_identity
from hayhooks.setting_types import share_text

_STEP_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DeployResult:
    """The server's result for the files of one name."""

    state: dict[str, Any]  # the body of /status/{name}
    serves: bool  # every worker serves these files


def wait_until_loaded(
    server: Server, path: Path, name: str, timeout_s: float, is_current: Callable[[], bool]
) -> DeployResult:
    """Wait until the server has loaded the files at *path*, or has failed to.

    Raises:
        CommandError: timeout, the server has stopped, or *is_current* says that another process replaced the files.
    """
    identity = entry_identity(path)._asdict()

    def result() -> DeployResult | None:
        if not is_current():
            raise CommandError(f"{path} has been replaced by another process: ask `{advice('status')}`")
        state = server.state(name)
        found = state and state["found"]  # None until the server has seen the name, and read its files
        if not state or found is None or found != {"revision": found["revision"], **identity}:
            return None
        if state["failed_revision"] == found["revision"]:
            return DeployResult(state, serves=False)
        is_serving = state["state"] == "serving" and found["revision"] == (state["canary"] or state["revision"])
        return DeployResult(state, serves=True) if is_serving and not differing_workers(server.status()) else None

    return _wait(result, f"Waiting for the server to load {name}", timeout_s, f"has not loaded {name}")


def wait_until_canary_ended(server: Server, name: str, timeout_s: float) -> dict[str, Any]:
    """Wait until *name* has no canary in any worker; return the body of ``/status/{name}``."""

    def result() -> dict[str, Any] | None:
        state = server.state(name)
        return state if state and not state["canary"] and not differing_workers(server.status()) else None

    return _wait(result, f"Waiting for the server to end the canary of {name}", timeout_s, "has not ended it")


def wait_until_released(server: Server, name: str, timeout_s: float) -> str:
    """Wait until *name* is released; return its requests still in progress."""
    end = time.monotonic() + timeout_s

    def is_removed() -> bool:
        body = server.status()
        return all(entry["name"] != name for entry in body["deployments"]) and not differing_workers(body)

    _wait(is_removed, f"Waiting for the server to remove {name}", timeout_s, f"still serves {name}")
    try:
        _wait(
            lambda: not _draining(server, name),
            f"Waiting for the requests of {name}",
            max(end - time.monotonic(), 0),
            f"still answers requests of {name}",
        )
    except CommandError:
        return _draining(server, name)
    return ""


def show_result(result: DeployResult, name: str) -> None:
    """Print *result* in the form of ``hayhooks dev``."""
    state = result.state
    if result.serves:
        endpoints = "  ".join(f"POST {path}" for path in state["endpoints"])
        say_deployment(True, name, f"{state['canary'] or state['revision']}  {endpoints}")
        if state["canary"]:
            share = f"{share_text(state['canary_share'])} of the requests"
            others = f"revision {state['revision']} the others; see `{advice('status')}`."
            say((f"  As a canary it gets {share}, {others}", "yellow"))
            promote, abort = (advice(f"pipeline {command} {name}") for command in ("promote", "abort"))
            say((f"  `{promote}` gives it all requests at once, `{abort}` none.", "yellow"))
        return
    say_deployment(False, name, state["failed_revision"])
    for line in str(state["error"]).partition("\n\n")[0].splitlines():  # the rest is the traceback
        say((f"  {line}", "cyan" if line.startswith("hint: ") else "red"))
    if state["revision"]:
        say((f"  revision {state['revision']} keeps serving", "yellow"))


def say_unreachable(server: Unreachable) -> None:
    """Print why the server was not asked, and when it will serve the change."""
    note((server.why, "yellow"))
    if server.is_refused:
        say("The server could not be asked for the result.")
    else:
        say("It will be served at the next start.")


def _draining(server: Server, name: str) -> str:
    waiting = [retired["why"] for retired in server.status()["retired"] if retired["name"] == name]
    return "; ".join(why for why in waiting if not why.startswith("still referred to"))


def _wait(result: Callable[[], T | None], what: str, timeout_s: float, failing: str) -> T:
    end = time.monotonic() + timeout_s
    with progress(what):
        while True:
            try:
                if found := result():
                    return found
            except NoAnswerError as error:
                raise CommandError(f"The server stopped while the command waited for it: {error}") from None
            if time.monotonic() > end:
                raise CommandError(
                    f"The server {failing} after {timeout_s:g} s: ask `{advice('status')}`, or wait longer (--timeout)"
                )
            time.sleep(_STEP_S)
