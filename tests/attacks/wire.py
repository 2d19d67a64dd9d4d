"""Raw requests, and a server with each of the two protocols in a process of its own."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.processes import Process, started
from tests.live_server import ECHO, eventually, replace
from tests.network import connected
from tests.wrappers import source

MB = 1_000_000

PROTOCOLS = pytest.mark.parametrize("protocol", ["fast", "plain"], scope="module")


class Wire:
    """A server in a process, which serves "echo", and "waits" until ``gate`` exists."""

    def __init__(self, process: Process, gate: Path, protocol: str) -> None:
        self.process = process
        self.port = process.port
        self.gate = gate
        self.protocol = protocol

    def connected(self, *, timeout_s: float = 30, receive_buffer: int = 0) -> AbstractContextManager[socket.socket]:
        return connected(self.port, timeout_s=timeout_s, receive_buffer=receive_buffer)

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1000

    def health_s(self) -> float:
        """The processor time that the server takes during a request to ``/healthz``."""
        begun = self.process.processor_s()
        assert self.process.get("/healthz").status_code == 200
        return self.process.processor_s() - begun

    def logged(self) -> str:
        return self.process.output()

    def told(self, event: str, number: int) -> bool:
        """Tell whether the run *number* of "waits" has "begun", or was "cancelled"."""
        return Path(f"{self.gate}-{event}-{number}").exists()


@contextmanager
def wired(folder: Path, protocol: str, **settings: Any) -> Iterator[Wire]:
    """Serve with *protocol*, "fast" or "plain"."""
    gate = folder / "gate"
    replace(folder / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    replace(folder / "pipelines/waits/pipeline_wrapper.py", f"GATE = {str(gate)!r}\n" + source("waits"))
    with started(folder, "run", FAST_PROTOCOL=str(protocol == "fast"), **settings) as process:
        eventually(lambda: len(process.get("/status").json()["pipelines"]) >= 2)
        yield Wire(process, gate, protocol)


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def post(path: str, body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def chunked(path: str, body: bytes = b"{}", *headers: str, trailers: bytes = b"") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", "Transfer-Encoding: chunked"]
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return "\r\n".join([*lines, *headers, "", ""]).encode() + chunk + b"0\r\n" + trailers + b"\r\n"


class Responses:
    """Reads responses from a connection, one by one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""

    def next(self) -> tuple[int, bytes]:
        """Return status and body of the next response; 0 if the connection ends before it."""
        while (head := self._up_to(b"\r\n\r\n")).startswith(b"HTTP/1.1 1"):
            pass
        if not head:
            return 0, b""
        if length := re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE):
            body = self._take(int(length[1]))
        elif b"transfer-encoding: chunked" in head.lower():
            body = b""
            while size := int(self._up_to(b"\r\n"), 16):
                body += self._take(size)
                self._take(2)
            self._take(2)
        else:
            body = b""
        return int(head.split()[1]), body

    def ended(self) -> bool:
        """Tell whether the connection ends with what has been read."""
        return not self._received and not self._more()

    def _up_to(self, end: bytes) -> bytes:
        while end not in self._received:
            if not self._more():
                return b""
        data, _, self._received = self._received.partition(end)
        return data

    def _take(self, size: int) -> bytes:
        while len(self._received) < size and self._more():
            pass
        data, self._received = self._received[:size], self._received[size:]
        return data

    def _more(self) -> bool:
        try:
            data = self._connection.recv(65536)
        except ConnectionResetError:
            return False
        self._received += data
        return bool(data)


def exchange(port: int, *pieces: bytes, count: int = 1, pause_s: float = 0.0) -> list[tuple[int, bytes]]:
    """Send *pieces*, each in a segment of its own, and return *count* responses."""
    with connected(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause_s)
        responses = Responses(connection)
        return [responses.next() for _ in range(count)]


def flood(connection: socket.socket, piece: bytes, *, at_most: int = 60 * MB) -> int:
    """Send *piece* again and again until the server closes the connection, or takes nothing for a second."""
    connection.settimeout(1)
    sent = 0
    while sent < at_most:
        try:
            sent += connection.send(piece)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            break
    return sent
