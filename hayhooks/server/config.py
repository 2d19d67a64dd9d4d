"""Configure uvicorn: its options and the HTTP protocol."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from hayhooks.observability.log import log
from hayhooks.server.protocol import MAX_HEAD_BYTES, StalledClients
from hayhooks.settings import Settings

# uvicorn versions whose httptools protocol `fast_protocol.py` and `fast_cycle.py` extend: those that
# tests/server/test_protocol.py passes with.
FAST_UVICORN_VERSIONS = ("0.53", "0.54")


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, with a limit on TLS handshakes: *timeout_keep_alive*, which is ``read_timeout``."""

    def get_loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop] | None:
        """Return what makes the event loop."""
        factory = super().get_loop_factory()
        if not self.is_ssl:
            return factory

        # uvicorn has no option for the limit, and its workers make their servers themselves.
        def limited_loop() -> asyncio.AbstractEventLoop:
            loop = (factory or asyncio.new_event_loop)()
            create_server: Any = loop.create_server

            def create_server_with_limit(*args: Any, ssl: Any = None, **options: Any) -> Any:
                if ssl is not None:
                    options.setdefault("ssl_handshake_timeout", self.timeout_keep_alive)
                return create_server(*args, ssl=ssl, **options)

            loop.create_server = create_server_with_limit  # type: ignore[method-assign]
            return loop

        return limited_loop


def server_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments of ``uvicorn.Config`` for *settings*."""
    return {
        "host": settings.host,
        "port": settings.port,
        "root_path": settings.root_path,
        "timeout_graceful_shutdown": settings.graceful_shutdown_timeout,
        "timeout_keep_alive": settings.read_timeout,
        "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
        "log_config": None,  # configure_logging has been called
        "access_log": False,  # hayhooks writes its own
        "http": _http_protocol(settings),
        "ws": _websocket_protocol,
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
        "ssl_keyfile_password": settings.ssl_keyfile_password,
    }


def _http_protocol(settings: Settings) -> Callable[..., asyncio.Protocol]:
    version, stalled_clients = uvicorn.__version__, StalledClients(settings.write_timeout)
    if settings.fast_protocol and version.rpartition(".")[0] in FAST_UVICORN_VERSIONS:
        from hayhooks.server.fast_cycle import PendingHeads  # noqa: PLC0415 - only these versions
        from hayhooks.server.fast_protocol import FastHttpProtocol  # noqa: PLC0415 - as above

        return partial(
            FastHttpProtocol,
            read_timeout_s=settings.read_timeout,
            pending_heads=PendingHeads(),
            stalled_clients=stalled_clients,
        )
    if settings.fast_protocol:
        log.warning(
            "uvicorn {} is not among the versions of the fast HTTP protocol ({}): serving with uvicorn's h11 protocol. "
            "It is slower, does not limit the number of request headers, "
            "and reads on without limit after a response that did not wait for the whole body",
            version,
            ", ".join(f"{version}.x" for version in FAST_UVICORN_VERSIONS),
        )
    from hayhooks.server.plain_protocol import PlainHttpProtocol  # noqa: PLC0415 - row start: 12 ms, rarely used

    return partial(PlainHttpProtocol, stalled_clients=stalled_clients)


def _websocket_protocol(**context: Any) -> asyncio.Protocol:
    from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol  # noqa: PLC0415 - row start: 8 ms, rarely used

    assert AutoWebSocketsProtocol is not None  # uvicorn[standard] installs one
    return AutoWebSocketsProtocol(**context)
