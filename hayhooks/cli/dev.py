"""``hayhooks dev``: serve during development, and print the result of every save."""

import logging
import sys
from functools import partial
from pathlib import Path

import click
from rich.text import Text
from starlette.types import Scope

from hayhooks._version import __version__
from hayhooks.app import create_app
from hayhooks.cli.client import OWN_AGENT, Server
from hayhooks.cli.dev_output import DevOutput
from hayhooks.cli.keys import keys_read, open_page
from hayhooks.cli.run import make_directory, warn_of_unknown
from hayhooks.cli.try_requests import THREAD, TryRequest, tried
from hayhooks.http.access import log_exposure
from hayhooks.http.context import context_of
from hayhooks.kernel.discovery import single_name
from hayhooks.observability.log import configure_logging, log
from hayhooks.observability.request_record import RequestRecord
from hayhooks.observability.tracing import warn_if_missing
from hayhooks.observability.unawaited import remember_makers
from hayhooks.server.config import ServerConfig, server_options
from hayhooks.server.preflight import check_settings
from hayhooks.server.process import own_process
from hayhooks.server.run import serve
from hayhooks.settings import Settings, export_env_file

_PAGES = ("/", "/docs", "/status", "/v1/models")  # for the banner; the key o opens the first that there is
_TRACES = 200  # kept, unless HAYHOOKS_TRACES says otherwise
_MAKERS = 4  # frames that a coroutine remembers: a library's helper may have made it for the user's code
_BLOCKED_AFTER_S = 0.2  # a blocked event loop is told; a person notices a shorter pause hardly


def dev(
    settings: Settings, path: Path | None, *, tracebacks: bool, opens_page: bool, requests: list[TryRequest]
) -> int:
    """Serve one deployment or a directory of them, print changes and requests, and try *requests* after each save."""
    check_settings(settings)
    has_keys = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
    output = DevOutput(tracebacks=tracebacks, has_keys=has_keys)
    settings, only = _served(settings, path and path.absolute())
    _log_to(output, settings)
    make_directory(settings)
    warn_of_unknown()
    export_env_file()
    app = create_app(settings, observe=output.show_change, on_request=output.show_request, only=only)
    app.hooks.on_request_start.append(_note_origin)
    own_process(app).watch_event_loop(_BLOCKED_AFTER_S)
    remember_makers(_MAKERS)
    watched = Text(str(path.absolute() if path else settings.pipelines_dir), style="bold")
    output.show(Text.assemble(("hayhooks dev", "bold"), f" {__version__}  watching ", watched), indent=2)
    listener = ServerConfig("", **server_options(settings)).bind_socket() if settings.port == 0 else None
    port = listener.getsockname()[1] if listener else settings.port
    server = Server(settings.model_copy(update={"port": port, "use_https": False}))
    pages = _PAGES if settings.console else _PAGES[1:]
    links = [server.url + settings.root_path + path for path in pages if path in app.switch.live.paths]
    keys = "h + Enter lists the keys, " if has_keys else ""
    output.show(f"  {'   '.join(links)}   ({keys}Ctrl+C stops)", indent=2)
    log_exposure(settings, in_development=True)
    warn_if_missing()
    with keys_read(app, links[0], output), tried(requests, app.hooks, server, output):
        serve(app, listener, partial(open_page, links[0], output) if opens_page else None)
    output.show("Stopped.", "dim")
    return 0


def _served(settings: Settings, path: Path | None) -> tuple[Settings, str | None]:
    """Return the settings that *path* is served with, and its name if it is one deployment and not a directory."""
    defaults: dict[str, object] = {"traces": _TRACES, "trial_seconds": 0, "canary_seconds": 0}
    update = {name: value for name, value in defaults.items() if name not in settings.model_fields_set}
    update["load_jitter_ms"] = 0  # whatever is set for many servers: somebody waits for the result of a save
    only = None
    if path is not None:
        only = single_name(path)
        if only is None and not path.is_dir():
            raise click.UsageError(f"{path} is neither a directory nor a YAML pipeline (*.yml, *.yaml)")
        update["pipelines_dir"] = path.parent if only else path
    return settings.model_copy(update=update), only


def _log_to(output: DevOutput, settings: Settings) -> None:
    configure_logging(settings.log)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # the banner has the address
    log.remove()
    log.add(
        output.show_entry,
        level=settings.log,
        format=lambda _: "{message}",
        filter=lambda record: record["thread"].name != THREAD,  # httpx would report the requests of --try
        backtrace=False,
        diagnose=False,
    )


def _note_origin(record: RequestRecord, scope: Scope) -> None:
    headers = context_of(scope).headers
    record.is_of_command = headers.get(b"user-agent", b"").startswith(OWN_AGENT.encode())
    record.is_of_page = headers.get(b"sec-fetch-site") == b"same-origin"  # browsers send it to this machine and by TLS
