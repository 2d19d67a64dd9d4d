"""What commands print: errors in one line, results on standard output, progress on standard error.

In a terminal with colours, in a pipe plain. Rich is imported where it draws: `hayhooks pipeline list` in a script need
not wait for it.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress

Cell = str | tuple[str, str]  # text, or text and its style

_STATES = {"serving": "green", "stale": "yellow", "failed": "red", "loading": "cyan"}
_STYLES: dict[str, dict[str, Any]] = {"": {}, "bold": {"bold": True}, "dim": {"dim": True}}


class CommandError(click.ClickException):
    """A command cannot do what it was asked to: said in one line, exit status 1."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def say(*parts: Cell, err: bool = False) -> None:
    """Print a line for people, of one or more parts."""
    click.echo("".join(map(_styled, parts)), err=err, color=False if os.environ.get("NO_COLOR") else None)


def note(*parts: Cell) -> None:
    """Print a line that is not the result."""
    say(*parts, err=True)


def say_deployment(good: bool, name: str, rest: str) -> None:
    """Print the line for one deployment, as ``hayhooks dev`` does."""
    say(("✓", "green") if good else ("✗", "red"), " ", (name, "bold"), f"  {rest}".rstrip())


def state_cell(state: str) -> Cell:
    """The *state* of a deployment, for a table."""
    return (state, _STATES.get(state, ""))


def say_json(value: Any) -> None:
    """Print *value* for scripts."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def say_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print *rows* below *columns*: drawn to fit in a terminal, in a pipe a line each that is never cut."""
    if sys.stdout.isatty():
        _draw_table(columns, rows)
        return
    lines = [list(columns), *([cell if isinstance(cell, str) else cell[0] for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _draw_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - see the head of this file
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else Text(*cell) for cell in row))
    Console(highlight=False).print(table)


def _styled(part: Cell) -> str:
    if isinstance(part, str):
        return part
    text, style = part
    return click.style(text, **_STYLES.get(style, {"fg": style}))


class ProgressBar:
    """Moves a progress on that may be shown."""

    def __init__(self, shown: "Progress | None" = None, what: str = "", total: int | None = None) -> None:
        self._shown = shown
        self._task = shown.add_task(what, total=total) if shown else None

    def step(self) -> None:
        """One more is done."""
        if self._shown is not None and self._task is not None:
            self._shown.advance(self._task)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[ProgressBar]:
    """Show in a terminal that something is going on: a bar for *total* steps, else that it has not stopped."""
    if not sys.stderr.isatty():
        yield ProgressBar()
        return
    from rich.console import Console  # noqa: PLC0415 - see the head of this file
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn  # noqa: PLC0415

    bar = () if total is None else (BarColumn(), MofNCompleteColumn())
    columns = (SpinnerColumn(), "{task.description}", *bar, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        yield ProgressBar(shown, what, total)
