"""The load generator: repeat one request over many connections, and check every answer.

It runs in its own process and must be faster than the servers. It reads a JSON list of jobs per line from stdin, and
prints a JSON list of figures per line, until stdin ends.
"""

import asyncio
import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

DEADLINE_S = 60.0  # for requests in flight when the time is over
CONTENT = re.compile(rb'"content": ?"([^"]+)"')


@dataclass
class Job:
    """A request, how long to repeat it, and the right answer.

    Attributes:
        expect: the body of the right answer, or the joined text of a stream's chunks.
        chunks: the number of a stream's chunks; 0 for other answers.
        pace_s: the pause between two requests on one connection.
    """

    url: str
    method: str
    path: str
    body: str = ""
    expect: str = ""
    chunks: int = 0
    connections: int = 1
    seconds: float = 1.0
    pace_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    took_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    ends_at: float = 0.0

    def request(self) -> bytes:
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: {urlsplit(self.url).netloc}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        body = self.body.encode()
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        return f"{head}{length}\r\n".encode() + body

    def check(self, head: bytes, body: bytes) -> None:
        """Record a wrong answer."""
        if not head.startswith(b"HTTP/1.1 200 "):
            self.wrong.append(f"{head[:40]!r} {body[:200]!r}")
        elif self.chunks:
            texts = CONTENT.findall(body)
            ended = body.count(b"data: [DONE]\n\n") == 1 and body.endswith(b"data: [DONE]\n\n")
            if len(texts) != self.chunks or b"".join(texts).decode() != self.expect or not ended:
                self.wrong.append(f"{len(texts)} chunks of {self.chunks}, ending with {body[-200:]!r}")
        elif self.expect and body != self.expect.encode():
            self.wrong.append(f"{body[:200]!r}, expected {self.expect[:200]!r}")


class Connection(asyncio.Protocol):
    """A connection that sends the request again after each answer, until the time is over."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._request = job.request()
        self._data = bytearray()
        self._sent_at = 0.0  # 0: no request is in flight
        self._length = 0  # bytes of head and body; -1 for a chunked answer
        self._head_length = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's class does not derive from asyncio.Transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._head_length and not self._read_head():
            return
        chunked = self._length < 0
        if not self._data.endswith(b"\r\n0\r\n\r\n") if chunked else len(self._data) < self._length:
            return
        head, body = bytes(self._data[: self._head_length]), bytes(self._data[self._head_length :])
        self._data.clear()
        self._head_length = 0
        self._finish(head, unchunked(body) if chunked else body)

    def _finish(self, head: bytes, body: bytes) -> None:
        self._job.check(head, body)
        now = time.perf_counter()
        self._job.took_s.append(now - self._sent_at)
        self._sent_at = 0.0
        if now + self._job.pace_s >= self._job.ends_at or self._job.wrong:
            self._transport.close()
        elif self._job.pace_s:
            asyncio.get_running_loop().call_later(self._job.pace_s, self._send)
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if self._sent_at:
            self._job.wrong.append(f"the connection was closed before the end of an answer: {error!r}")
        if not self.done.done():
            self.done.set_result(None)

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def _read_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._head_length = end + 4
        head = bytes(self._data[: end + 2]).lower()
        length = head.find(b"\r\ncontent-length:")
        self._length = -1 if length < 0 else self._head_length + int(head[length + 17 : head.find(b"\r\n", length + 2)])
        return True


def unchunked(data: bytes) -> bytes:
    """Decode HTTP's chunked transfer coding."""
    parts, position = [], 0
    while True:
        end = data.index(b"\r\n", position)
        length = int(data[position:end], 16)
        if not length:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + length])
        position = end + 4 + length


async def measure(job: Job) -> dict[str, Any]:
    """Run *job* and return its figures."""
    loop, where = asyncio.get_running_loop(), urlsplit(job.url)
    began = time.perf_counter()
    job.ends_at = began + job.seconds
    connections = [Connection(job) for _ in range(job.connections)]
    for connection in connections:
        await loop.create_connection(lambda connection=connection: connection, where.hostname, where.port)
    try:
        await asyncio.wait_for(
            asyncio.gather(*(connection.done for connection in connections)), job.seconds + DEADLINE_S
        )
    except TimeoutError:
        job.wrong.append(f"no answer within {DEADLINE_S:g} s")
    took_s = time.perf_counter() - began
    ordered = sorted(job.took_s) or [0.0]
    return {
        "answers": len(job.took_s),
        "took_s": took_s,
        "p50_ms": ordered[len(ordered) // 2] * 1000,
        "p99_ms": ordered[len(ordered) * 99 // 100] * 1000,
        "wrong": len(job.wrong),
        "first_wrong": job.wrong[0] if job.wrong else "",
    }


async def together(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run *jobs* concurrently."""
    asyncio.get_running_loop().set_exception_handler(give_up)
    return await asyncio.gather(*(measure(Job(**job)) for job in jobs))


def give_up(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exit after a bug of this script, so that the benchmark does not wait for figures forever."""
    loop.default_exception_handler(context)
    os._exit(1)


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(uvloop.run(together(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
