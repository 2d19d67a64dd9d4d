"""Serving: an application in this process, by uvicorn, until a signal says to stop."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    """Serve until SIGINT or SIGTERM, then stop as ``hayhooks run`` does.

    Args:
        app: what to serve; default: an application with *pipelines* (see ``create_app``) and *settings*.
        pipelines: see there.
        settings: as ``Settings`` takes them.

    Raises:
        SystemExit: the server could not start; why has been logged.
        StartError: one of *pipelines*, or a file or the address that the settings name, cannot be used.
        TypeError: *app* is given, and *pipelines* or *settings* too.
    """
    if app is not None and (pipelines or settings):
        raise TypeError("run_app: pipelines and settings belong to the application: give them to create_app")
    app = app or create_app(Settings(**settings), pipelines=pipelines)
    check_settings(app.settings)
    app.log_requests()
    serve(app)


def serve(app: Hayhooks) -> None:
    """Serve *app*, whose settings have been checked, in this process until SIGINT or SIGTERM.

    No new work then, open requests and streams get the graceful time, everything is torn down, and this returns.

    Raises:
        SystemExit: the server could not start; uvicorn has logged why.
    """
    _Server(uvicorn.Config(app, **server_options(app.settings))).run()


class _Server(uvicorn.Server):
    """uvicorn's server, but one that returns after a signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals as uvicorn does, without its raising them again at the end: that would end us with -15."""
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; ``/readyz`` says so on connections that are still open."""
        self.config.app.switch.stopping = True  # type: ignore[union-attr]
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop as uvicorn does; who is at the door is let in first."""
        await stop_listening(self.servers)
        await super().shutdown(sockets)
