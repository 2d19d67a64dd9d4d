"""What an attack costs a server in a process of its own: how its memory grows, and how long others wait beside it."""

import re
import statistics
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
    slowest_s: float  # of the requests to /healthz beside it
    slowness: float  # how much longer than usual this machine takes for anything at the moment, from 1 to 4

    def check(self, megabytes: int) -> None:
        """The server grew by *megabytes* at most, and nobody waited half a second for the event loop."""
        assert self.grown_mb <= megabytes
        assert not self.is_slow

    @property
    def is_slow(self) -> bool:
        return self.slowest_s > 0.5 * self.slowness


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
        slowness = _slowness()
        pid = self.process.process.pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        before = _peak_mb(pid)
        result, slowest_s, beside = self._slowest(attack)
        return Cost(result, _peak_mb(pid) - before, slowest_s, max(slowness, beside, _slowness()))

    def _slowest(self, work: Callable[[], T]) -> tuple[T, float, float]:
        """Return what *work* does, how long others waited beside it, and how slow the machine was meanwhile."""
        done = threading.Event()
        times, slowness = [0.0], [1.0]

        def ask() -> None:
            with httpx.Client(base_url=self.url, timeout=60) as client:
                while not done.wait(0.01):
                    begun = time.monotonic()
                    client.get("/healthz").raise_for_status()
                    times.append(time.monotonic() - begun)
                    slowness.append(_slowness(0.02))

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            return work(), max(times), statistics.mean(slowness)
        finally:
            done.set()
            thread.join()


def _slowness(share: float = 1.0) -> float:
    begun = time.monotonic()
    sum(range(int(USUALLY_100_MS * share)))
    return min(max(1.0, (time.monotonic() - begun) / (0.1 * share)), 4.0)


def _peak_mb(pid: int) -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) // 1024
