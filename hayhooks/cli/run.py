"""``hayhooks run``: serve in production."""

import os

from hayhooks.app import create_app
from hayhooks.cli.settings_report import unknown
from hayhooks.http.access import log_exposure
from hayhooks.observability.log import configure_logging, log
from hayhooks.observability.tracing import warn_if_missing
from hayhooks.server.preflight import check_settings
from hayhooks.server.process import own_process
from hayhooks.server.run import serve
from hayhooks.server.workers import serve_workers
from hayhooks.settings import Settings, export_env_file


def run(settings: Settings) -> int:
    """Serve until stopped, in one process or in several."""
    configure_logging(settings.log, settings.log_format)
    warn_of_unknown()
    check_settings(settings)
    make_directory(settings)
    export_env_file()
    if settings.workers > 1:
        return serve_workers(settings)
    app = create_app(settings)
    app.log_requests()
    log_exposure(settings)
    warn_if_missing()
    serve(own_process(app))
    return 0


def warn_of_unknown() -> None:
    """Log a warning for each ``HAYHOOKS_`` variable that is not a setting."""
    for line in unknown():
        log.warning("{}", line)


def make_directory(settings: Settings) -> None:
    """Create the pipelines directory if its parent exists; the server only reads it.

    If it cannot be created the server waits for it, and ``/readyz`` says that it is missing.
    """
    directory = settings.pipelines_dir.absolute()
    if not directory.parent.is_dir() or os.path.lexists(directory):
        return
    try:
        directory.mkdir()
    except OSError as error:
        log.warning("Cannot create the pipelines directory {} ({}): waiting for it", directory, error.strerror)
    else:
        log.info("Created the pipelines directory {}", directory)
