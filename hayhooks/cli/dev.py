"""``hayhooks dev``: serve during development, and print the result of every save."""

import logging
import sys
from contextlib import nullcontext
from pathlib import Path

import click
from rich.text import Text

from hayhooks._version import __version__
from hayhooks.app import create_app
from hayhooks.cli.dev_output import DevOutput
from hayhooks.cli.keyboard import Keyboard
from hayhooks.cli.keys import Keys
from hayhooks.cli.run import make_directory, warn_of_unknown
from hayhooks.kernel.discovery import single_name
from hayhooks.observability.log import configure_logging, log
from hayhooks.server.preflight import check_settings
from hayhooks.server.process import own_process
from hayhooks.server.run import serve
from hayhooks.settings import Settings, export_env_file

_BLOCKED_AFTER_S = 0.2  # a blocked event loop is told; a person notices a shorter pause hardly


def dev(settings: Settings, path: Path | None, *, tracebacks: bool) -> int:
    """Serve one deployment or a directory of them, and print each change and request."""
    check_settings(settings)
    has_keys = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
    output = DevOutput(tracebacks=tracebacks, has_keys=has_keys)
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
    log.add(output.show_entry, level=settings.log, format=lambda _: "{message}", backtrace=False, diagnose=False)
    warn_of_unknown()
    export_env_file()
    url = f"http{'s' if settings.ssl_certfile else ''}://{settings.host}:{settings.port}{settings.root_path}"
    watched = str(path or settings.pipelines_dir)
    output.show(Text.assemble(("hayhooks dev", "bold"), f" {__version__}  watching ", (watched, "bold")), indent=2)
    how = "h + Enter lists the keys, Ctrl+C stops" if has_keys else "Ctrl+C stops"
    output.show(f"  {url}/docs   {url}/status   {url}/v1/models   ({how})", indent=2)
    app = create_app(settings, observe=output.show_change, on_request=output.show_request, only=only)
    own_process(app).watch_event_loop(_BLOCKED_AFTER_S)
    keys = Keys(
        app,
        url,
        show=lambda text: output.show(f"  {text}", "dim", indent=2),
        show_traceback=output.show_last_traceback,
        clear=output.console.clear,
    )
    with Keyboard(keys, lambda: app.switch.stopping).shared() if has_keys else nullcontext():
        serve(app)
    output.show("Stopped.", "dim")
    return 0
