"""What an attack costs a server in a process of its own: how its memory grows, and how long others wait beside it."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import httpx

from tests.cli.processes import Process

T = TypeVar("T")

USUALLY_100_MS = 4_000_000


@dataclass(frozen=True)
class Cost(Generic[T]):
    """What was measured while a function ran."""

    result: T
    grown_mb: int  # peak of the resident memory, above what it was before
    slowest_s: float  # for a request to /healthz beside it, of a usual processor

    def check(self, megabytes: int) -> None:
        """The server grew by *megabytes* at most, and nobody waited half a second for the event loop."""
        assert self.grown_mb <= megabytes
        assert not self.is_slow

    @property
    def is_slow(self) -> bool:
        return self.slowest_s > 0.5


class Attacked:
    """A server in a process of its own."""

    def __init__(self, process: Process, root: Path) -> None:
        self.process = process
        self.root = root
        self.url = process.url
        self.port = process.port
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def cost(self, attack: Callable[[], T]) -> Cost[T]:
        """Run *attack*, and measure; twice more where others wait long: it may be the machine."""
        costs = [self._cost(attack)]
        while costs[-1].is_slow and len(costs) < 3:
            costs.append(self._cost(attack))
        return replace(costs[-1], grown_mb=max(cost.grown_mb for cost in costs))

    def _cost(self, attack: Callable[[], T]) -> Cost[T]:
        pid = self.process.process.pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        before = _peak_mb(pid)
        result, slowest_s = self._slowest(attack)
        return Cost(result, _peak_mb(pid) - before, slowest_s)

    def _slowest(self, work: Callable[[], T]) -> tuple[T, float]:
        """Return what *work* does, and how long the server kept a request beside it waiting.

        That is the processor time that its process took meanwhile, since a busy machine lets it wait too; or the time,
        where several threads computed at once.
        """
        done = threading.Event()
        times = [0.0]

        def ask() -> None:
            with httpx.Client(base_url=self.url, timeout=60) as client:
                while not done.wait(0.01):
                    began, computed = time.monotonic(), self.process.processor_s()
                    client.get("/healthz").raise_for_status()
                    times.append(min(time.monotonic() - began, self.process.processor_s() - computed))

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            result = work()
        finally:
            done.set()
            thread.join()
        return result, max(times) / _slowness()


def _slowness() -> float:
    """How much longer than usual a processor takes for anything at the moment."""
    began = time.thread_time()
    sum(range(USUALLY_100_MS))
    return max(1.0, (time.thread_time() - began) / 0.1)


def _peak_mb(pid: int) -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) // 1024
