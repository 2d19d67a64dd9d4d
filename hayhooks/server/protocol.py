"""HTTP connections: the protocol that serves, and how connections close at shutdown."""

import asyncio
import select
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hayhooks.observability.log import log
from hayhooks.settings import Settings

# uvicorn versions whose httptools protocol `fast_protocol.py` extends: tests/server/test_protocol.py passes with them.
TESTED_UVICORN = ("0.54",)

MAX_HEAD_BYTES = 64 * 1024  # request line and headers

_LAST_REQUEST_S = 0.5  # an idle connection may bring one more request for this long
_ACCEPT_GRACE_S = 0.5  # connections queued at the listener are accepted for at most this long
_ACCEPT_ITERATIONS = 10  # loop iterations until an accepted socket has a protocol object


def protocol_factory(settings: Settings) -> Callable[..., asyncio.Protocol]:
    """Choose the HTTP protocol for this uvicorn version."""
    if settings.fast_protocol and _is_tested(uvicorn.__version__):
        from hayhooks.server.fast_protocol import FastHttpProtocol, PendingHeads  # noqa: PLC0415 - only for these versions

        return partial(FastHttpProtocol, read_timeout_s=settings.read_timeout, pending_heads=PendingHeads())
    if settings.fast_protocol:
        log.warning(
            "uvicorn {} is not among the tested versions ({}): serving with its h11 protocol, which is slower, "
            "sets no time limit on request headers, and limits their size but not their number",
            uvicorn.__version__,
            ", ".join(f"{version}.x" for version in TESTED_UVICORN),
        )
    return PlainHttpProtocol


def _is_tested(version: str) -> bool:
    return version.rpartition(".")[0] in TESTED_UVICORN


class GracefulClose(asyncio.Protocol):
    """Mixin for uvicorn's protocols: at shutdown a connection serves the request on its way, then closes.

    uvicorn closes idle connections at once. A proxy or client may have sent its next request by then, and could not
    know whether it was processed.
    """

    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _closing = False

    def shutdown(self) -> None:
        """Finish the request in progress, or wait briefly for one, then close the connection."""
        self._closing = True
        if self._is_idle():
            self.loop.call_later(_LAST_REQUEST_S, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def data_received(self, data: bytes) -> None:
        """Parse *data*; a request that arrives while closing is the last one."""
        super().data_received(data)
        if self._closing and self.cycle is not None:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self._is_idle():
            self.transport.close()

    def _is_idle(self) -> bool:
        # There is no cycle before the first request.
        return self.cycle is None or bool(self.cycle.response_complete)


class PlainHttpProtocol(GracefulClose, H11Protocol):
    """uvicorn's h11 protocol. It bounds request heads and ignores unknown upgrades by itself."""


async def stop_listening(servers: Iterable[asyncio.Server]) -> None:
    """Accept queued connections, then close the sockets of *servers*.

    The system resets connections that are still queued when their listener closes
    (tests/deployment/test_stopping.py fails without this).
    """
    listening = select.poll()
    for listener in (listener for server in servers for listener in server.sockets):
        listening.register(listener, select.POLLIN)
    end = time.monotonic() + _ACCEPT_GRACE_S
    while listening.poll(0) and time.monotonic() < end:  # noqa: ASYNC110 - no event tells that the queue is empty
        await asyncio.sleep(0)  # the loop accepts connections here
    for server in servers:
        server.close()
    for _ in range(_ACCEPT_ITERATIONS):
        await asyncio.sleep(0)


def server_options(settings: Settings) -> dict[str, Any]:
    """Return uvicorn's configuration for *settings*."""
    return {
        "host": settings.host,
        "port": settings.port,
        "root_path": settings.root_path,
        "timeout_graceful_shutdown": settings.graceful_shutdown_timeout,
        "timeout_keep_alive": settings.read_timeout,
        "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
        "log_config": None,  # configure_logging has been called
        "access_log": False,  # hayhooks writes its own
        "http": protocol_factory(settings),
        "ws": _websocket_protocol,
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
        "ssl_keyfile_password": settings.ssl_keyfile_password,
    }


def _websocket_protocol(**context: Any) -> asyncio.Protocol:
    from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol  # noqa: PLC0415 - row start: 8 ms, rarely used

    assert AutoWebSocketsProtocol is not None  # uvicorn[standard] installs one
    return AutoWebSocketsProtocol(**context)
