"""``hayhooks config``: the effective settings, and where each comes from."""

import json
import sys
from collections.abc import Collection

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hayhooks.settings import PREFIX, Settings, sources, unknown

_STYLES = {"default": "dim", "command line": "cyan", "environment": "green", ".env": "yellow"}


def config(settings: Settings, options: Collection[str], as_json: bool) -> int:
    """Print *settings*, of which those in *options* were given on the command line; 0."""
    origins = sources(options)
    told = {name: (value, origins[name.removeprefix(PREFIX).lower()]) for name, value in settings.shown().items()}
    if as_json:
        body = {name: {"value": value, "source": source} for name, (value, source) in told.items()}
        print(json.dumps(body, indent=2))  # noqa: T201
    else:
        _show({name: (_text(value), source) for name, (value, source) in told.items()})
    for line in unknown():
        print(f"Warning: {line}", file=sys.stderr)  # noqa: T201
    return 0


def _show(told: dict[str, tuple[str, str]]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000  # in a pipe lines are not cut
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    for name, (value, source) in told.items():
        table.add_row(name, Text(value), Text(source, style=_STYLES[source]))
    console.print(table)


def _text(value: object) -> str:
    """*value* as it is written in the environment."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
