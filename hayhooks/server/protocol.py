"""What both HTTP protocols share: a graceful close, and nothing kept of finished requests."""

import asyncio
import contextvars
import json
import select
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from hayhooks.errors import OpenAIError
from hayhooks.kernel.standard_streams import STANDARD_DESCRIPTORS, take_back
from hayhooks.observability.log import log

MAX_HEAD_BYTES = 64 * 1024  # request line and headers

# Of a connection without a request. The scope of the last one would keep its generation alive while the client is idle.
NO_SCOPE: Any = {}

_LAST_REQUEST_S = 0.5  # an idle connection may bring one more request for this long
_ACCEPT_GRACE_S = 0.5  # connections queued at the listener are accepted for at most this long
_ACCEPT_ITERATIONS = 10  # loop iterations until an accepted socket has a protocol object; with a margin


class GracefulClose(asyncio.Protocol):
    """Mixin for uvicorn's protocols: at shutdown a connection serves one last request.

    uvicorn closes idle connections at once: a client could not know whether its next request was processed.
    """

    client: tuple[str, int] | None
    connections: set[Any]
    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    outside_request: contextvars.Context  # what starts in a request's context, a timer or a task, keeps its variables
    _closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, unless it has the number of a standard descriptor."""
        self.outside_request = contextvars.copy_context()  # which no request has changed
        super().connection_made(transport)
        socket = transport.get_extra_info("socket")
        descriptor = socket.fileno() if socket is not None else None
        if descriptor in STANDARD_DESCRIPTORS:  # what native code prints would go into it
            log.error("Closed a connection: user code had closed descriptor {}, its number", descriptor)
            self.transport.abort()
            take_back(descriptor)  # which closes the connection: libuv closes none of these numbers

    def shutdown(self) -> None:
        """Close the connection after the current request, or a brief wait for one."""
        self._closing = True
        if self._is_idle():
            # The second timer lets a loop that was busy meanwhile read what has arrived: uvloop runs timers first.
            self.loop.call_later(_LAST_REQUEST_S, self.loop.call_later, 0.01, self._close_if_idle)
        else:
            self.end_keep_alive()

    def data_received(self, data: bytes) -> None:
        """Parse *data*; a request that arrives while closing is the last one."""
        super().data_received(data)
        if self._closing and self.cycle is not None:
            self.end_keep_alive()

    def end_keep_alive(self) -> None:
        """Close the connection after the current response, which says so."""
        self.cycle.keep_alive = False

    def handle_websocket_upgrade(self, *event: Any) -> None:
        """Hand the connection to the websocket protocol, unless the handshake is invalid."""
        super().handle_websocket_upgrade(*event)  # type: ignore[misc]  # the protocol that this is mixed into has it
        protocol: Any = self.transport.get_protocol()
        # Without a handshake the websocket protocol would send nothing and block the shutdown.
        if not getattr(protocol, "handshake_initiated", True):
            self.connections.discard(protocol)
            self.transport.set_protocol(self)
            self.respond_and_close(400, "The handshake of the websocket is not valid")

    def respond_and_close(self, status: int, message: str) -> None:
        """Send an error response that no application has made."""
        log.info("Closed the connection of {}: {}", self.client and self.client[0], message)
        body = json.dumps(OpenAIError(status, message).body()).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _close_if_idle(self) -> None:
        if self._is_idle():
            self.transport.close()

    def _is_idle(self) -> bool:
        # There is no cycle before the first request.
        return self.cycle is None or bool(self.cycle.response_complete)


async def stop_listening(servers: Iterable[asyncio.Server]) -> None:
    """Accept queued connections, then close the sockets of *servers*.

    The system resets queued connections when their listener closes: tests/deployment/test_stopping.py.
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
