"""Run several worker processes that share one port, each with its own deployer."""

import os
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from uvicorn.supervisors import Multiprocess

from hayhooks.app import Hayhooks, create_app
from hayhooks.http.access import log_exposure
from hayhooks.observability.log import configure_logging
from hayhooks.observability.tracing import warn_if_missing
from hayhooks.observability.worker_state import WorkerStateDir
from hayhooks.server.config import ServerConfig, server_options
from hayhooks.server.process import own_process
from hayhooks.settings import Settings

_HEALTH_CHECK_TIMEOUT_S = 30  # a `setup` may hold the interpreter lock for a while; a worker that hangs is restarted


def serve_workers(settings: Settings) -> None:
    """Serve *settings* in ``settings.workers`` processes until SIGINT or SIGTERM."""
    log_exposure(settings)
    warn_if_missing()
    options = server_options(settings)
    if "timeout_worker_healthcheck" in signature(uvicorn.Config).parameters:  # since uvicorn 0.37
        options["timeout_worker_healthcheck"] = _HEALTH_CHECK_TIMEOUT_S
    os.environ.update(settings.environment())  # inherited by the workers
    with TemporaryDirectory(prefix="hayhooks-") as directory:
        WorkerStateDir.announce(Path(directory))
        config = ServerConfig(
            "hayhooks.server.workers:worker",
            factory=True,
            workers=settings.workers,
            **options,
        )
        _Supervisor(config, sockets=[config.bind_socket()]).run()


def worker() -> Hayhooks:
    """Build the application of one worker."""
    settings = Settings()
    configure_logging(settings.log, settings.log_format)
    app = create_app(settings)
    app.log_requests()
    return own_process(app)


class _Supervisor(Multiprocess):
    """uvicorn's supervisor; it closes its listening socket when the workers must stop.

    Else the system accepts connections that no worker serves: tests/deployment/test_stopping.py.
    """

    def terminate_all(self) -> None:
        """Close the listening socket and stop the workers."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()
