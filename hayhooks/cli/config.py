"""``hayhooks config``: the effective settings and their sources."""

import json
from collections.abc import Collection

from hayhooks.cli.output import Cell, note, say_json, say_table
from hayhooks.cli.settings_report import env_file_path, shown, sources, unknown
from hayhooks.setting_fields import PREFIX
from hayhooks.settings import Settings

_STYLES = {"default": "dim", "command line": "cyan", "environment": "green"}


def config(settings: Settings, options: Collection[str], as_json: bool) -> int:
    """Print *settings*; those in *options* were given on the command line."""
    origins = sources(options)
    rows = {name: (value, origins[name.removeprefix(PREFIX).lower()]) for name, value in shown(settings).items()}
    if as_json:
        say_json({name: {"value": value, "source": source} for name, (value, source) in rows.items()})
    else:
        cells: list[tuple[Cell, ...]] = []
        for name, (value, source) in rows.items():
            text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
            cells.append((name, text, (source, _STYLES.get(source, "yellow"))))
        say_table(("setting", "value", "source"), cells)
        note(f"Environment file: {env_file_path() or 'none'}")
    for line in unknown():
        note(f"Warning: {line}")
    return 0
