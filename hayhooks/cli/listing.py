"""``hayhooks pipeline list``: what lies in the pipelines directory, and what the server makes of it."""

from pathlib import Path
from typing import Any

from hayhooks.cli.client import Unreachable, serving
from hayhooks.cli.names import names_in
from hayhooks.cli.output import Cell, CommandError, note, say, say_json, say_table, state_cell
from hayhooks.settings import Settings


def list_pipelines(settings: Settings, *, as_json: bool) -> int:
    """Print a line for each deployment: what the server says of it, if one serves this directory."""
    root = settings.pipelines_dir.absolute()
    found = serving(root, settings)
    server = None if isinstance(found, Unreachable) else found
    if not root.is_dir() and server is None:
        raise CommandError(f"the pipelines directory {root} does not exist: make it, or set HAYHOOKS_PIPELINES_DIR")
    try:
        rows = _merged(root, server.status()["deployments"] if server else [])
    except OSError as error:
        raise CommandError(f"the pipelines directory {root} cannot be read: {error.strerror}") from None
    if as_json:
        say_json({"directory": str(root), "server": server.url if server else None, "pipelines": rows})
        return 0
    if rows:
        say_table(("name", "kind", "state", "revision", "endpoints", "error"), [_cells(row) for row in rows])
    else:
        say(f"Nothing is deployed in {root}.")
    if isinstance(found, Unreachable):
        note((found.why, "yellow"))
    return 0


def _merged(root: Path, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What lies there, with what the server says; and what it still serves though it lies there no more."""
    kinds = names_in(root) if root.is_dir() else {}
    told = {entry["name"]: entry for entry in entries}
    return [_row(name, kinds.get(name, ""), told.get(name, {})) for name in sorted(kinds.keys() | told.keys())]


def _row(name: str, kind: str, entry: dict[str, Any]) -> dict[str, Any]:
    kept = ("state", "revision", "failed_revision", "endpoints", "description", "error")
    return {"name": name, "kind": kind or None, **{key: entry.get(key) for key in kept}}


def _cells(row: dict[str, Any]) -> list[Cell]:
    return [
        row["name"],
        row["kind"] or "",
        state_cell(row["state"] or ""),
        row["revision"] or row["failed_revision"] or "",
        " ".join(row["endpoints"] or ()),
        (row["error"] or "").partition("\n")[0],
    ]
