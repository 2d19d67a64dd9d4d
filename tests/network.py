"""Ports and raw connections, on the loopback interface alone."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def connected(port: int, *, timeout_s: float = 30, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """A raw connection to *port*; with a small *receive_buffer* the server soon notices a slow reader."""
    with socket.socket() as connection:
        connection.settimeout(timeout_s)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect((HOST, port))
        yield connection
