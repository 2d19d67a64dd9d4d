"""``hayhooks run``: serve in production."""

import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from uvicorn.supervisors import Multiprocess

from hayhooks.app import Hayhooks, create_app
from hayhooks.cli.settings_report import unknown
from hayhooks.http.access import log_exposure
from hayhooks.observability.log import configure_logging, log
from hayhooks.observability.tracing import warn_if_missing
from hayhooks.observability.worker_state import WorkerStateDir
from hayhooks.server.config import server_options
from hayhooks.server.preflight import check_settings
from hayhooks.server.run import serve
from hayhooks.settings import Settings

_WORKER_PATIENCE_S = (
    30  # a setup that holds the interpreter's lock is no dead worker; one that is so long counts as one
)

# How long a thread may hold the interpreter while others want it. With Python's 5 ms the event loop waits too long
# beside pipelines that compute: with two of them /status takes 14 ms in the median, with 2 ms it takes 6. Streams from
# threads cost a tenth more CPU then, the rest as much as before. 0.5 ms make it 3, but threads cost a fifth more.
_SWITCH_S = 0.002

_END_S = 2.0  # that threads of wrappers get when all is torn down


def run(settings: Settings) -> int:
    """Serve until stopped, in one process or in several; 0 after a clean stop.

    Raises:
        StartError: a file or the address that the settings name cannot be used.
    """
    configure_logging(settings.log, settings.log_format)
    warn_of_unknown()
    check_settings(settings)
    make_directory(settings)
    if settings.workers == 1:
        serve(ending(_app(settings)))
        return 0
    log_exposure(settings)
    warn_if_missing()
    os.environ.update(settings.environment())  # how the workers, which are started anew, learn of them
    with TemporaryDirectory(prefix="hayhooks-") as directory:
        WorkerStateDir.announce(Path(directory))
        config = uvicorn.Config(
            "hayhooks.cli.run:worker",
            factory=True,
            workers=settings.workers,
            timeout_worker_healthcheck=_WORKER_PATIENCE_S,
            **server_options(settings),
        )
        _Workers(config, sockets=[config.bind_socket()]).run()
    return 0


class _Workers(Multiprocess):
    """uvicorn's processes, of which this one, which starts the others, holds no client when they have ended."""

    def terminate_all(self) -> None:
        """Stop; whoever is let in from now on would wait in vain for the last worker to end."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def worker() -> Hayhooks:
    """The application of one of several workers; each has a deployer of its own."""
    settings = Settings()
    configure_logging(settings.log, settings.log_format)
    return ending(_app(settings))


def _app(settings: Settings) -> Hayhooks:
    app = create_app(settings)
    app.log_requests()
    return app


def ending(app: Hayhooks) -> Hayhooks:
    """*app*, which ends the process when it has stopped, even if threads that wrappers have left behind never end."""
    lifespan = app.router.lifespan_context
    app.owns_process = True

    @asynccontextmanager
    async def lifespan_and_end(app: Hayhooks) -> AsyncIterator[None]:
        sys.setswitchinterval(_SWITCH_S)  # here: in an application of somebody else's the process is theirs
        async with lifespan(app):
            yield
        threading.Thread(target=_end, name="hayhooks end", daemon=True).start()

    app.router.lifespan_context = lifespan_and_end
    return app


def _end() -> None:
    """End the process where it does not end by itself: Python waits for threads that wrappers have started."""
    time.sleep(_END_S)
    log.warning("Ended with threads of wrappers left behind")
    sys.stdout.flush()
    os._exit(0)


def warn_of_unknown() -> None:
    """Warn of names that look like settings and are none: somebody believes that they have an effect."""
    for line in unknown():
        log.warning("{}", line)


def make_directory(settings: Settings) -> None:
    """Create the pipelines directory where only it is missing; afterwards it is its owner's, and only read.

    Where it cannot be created somebody else will have to: until then ``/readyz`` says that it is missing.
    """
    directory = settings.pipelines_dir.absolute()
    if not directory.parent.is_dir() or os.path.lexists(directory):
        return
    try:
        directory.mkdir()
    except OSError as error:
        log.warning("The pipelines directory {} cannot be created ({}): waiting for it", directory, error.strerror)
    else:
        log.info("Created the pipelines directory {}", directory)
