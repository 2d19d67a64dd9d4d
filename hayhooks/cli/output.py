"""Output of commands: results on stdout, errors and progress on stderr.

Coloured in a terminal, plain in a pipe. Rich is imported only where it draws, so that scripts need not wait for it.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress

Cell = str | tuple[str, str]  # text, or text and its style

_NOT_PRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_STATES = {"serving": "green", "stale": "yellow", "failed": "red", "loading": "cyan"}
_STYLES: dict[str, dict[str, Any]] = {"": {}, "bold": {"bold": True}, "dim": {"dim": True}}


class CommandError(click.ClickException):
    """A command that failed: one line, exit status 1."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))


def printable(text: str) -> str:
    """Return *text* with escapes for control characters, but for line ends and tabs, and for bytes that are no text.

    A terminal would obey the ones, and cannot be sent the others.
    """
    if text.isprintable():
        return text
    return _NOT_PRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(*parts: Cell, err: bool = False) -> None:
    """Print a line of one or more parts."""
    styled = [
        click.style(printable(text), **_STYLES.get(style, {"fg": style})) if style else printable(text)
        for text, style in map(_styled, parts)
    ]
    click.echo("".join(styled), err=err, color=False if os.environ.get("NO_COLOR") else None)


def note(*parts: Cell) -> None:
    """Print a line that is not part of the result."""
    say(*parts, err=True)


def say_deployment(good: bool, name: str, rest: str) -> None:
    """Print the line of one deployment, in the form of ``hayhooks dev``."""
    say(("✓", "green") if good else ("✗", "red"), " ", (name, "bold"), f"  {rest}".rstrip())


def state_cell(state: str) -> Cell:
    """Return the *state* of a deployment with its colour."""
    return (state, _STATES.get(state, ""))


def say_json(value: Any) -> None:
    """Print *value* for scripts."""
    click.echo(printable(json.dumps(value, indent=2, ensure_ascii=False)))


def say_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print a table: fitted to a terminal, or in a pipe one whole line for each row."""
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415 - see the head of this file
        from rich.table import Table  # noqa: PLC0415 - as above
        from rich.text import Text  # noqa: PLC0415 - as above

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(text), style) for text, style in map(_styled, row)))
        Console(highlight=False).print(table)
        return
    lines = [list(columns), *([printable(_styled(cell)[0]) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _styled(cell: Cell) -> tuple[str, str]:
    return (cell, "") if isinstance(cell, str) else cell


class ProgressBar:
    """A progress bar, or nothing where it is not shown."""

    def __init__(self, shown: "Progress | None" = None, what: str = "", total: int | None = None) -> None:
        self._shown = shown
        self._task = shown.add_task(what, total=total) if shown else None

    def step(self) -> None:
        """Advance by one."""
        if self._shown is not None and self._task is not None:
            self._shown.advance(self._task)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[ProgressBar]:
    """Show progress in a terminal: a bar if *total* is known, else a spinner."""
    if not sys.stderr.isatty():
        yield ProgressBar()
        return
    from rich.console import Console  # noqa: PLC0415 - see the head of this file
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn  # noqa: PLC0415

    bar = () if total is None else (BarColumn(), MofNCompleteColumn())
    columns = (SpinnerColumn(), "{task.description}", *bar, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        yield ProgressBar(shown, what, total)
