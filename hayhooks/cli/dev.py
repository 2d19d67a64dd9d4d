"""``hayhooks dev``: serve during development, and print the result of every save."""

import linecache
import logging
import os
import site
import sys
import sysconfig
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from traceback import extract_tb, format_exception
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from hayhooks._version import __version__
from hayhooks.app import create_app
from hayhooks.cli.keyboard import Keyboard
from hayhooks.cli.keys import Keys
from hayhooks.cli.run import make_directory, warn_of_unknown
from hayhooks.errors import Place, safe_str
from hayhooks.kernel.discovery import single_name
from hayhooks.kernel.isolation import with_public_names
from hayhooks.kernel.state import Change, Deployment, Failure
from hayhooks.observability.log import configure_logging, log, printable
from hayhooks.observability.request_record import RequestRecord
from hayhooks.server.preflight import check_settings
from hayhooks.server.process import own_process
from hayhooks.server.run import serve
from hayhooks.settings import Settings, export_env_file

_INSTALLED = (  # directories of code that is not the user's
    str(Path(__file__).parent.parent) + os.sep,
    *{sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    *(path + os.sep for path in site.getsitepackages()),
    "<",
)
_BLOCKED_AFTER_S = 0.2  # a blocked event loop is told; a person notices a shorter pause hardly
_CONTEXT_LINES = 2  # around the one that failed


def dev(settings: Settings, path: Path | None, *, tracebacks: bool) -> int:
    """Serve one deployment or a directory of them, and print each change and request."""
    check_settings(settings)
    console = Console(highlight=False, soft_wrap=True)  # lines are never cut
    only = None
    if path is not None:
        path = path.absolute()
        only = single_name(path)
        if only is None and not path.is_dir():
            raise click.UsageError(f"{path} is neither a directory nor a YAML pipeline (*.yml, *.yaml)")
        settings = settings.model_copy(update={"pipelines_dir": path.parent if only else path})
    configure_logging(settings.log)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # the banner has the address
    make_directory(settings)
    log.remove()
    show_entry = partial(_show_entry, console, tracebacks)
    log.add(show_entry, level=settings.log, format=lambda _: "{message}", backtrace=False, diagnose=False)
    warn_of_unknown()
    export_env_file()
    url = f"http{'s' if settings.ssl_certfile else ''}://{settings.host}:{settings.port}{settings.root_path}"
    console.print(f"[bold]hayhooks dev[/] {__version__}  watching [bold]{path or settings.pipelines_dir}[/]")
    has_keys = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
    how = "h + Enter lists the keys, Ctrl+C stops" if has_keys else "Ctrl+C stops"
    console.print(f"  {url}/docs   {url}/status   {url}/v1/models   ({how})")
    app = create_app(
        settings,
        observe=partial(_show_change, console, tracebacks),
        on_request=partial(_show_request, console),
        only=only,
    )
    own_process(app).watch_event_loop(_BLOCKED_AFTER_S)
    keys = Keys(
        app,
        url,
        show=lambda text: console.print(Text(f"  {text}", style="dim")),
        show_traceback=lambda: console.print("No failure yet."),
        clear=console.clear,
    )
    with Keyboard(keys, lambda: app.switch.stopping).shared() if has_keys else nullcontext():
        serve(app)
    console.print("[dim]Stopped.[/]")
    return 0


def _show_change(console: Console, tracebacks: bool, change: Change) -> None:
    serving = change.serving
    match change.outcome:
        case Deployment() as deployment:
            took = f"in {change.took_ms:.0f} ms"
            endpoints = "  ".join(f"POST {path}" for path in deployment.endpoints.paths)
            details = ", ".join(change.files) if change.files else endpoints
            console.print(_line("✓", "green", change.name, f"{deployment.revision.id}  {took}  {details}"))
        case Failure() as failure if change.same_as:
            rest = f"as {change.same_as}" + (f"; revision {serving.revision.id} keeps serving" if serving else "")
            console.print(_line("✗", "red", change.name, f"{failure.revision.id}  {rest}"))
        case Failure() as failure:
            console.print(_line("✗", "red", change.name, f"{failure.revision.id}  {', '.join(change.files)}".rstrip()))
            console.print(Text(f"  {failure.reason}", style="red"))
            _show_place(console, failure.place)
            if failure.hint:
                console.print(Text(f"  hint: {failure.hint}", style="cyan"))
            if tracebacks:
                _show_traceback(console, failure.traceback)
            if serving is not None:
                console.print(Text(f"  revision {serving.revision.id} keeps serving", style="yellow"))
        case None if serving is None:
            console.print(_line("-", "dim", change.name, "removed"))
        case None:
            console.print(_line("✓", "green", change.name, f"{serving.revision.id}  serves again"))


def _show_place(console: Console, place: Place | None) -> None:
    """Print a place in the user's code, and the lines around it."""
    if place is None:
        return
    console.print(Text(f"  {place.file}:{place.line}", style="bold"))
    linecache.checkcache(place.file)
    lines = linecache.getlines(place.file)
    first = max(place.line - _CONTEXT_LINES, 1)
    for number, line in enumerate(lines[first - 1 : place.line + _CONTEXT_LINES], first):
        mark, style = (">", "") if number == place.line else (" ", "dim")
        console.print(Text(f"  {mark} {number:>4} │ {line.rstrip()}", style=style))


def _show_traceback(console: Console, traceback: str) -> None:
    for line in traceback.splitlines():
        console.print(Text(f"  {line}", style="dim"))


def _show_entry(console: Console, tracebacks: bool, message: Any) -> None:
    """Print an entry of the log: one with an exception as a failing load."""
    record, exception = message.record, message.record["exception"]
    style = {"ERROR": "red", "WARNING": "yellow"}.get(record["level"].name, "")
    if exception is None or exception.value is None:
        console.print(Text(f"  {record['message']}", style=style))
        return
    console.print(Text(f"✗ {' '.join(record['message'].split())}", style=style))
    headline = f"{type(exception.value).__name__}: {safe_str(exception.value)}".removesuffix(": ")
    if headline not in record["message"]:
        console.print(Text(f"  {' '.join(headline.split())}", style=style))
    place = _own_place(exception.value)
    _show_place(console, place)
    if tracebacks or place is None:  # without a place the bug is probably not the user's
        _show_traceback(console, with_public_names("".join(format_exception(exception.value))))


def _own_place(error: BaseException) -> Place | None:
    """Return the innermost place outside installed packages in which *error*, or first its cause, was raised."""
    chain = [error]
    for each in chain:  # it grows
        cause = each.exceptions[0] if isinstance(each, BaseExceptionGroup) else each.__cause__
        if cause is not None and all(cause is not known for known in chain):
            chain.append(cause)
    for each in reversed(chain):
        for frame in reversed(extract_tb(each.__traceback__)):
            if not frame.filename.startswith(_INSTALLED):
                return Place(frame.filename, frame.lineno or 1, (frame.line or "").strip())
    return None


def _show_request(console: Console, record: RequestRecord) -> None:
    style = "red" if record.status >= 500 else "yellow" if record.status >= 400 else "dim"
    how = "cancelled after" if record.cancelled else "in"
    line = f"{record.method} {printable(record.path)}  {record.status}  {how} {record.took_s * 1000:.0f} ms"
    console.print(Text(f"→ {line}", style=style))


def _line(mark: str, style: str, subject: str, rest: str) -> Text:
    return Text.assemble((mark, style), " ", (subject, "bold"), "  ", rest)
