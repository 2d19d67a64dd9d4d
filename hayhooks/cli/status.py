"""``hayhooks status`` and ``hayhooks pipeline list``: what is served, and what the directory contains."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hayhooks.cli.client import NoAnswerError, Server, Unreachable, differing_workers, find_server
from hayhooks.cli.output import Cell, CommandError, note, say, say_json, say_table, state_cell
from hayhooks.kernel.discovery import WRAPPER_FILE, YAML_SUFFIXES
from hayhooks.settings import Settings


def status(settings: Settings, *, as_json: bool) -> int:
    """Print the running server's deployments.

    Returns:
        0; 1 if the server does not answer; 2 if a deployment failed or is stale, or workers differ.
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


def list_pipelines(settings: Settings, *, as_json: bool) -> int:
    """Print a line for each deployment in the directory, with its state if a server serves the directory."""
    root = settings.pipelines_dir.absolute()
    found = find_server(root, settings)
    server = None if isinstance(found, Unreachable) else found
    if not root.is_dir() and server is None:
        raise CommandError(f"The pipelines directory {root} does not exist: create it, or set HAYHOOKS_PIPELINES_DIR")
    try:
        kinds = names_in(root) if root.is_dir() else {}
        entries = {entry["name"]: entry for entry in server.status()["deployments"]} if server else {}
    except OSError as error:
        raise CommandError(f"Cannot read the pipelines directory {root}: {error.strerror}") from None
    # A name may still be served though it is no longer in the directory.
    rows = [_row(name, kinds.get(name, ""), entries.get(name, {})) for name in sorted(kinds.keys() | entries.keys())]
    if as_json:
        say_json({"directory": str(root), "server": server.url if server else None, "pipelines": rows})
        return 0
    if rows:
        columns = ("name", "kind", "state", "revision", "endpoints", "error")
        say_table(columns, [_list_cells(row) for row in rows])
    else:
        say(f"Nothing is deployed in {root}.")
    if isinstance(found, Unreachable):
        note((found.why, "yellow"))
    return 0


def names_in(root: Path) -> dict[str, str]:
    """Return the names in *root* and their kinds: ``folder``, ``link`` or ``yaml``.

    This is for display and completion; only the server can tell whether something can be served.

    Raises:
        OSError: *root* cannot be read.
    """
    found = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        if path.suffix in YAML_SUFFIXES and not path.is_dir():
            found[path.stem] = "yaml"
        elif (path / WRAPPER_FILE).is_file():
            found[path.name] = "link" if path.is_symlink() else "folder"
    return found


def _show(body: dict[str, Any]) -> None:
    if body.get("error"):
        say((body["error"], "red"))
    if body["deployments"]:
        columns = ("name", "state", "revision", "age", "endpoints", "error")
        say_table(columns, [_status_cells(entry) for entry in body["deployments"]])
    else:
        say("Nothing is deployed.")
    for line in _notes(body):
        say((line, "yellow"))


def _status_cells(entry: dict[str, Any]) -> list[Cell]:
    return [
        entry["name"],
        state_cell(entry["state"]),
        entry["revision"] or entry["failed_revision"] or "",
        _age(entry["loaded_at"] or entry["failed_at"] or entry["loading_since"]),
        " ".join(entry["endpoints"]),
        (entry["error"] or "").partition("\n")[0],
    ]


def _notes(body: dict[str, Any]) -> Iterator[str]:
    watching = body.get("watching") or {}
    if watching.get("problem"):
        seconds = watching["poll_interval_ms"] / 1000
        yield f"The directory is polled every {seconds:g} s: {watching['problem']}"
    if differing := differing_workers(body):
        listed = ", ".join(f"{worker['pid']}: {worker['revision']}" for worker in differing)
        yield f"The workers do not serve the same revisions ({listed})"
    for retired in body.get("retired", []):
        age = _age(retired["since"])
        yield f"{retired['name']} {retired['revision']} was replaced {age} ago and is still alive: {retired['why']}"


def _age(since: float | None) -> str:
    """Return the time since *since* in its largest whole unit: 12s, 3m, 5h, 2d."""
    if since is None:
        return ""
    seconds = max(int(time.time() - since), 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _row(name: str, kind: str, entry: dict[str, Any]) -> dict[str, Any]:
    keys = ("state", "revision", "failed_revision", "endpoints", "description", "error")
    return {"name": name, "kind": kind or None, **{key: entry.get(key) for key in keys}}


def _list_cells(row: dict[str, Any]) -> list[Cell]:
    return [
        row["name"],
        row["kind"] or "",
        state_cell(row["state"] or ""),
        row["revision"] or row["failed_revision"] or "",
        " ".join(row["endpoints"] or ()),
        (row["error"] or "").partition("\n")[0],
    ]
