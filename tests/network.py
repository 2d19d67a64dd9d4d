"""Ports and raw connections, on the loopback interface alone."""

import socket
import threading
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


class Stranger:
    """Listens, notes what it is sent, and answers *answer*."""

    def __init__(self, answer: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.port = self._socket.getsockname()[1]
        self.heard: list[bytes] = []

    def run(self) -> None:
        """Until it is closed."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.heard.append(connection.recv(65536))
                connection.sendall(self._answer)

    def close(self) -> None:
        """Wake ``run``."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextmanager
def stranger(answer: bytes = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n") -> Iterator[Stranger]:
    """A stranger in a thread."""
    heard = Stranger(answer)
    thread = threading.Thread(target=heard.run, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        heard.close()
        thread.join(timeout=60)
