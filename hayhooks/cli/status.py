"""``hayhooks status``: what the running server serves."""

import time
from collections.abc import Iterator
from typing import Any

from hayhooks.cli.client import NoAnswerError, Server, differing_workers
from hayhooks.cli.output import Cell, note, say, say_json, say_table, state_cell
from hayhooks.settings import Settings


def status(settings: Settings, *, as_json: bool) -> int:
    """Print the running server's deployments.

    Returns:
        0, or 1 if the server does not answer, or 2 if a deployment failed or is stale, or workers differ.
    """
    try:
        body = Server(settings).status()
    except NoAnswerError as error:
        note(str(error))
        return 1
    if as_json:
        say_json(body)
    else:
        _show(body)
    wrong = any(entry["state"] in ("failed", "stale") for entry in body["deployments"])
    return 2 if wrong or differing_workers(body) else 0


def _show(body: dict[str, Any]) -> None:
    if body.get("error"):
        say((body["error"], "red"))
    if body["deployments"]:
        columns = ("name", "state", "revision", "age", "endpoints", "error")
        say_table(columns, [_cells(entry) for entry in body["deployments"]])
    else:
        say("Nothing is deployed.")
    for line in _notes(body):
        say((line, "yellow"))


def _cells(entry: dict[str, Any]) -> list[Cell]:
    return [
        entry["name"],
        state_cell(entry["state"]),
        entry["revision"] or entry["failed_revision"] or "",
        _age(entry["loaded_at"] or entry["failed_at"] or entry["loading_since"]),
        " ".join(entry["endpoints"]),
        (entry["error"] or "").partition("\n")[0],
    ]


def _notes(body: dict[str, Any]) -> Iterator[str]:
    """What else is worth knowing, a line each."""
    watching = body.get("watching") or {}
    if watching.get("problem"):
        seconds = watching["poll_interval_ms"] / 1000
        yield f"Changes are noticed by looking around every {seconds:g} s: {watching['problem']}"
    if differing := differing_workers(body):
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
