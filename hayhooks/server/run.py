"""Run the server in this process until a signal stops it."""

import signal
import time
from collections.abc import Callable, Mapping
from socket import socket
from types import FrameType
from typing import Any

import uvicorn
from sse_starlette.sse import AppStatus

from hayhooks.app import Hayhooks, create_app
from hayhooks.kernel.static import WrapperFactory
from hayhooks.server.config import ServerConfig, server_options
from hayhooks.server.forks import ServedPorts
from hayhooks.server.preflight import check_settings
from hayhooks.server.protocol import stop_listening
from hayhooks.settings import Settings

_SAME_STOP_S = 1.0  # systemd and a supervisor may both send SIGTERM for one stop


def run_app(
    app: Hayhooks | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    pipelines: Mapping[str, WrapperFactory] | None = None,
    **settings: Any,
) -> None:
    """Serve until SIGINT or SIGTERM, as ``hayhooks run`` does.

    Without *app*, one is made of *pipelines*, as in ``create_app``, and of *settings*, the arguments of ``Settings``.
    *host* and *port* take precedence over the application's settings.
    Raises StartError, or SystemExit with the reason in the log, if the server cannot start.
    """
    address = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if app is None:
        app = create_app(Settings(**address, **settings), pipelines=pipelines)
    elif pipelines or settings:
        raise TypeError("run_app: pipelines and settings belong to the application: give them to create_app")
    elif not isinstance(app, Hayhooks):
        raise TypeError(f"run_app: {type(app).__name__} is not an application of create_app: serve it with uvicorn.run")
    elif address:
        checked = Settings(**address)
        app.settings = app.settings.model_copy(update={name: getattr(checked, name) for name in address})
    check_settings(app.settings)
    app.log_requests()
    serve(app)


def serve(app: Hayhooks, listener: socket | None = None, on_listen: Callable[[], None] | None = None) -> None:
    """Serve *app*, whose settings have been checked, until SIGINT or SIGTERM; on *listener* if it is given.

    *on_listen* is called when clients can connect.
    """
    AppStatus.enable_automatic_graceful_drain = False  # it ends streams of SDKs at the signal; ours it never sees
    server = Server(ServerConfig(app, **server_options(app.settings)))
    server.on_listen = on_listen
    server.run([listener] if listener else None)


class Server(uvicorn.Server):
    """uvicorn's server; it accepts queued connections first, and survives the signal."""

    on_listen: Callable[[], None] | None = None
    _is_over = False
    _stop_began_at = 0.0  # of a monotonic clock

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown, which ``/readyz`` reports; a second SIGINT forces it, and a SIGTERM that comes later.

        uvicorn would raise the signal again after the shutdown: the exit status would be -15.
        """
        now = time.monotonic()
        if self.should_exit:
            self.force_exit |= sig == signal.SIGINT or now - self._stop_began_at > _SAME_STOP_S
        else:
            self._stop_began_at = now
        self.config.app.begin_stop(at_once=self.force_exit)  # type: ignore[union-attr]  # serve() passes a Hayhooks
        self.should_exit = True

    def run(self, sockets: list[socket] | None = None) -> None:
        """Serve until a signal."""
        try:
            super().run(sockets)
        except RuntimeError:  # asyncio ends the default executor in a new thread, and the system may start none
            if not self._is_over:
                raise

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start as uvicorn does; children that wrappers fork keep none of the sockets."""
        await super().startup(sockets)
        if self.started:
            self._served = ServedPorts(listener for server in self.servers for listener in server.sockets)
            if self.on_listen is not None:
                self.on_listen()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Accept queued connections, then shut down as uvicorn does."""
        await stop_listening(self.servers)
        await super().shutdown(sockets)
        self._served.forget()
        self._is_over = True
