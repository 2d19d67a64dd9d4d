"""``hayhooks status``: what the running server serves."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hayhooks.cli.server import LockedError, NoAnswerError, Server
from hayhooks.settings import Settings

_STYLES = {"serving": "green", "stale": "yellow", "failed": "red", "loading": "cyan"}


def status(settings: Settings, *, as_json: bool) -> int:
    """Print the running server's deployments.

    Returns:
        0, or 1 if the server does not answer, or 2 if a deployment failed or is stale, or workers differ.
    """
    try:
        body = Server(settings).status()
    except LockedError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except NoAnswerError as error:
        print(f"{error}. Is `hayhooks run` running there?", file=sys.stderr)  # noqa: T201
        return 1
    if as_json:
        print(json.dumps(body, indent=2))  # noqa: T201
    else:
        _show(body, Console(highlight=False))
    wrong = any(entry["state"] in ("failed", "stale") for entry in body["deployments"])
    return 2 if wrong or _differing(body) else 0


def _show(body: dict[str, Any], console: Console) -> None:
    if not console.is_terminal:
        console.width = 10_000  # in a pipe lines are not cut
    if body.get("error"):
        console.print(Text(body["error"], style="red"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "state", "revision", "age", "endpoints", "error"):
        table.add_column(column, overflow="fold")
    for entry in body["deployments"]:
        table.add_row(
            entry["name"],
            Text(entry["state"], style=_STYLES.get(entry["state"], "")),
            entry["revision"] or entry["failed_revision"] or "",
            _age(entry["loaded_at"] or entry["failed_at"] or entry["loading_since"]),
            Text(" ".join(entry["endpoints"])),
            Text((entry["error"] or "").partition("\n")[0]),
        )
    console.print(table if body["deployments"] else "Nothing is deployed.")
    for note in _notes(body):
        console.print(Text(note, style="yellow"))


def _differing(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The workers, if they do not all serve the same."""
    workers = body.get("workers", [])
    return workers if len({worker["revision"] for worker in workers}) > 1 else []


def _notes(body: dict[str, Any]) -> Iterator[str]:
    """What else is worth knowing, a line each."""
    watching = body.get("watching") or {}
    if watching.get("problem"):
        seconds = watching["look_around_ms"] / 1000
        yield f"Changes are noticed by looking around every {seconds:g} s: {watching['problem']}"
    if differing := _differing(body):
        listed = ", ".join(f"{worker['pid']}: {worker['revision']}" for worker in differing)
        yield f"The workers do not serve the same ({listed})"
    for retired in body.get("retired", []):
        age = _age(retired["since"])
        yield f"{retired['name']} {retired['revision']} was replaced {age} ago and still lives: {retired['why']}"


def _age(since: float | None) -> str:
    """How long ago, in the largest unit that gives a whole number: 12s, 3m, 5h, 2d."""
    if since is None:
        return ""
    seconds = max(int(time.time() - since), 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
