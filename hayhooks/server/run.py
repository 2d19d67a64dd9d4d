"""Run the server in this process until a signal stops it."""

import signal
from collections.abc import Mapping
from socket import socket
from types import FrameType
from typing import Any

import uvicorn

from hayhooks.app import Hayhooks, create_app
from hayhooks.kernel.static import WrapperFactory
from hayhooks.server.config import server_options
from hayhooks.server.preflight import check_settings
from hayhooks.server.protocol import stop_listening
from hayhooks.settings import Settings


def run_app(
    app: Hayhooks | None = None, *, pipelines: Mapping[str, WrapperFactory] | None = None, **settings: Any
) -> None:
    """Serve until SIGINT or SIGTERM, then shut down gracefully, as ``hayhooks run`` does.

    Args:
        app: the application; default: one made of *pipelines* (see ``create_app``) and *settings*.
        pipelines: see ``create_app``.
        settings: arguments of ``Settings``.

    Raises:
        SystemExit: the server could not start; the log has the reason.
        StartError: one of *pipelines*, or a file or the address in the settings, cannot be used.
        TypeError: *app* is given together with *pipelines* or *settings*.
    """
    if app is not None and (pipelines or settings):
        raise TypeError("run_app: pipelines and settings belong to the application: give them to create_app")
    app = app or create_app(Settings(**settings), pipelines=pipelines)
    check_settings(app.settings)
    app.log_requests()
    serve(app)


def serve(app: Hayhooks) -> None:
    """Serve *app* in this process until SIGINT or SIGTERM; its settings must have been checked.

    In-flight requests get the graceful shutdown timeout. Then all deployments are torn down and this returns.

    Raises:
        SystemExit: the server could not start; uvicorn has logged the reason.
    """
    Server(uvicorn.Config(app, **server_options(app.settings))).run()


class Server(uvicorn.Server):
    """uvicorn's server with a graceful stop: it accepts queued connections first, and returns after a signal."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown; a second SIGINT forces it. ``/readyz`` reports it on open connections.

        uvicorn's method also notes the signal, to raise it again after the shutdown: the exit status would be -15.
        """
        self.config.app.switch.stopping = True  # type: ignore[union-attr]  # serve() passes a Hayhooks
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Accept queued connections, then shut down as uvicorn does."""
        await stop_listening(self.servers)
        await super().shutdown(sockets)
