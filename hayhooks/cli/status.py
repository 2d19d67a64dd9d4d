"""``hayhooks status`` and ``hayhooks pipeline list``."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hayhooks.cli.client import NoAnswerError, Server, Unreachable, differing_workers, find_server
from hayhooks.cli.output import Cell, CommandError, note, say, say_json, say_table, state_cell
from hayhooks.kernel.discovery import FIRST_STEP, WRAPPER_FILE, YAML_SUFFIXES
from hayhooks.setting_types import share_text
from hayhooks.settings import Settings


def status(settings: Settings, *, as_json: bool) -> int:
    """Print the server's deployments; return the exit status that --help lists."""
    try:
        body = Server(settings).status()
    except NoAnswerError as error:
        note(str(error))
        return 1
    if as_json:
        say_json(body)
    else:
        if body.get("error"):
            say((body["error"], "red"))
        if body["deployments"]:
            columns = ("name", "state", "revision", "age", "endpoints", "error")
            cells: list[list[Cell]] = [
                [
                    entry["name"],
                    _state_cell(entry),
                    entry["revision"] or entry["failed_revision"] or "",
                    _age(entry["loaded_at"] or entry["failed_at"] or entry["loading_since"]),
                    " ".join(entry["endpoints"]),
                    (entry["error"] or "").partition("\n")[0],
                ]
                for entry in body["deployments"]
            ]
            say_table(columns, cells)
        else:
            say(f"Nothing is deployed. {FIRST_STEP}")
        for line in _notes(body):
            say((line, "yellow"))
    wrong = any(entry["state"] in ("failed", "stale") for entry in body["deployments"])
    return 2 if wrong or differing_workers(body) else 0


def list_pipelines(settings: Settings, *, as_json: bool) -> int:
    """Print the deployments in the directory, with their states if a server serves it."""
    root = settings.pipelines_dir.absolute()
    found = find_server(root, settings)
    server = None if isinstance(found, Unreachable) else found
    if not root.is_dir() and server is None:
        raise CommandError(f"The pipelines directory {root} does not exist: create it, or set HAYHOOKS_PIPELINES_DIR")
    try:
        kinds = names_in(root) if root.is_dir() else {}
        body = server.status() if server else {"deployments": []}
    except OSError as error:
        raise CommandError(f"Cannot read the pipelines directory {root}: {error.strerror}") from None
    entries = {entry["name"]: entry for entry in body["deployments"]}
    keys = ("state", "revision", "failed_revision", "loading_since", "endpoints", "description", "error")
    # A name may still be served though it is no longer in the directory.
    rows = [
        {"name": name, "kind": kinds.get(name), **{key: entries.get(name, {}).get(key) for key in keys}}
        for name in sorted(kinds.keys() | entries.keys())
    ]
    if as_json:
        say_json({"directory": str(root), "server": server.url if server else None, "pipelines": rows})
        return 0
    if rows:
        columns = ("name", "kind", "state", "revision", "endpoints", "error")
        cells: list[list[Cell]] = [
            [
                row["name"],
                row["kind"] or "",
                _state_cell(row),
                row["revision"] or row["failed_revision"] or "",
                " ".join(row["endpoints"] or ()),
                (row["error"] or "").partition("\n")[0],
            ]
            for row in rows
        ]
        say_table(columns, cells)
    else:
        say(f"Nothing is deployed in {root}. {FIRST_STEP}")
    for line in (*_loading(body), *_canaries(body)):
        note((line, "yellow"))
    if isinstance(found, Unreachable):
        note((found.why, "yellow"))
    return 0


def names_in(root: Path) -> dict[str, str]:
    """Return the names in *root* and their kinds, for display and completion only."""
    found = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        if path.suffix in YAML_SUFFIXES and not path.is_dir():
            found[path.stem] = "yaml"
        elif (path / WRAPPER_FILE).is_file():
            found[path.name] = "link" if path.is_symlink() else "folder"
    return found


def _notes(body: dict[str, Any]) -> Iterator[str]:
    watching = body.get("watching") or {}
    if watching.get("problem"):
        seconds = watching["poll_interval_ms"] / 1000
        yield f"The directory is polled every {seconds:g} s: {watching['problem']}"
    if differing := differing_workers(body):
        listed = ", ".join(f"{each.get('replica') or each['pid']}: {each['revision']}" for each in differing)
        yield f"The {'replicas' if 'replica' in differing[0] else 'workers'} do not serve the same revisions ({listed})"
    yield from _loading(body)
    yield from _canaries(body)
    for retired in body.get("retired", []):
        age = _age(retired["since"])
        if retired["why"] == "the trial of its successor":
            how = f"was replaced {age} ago, and stays loaded for"
        elif retired["has_served"]:
            how = f"was replaced {age} ago and is still alive:"
        else:
            how = f"runs for {age} in vain:"
        yield f"{retired['name']} {retired['revision']} {how} {retired['why']}"


def _canaries(body: dict[str, Any]) -> Iterator[str]:
    for each in body.get("canaries", []):
        canary, serving = each["canary"], each["serving"]
        share = f"{canary['revision']} has got {share_text(each['share'])} of the requests for {_age(each['since'])}"
        figures = f"{_figures(canary)}; {serving['revision']}: {_figures(serving)}"
        yield f"{each['name']} {share}: {figures}; at most {each['ends_in_s']:.0f}s more"


def _figures(figures: dict[str, Any]) -> str:
    p95 = "" if figures["p95_ms"] is None else f", p95 {figures['p95_ms']:.0f} ms"
    return f"{figures['requests']} answered, {figures['failed']} failed{p95}"


def _loading(body: dict[str, Any]) -> Iterator[str]:
    for loading in body.get("loading", []):
        yield f"{loading['name']} {loading['revision']} has been loading for {_age(loading['since'])}: {loading['why']}"


def _state_cell(entry: dict[str, Any]) -> Cell:
    """Return the state, and since when the newest revision has been loading."""
    state, since = entry["state"] or "", entry["loading_since"]
    if since is None:
        return state_cell(state)
    text = f"loading since {time.strftime('%H:%M:%S', time.localtime(since))}"
    return (text if state == "loading" else f"{state}, {text}", state_cell(state)[1])


def _age(since: float | None) -> str:
    """Return the age in its largest whole unit: 12s, 3m, 5h, 2d."""
    if since is None:
        return ""
    seconds = max(int(time.time() - since), 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
