"""What both HTTP protocols share: a graceful and a forced close, and nothing kept of finished requests."""

import asyncio
import contextvars
import fcntl
import json
import select
import socket
import struct
import sys
import termios
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl

from hayhooks.errors import OpenAIError
from hayhooks.kernel.standard_streams import STANDARD_DESCRIPTORS, take_back
from hayhooks.observability.log import log

MAX_HEAD_BYTES = 64 * 1024  # request line and headers
MAX_HEADERS = 256

# Of a connection without a request. The scope of the last one would keep its generation alive while the client is idle.
NO_SCOPE: Any = {}

# The transport of TLS takes a body of any size at once. Only between two writes it tells that the client takes nothing.
TLS_PIECE_BYTES = 256 * 1024

_SWEEP_S = 1.0  # between two looks at all connections
_ACKED_BYTES = struct.Struct("120xQ")  # tcpi_bytes_acked of Linux's struct tcp_info
_DEPARTED = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere only a reset is noticed

_LAST_REQUEST_S = 0.5  # an idle connection may bring one more request for this long
_ACCEPT_GRACE_S = 0.5  # connections queued at the listener are accepted for at most this long
_ACCEPT_ITERATIONS = 10  # loop iterations until an accepted socket has a protocol object; with a margin


class Flow(FlowControl):
    """uvicorn's flow control; a held connection is not read, and a cancelled send ends its connection."""

    _held = False

    def hold(self) -> None:
        """Read nothing until ``release``, whatever the application receives."""
        self._held = True
        self.pause_reading()

    def release(self) -> None:
        """Read again."""
        self._held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        """Read again, unless held."""
        if self.read_paused and not self._held:
            super().resume_reading()

    async def drain(self) -> None:
        """Wait until the client has taken most of what was sent."""
        try:
            await super().drain()
        except asyncio.CancelledError:  # by a timeout: what is unsent would wait for the client without limit
            reset(self._transport)
            raise


def pieces_of(body: bytes) -> Iterator[bytes]:
    """Cut *body* into the pieces in which it is written with TLS."""
    view = memoryview(body)
    return (bytes(view[start : start + TLS_PIECE_BYTES]) for start in range(0, len(view), TLS_PIECE_BYTES))


def reset(transport: asyncio.Transport) -> None:
    """End a connection at once, with what is unsent in the server and in the system."""
    with suppress(OSError, ValueError):  # uvloop's word for a socket that is closed
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class StalledClients:
    """Ends connections by force, whose clients no longer take part; shared by a server's connections.

    - A client that takes nothing of a response for *write_timeout_s*.
    - A client that has left while its connection is not read: nothing else tells.
    - A client of TLS that does not answer when the server closes the connection.
    """

    def __init__(self, write_timeout_s: float) -> None:
        self._write_timeout_s = write_timeout_s
        self._period_s = min(_SWEEP_S, write_timeout_s / 4)
        self._connections: set[Any] = set()
        self._is_sweeping = False
        self._unsent: dict[Any, tuple[int, float]] = {}  # by connection: the progress, and when it was noticed
        self._closing: set[Any] = set()

    def watch(self, connections: set[Any]) -> None:
        """Begin to look at *connections* from time to time, until there are none."""
        if not self._is_sweeping:
            self._is_sweeping = True
            self._connections = connections
            asyncio.get_running_loop().call_later(self._period_s, self._sweep)

    def _sweep(self) -> None:
        try:
            self._end_stalled()
        finally:
            self._is_sweeping = False
            if self._connections:
                self.watch(self._connections)

    def _end_stalled(self) -> None:
        now = time.monotonic()
        unsent: dict[Any, tuple[int, float]] = {}
        closing: set[Any] = set()
        for connection in tuple(self._connections):
            transport = connection.transport
            if size := _unsent_bytes(transport):
                progress = _progress(transport, size)
                before, since = self._unsent.get(connection, (progress, now))
                if progress != before:
                    since = now
                if now - since < self._write_timeout_s:
                    unsent[connection] = progress, since
                    continue
                reason = f"it took no data for {self._write_timeout_s:g} s (HAYHOOKS_WRITE_TIMEOUT)"
                log.info("Closed the connection of {}: {}", connection.client and connection.client[0], reason)
                reset(transport)
            elif transport.is_closing():
                if connection in self._closing:
                    transport.abort()
                closing.add(connection)
            elif not transport.is_reading() and _has_left(transport):
                transport.abort()
        self._unsent, self._closing = unsent, closing


def _unsent_bytes(transport: asyncio.Transport) -> int:
    unsent = transport.get_write_buffer_size()
    if not unsent and transport.get_extra_info("sslcontext") is not None:
        # With TLS the transport below holds what is unsent, and does not tell; the system's buffer is not empty then.
        with suppress(OSError):
            queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
            unsent = int.from_bytes(queued, sys.byteorder)
    return unsent


def _progress(transport: asyncio.Transport, unsent: int) -> int:
    """Return a number that changes when the client takes data."""
    # The system takes data in large pieces: with a slow client the unsent bytes may be the same for a minute.
    connection = transport.get_extra_info("socket")
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_BYTES.size)
        (acked,) = _ACKED_BYTES.unpack(info)
    except (AttributeError, OSError, struct.error):  # not Linux, or no TCP
        acked = 0
    return acked or unsent


def _has_left(transport: asyncio.Transport) -> bool:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), _DEPARTED)
    return bool(poll.poll(0))


class GracefulClose(asyncio.Protocol):
    """Mixin for uvicorn's protocols: at shutdown a connection serves one last request.

    uvicorn closes idle connections at once: a client could not know whether its next request was processed.
    Connections of one server share *stalled_clients*.
    """

    client: tuple[str, int] | None
    connections: set[Any]
    cycle: Any
    flow: Any
    loop: asyncio.AbstractEventLoop
    scope: Any
    transport: asyncio.Transport
    outside_request: contextvars.Context  # what starts in a request's context, a timer or a task, keeps its variables
    _closing = False

    def __init__(self, *args: Any, stalled_clients: StalledClients, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stalled_clients = stalled_clients

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, unless it has the number of a standard descriptor."""
        self.outside_request = contextvars.copy_context()  # which no request has changed
        super().connection_made(transport)
        self.flow = Flow(self.transport)
        self._stalled_clients.watch(self.connections)
        connection = transport.get_extra_info("socket")
        descriptor = connection.fileno() if connection is not None else None
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

    def _should_upgrade(self) -> bool:
        """Tell whether the request asks for a websocket; any other upgrade is ignored (RFC 9110, 7.8)."""
        return (
            self.scope["method"] == "GET"
            and self.scope["http_version"] == "1.1"
            and not any(
                name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
                for name, value in self.scope["headers"]
            )
            and super()._should_upgrade()  # type: ignore[misc]  # the protocol that this is mixed into has it
        )

    def handle_websocket_upgrade(self, *event: Any) -> None:
        """Hand the connection to the websocket protocol, unless the handshake is invalid."""
        super().handle_websocket_upgrade(*event)  # type: ignore[misc]  # as above
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


def too_many_headers(count: int) -> str:
    """Say that a request has *count* headers, more than are allowed."""
    return f"Too many request headers: {count:,}; at most {MAX_HEADERS} are allowed"


def wrong_version(version: str) -> str:
    """Say that HTTP *version*, of a request line, is not spoken."""
    return f"HTTP/{version} is not supported: use HTTP/1.1 or HTTP/1.0"


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
