"""Simulate servers that look at one directory and load from it. Seconds and counts go in and come out; no server runs.

What it leaves out: requests beside the loads, networks, the differences between machines. A server's process loads with
one core at a time (the global interpreter lock), so a second core of its node does not speed it up.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

# As hayhooks/kernel has them.
DEFAULT_LOADS = 4  # that begin at a time with HAYHOOKS_LOADS_AT_A_TIME=0
SLOW_S = 1.0  # one that takes longer then makes room for another
HANGS_S = 60.0  # the same with another value of the setting
SCAN_SHARE = 1 / 200  # of a processor that looks take while there are events
MAX_POLL_S = 10.0

# As the client of OpenAI has them.
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 8.0


@dataclass(frozen=True, slots=True)
class Provider:
    """A model provider that answers *rate* calls a second, and others with a 429."""

    rate: float
    latency_s: float = 0.3
    retries: int = 2  # of a call; then the load fails


@dataclass(frozen=True, slots=True)
class Reload:
    """The same pipelines change on all nodes, or all nodes start.

    Attributes:
        cpu_s: processor time of one load.
        wait_s: what its ``setup()`` waits besides; not with a provider.
        seen_within_s: the nodes see the change at random times within this.
        provider: each load calls it once.
    """

    nodes: int
    pipelines: int
    cpu_s: float
    wait_s: float = 0.0
    loads_at_a_time: int = 0
    jitter_s: float = 0.0
    seen_within_s: float = 0.0
    provider: Provider | None = None


@dataclass(slots=True)
class Outcome:
    """What came of a reload.

    Attributes:
        served_s: when each load that succeeded had ended, in order.
        failed: number of loads that gave up.
        calls: at the provider, by second.
        most_loads: that were in progress on one node.
    """

    served_s: list[float] = field(default_factory=list)
    failed: int = 0
    calls: Counter[int] = field(default_factory=Counter)
    most_loads: int = 0

    @property
    def took_s(self) -> float:
        return self.served_s[-1] if self.served_s else 0.0

    @property
    def peak_calls(self) -> int:
        return max(self.calls.values(), default=0)


class Simulation:
    """A clock and what is to happen."""

    def __init__(self, reload: Reload, seed: int) -> None:
        self.reload = reload
        self.random = random.Random(seed)
        self.now = 0.0
        self.outcome = Outcome()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._tokens = reload.provider.rate if reload.provider else 0.0
        self._filled_at = 0.0

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), event))

    def run(self) -> Outcome:
        reload = self.reload
        for _ in range(reload.nodes):
            node = Node(self)
            seen_at = self.random.uniform(0, reload.seen_within_s)
            for _ in range(reload.pipelines):
                self.at(seen_at + self.random.uniform(0, reload.jitter_s), node.queue_load)
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self.outcome

    def answers(self, provider: Provider) -> bool:
        """Count a call; whether it is answered and not refused."""
        self.outcome.calls[int(self.now)] += 1
        self._tokens = min(provider.rate, self._tokens + (self.now - self._filled_at) * provider.rate)
        self._filled_at = self.now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(slots=True, eq=False)
class Load:
    counts: bool = True  # it takes one of the places
    retries: int = 0


class Node:
    """One server process."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._waiting = 0
        self._loading = 0
        self._counted = 0  # of those that load, the ones that take a place
        self._core_free_at = 0.0

    def queue_load(self) -> None:
        self._waiting += 1
        self._begin_loads()

    def _begin_loads(self) -> None:
        simulation = self._simulation
        limit, patience_s = simulation.reload.loads_at_a_time, HANGS_S
        if not limit:
            limit, patience_s = DEFAULT_LOADS, SLOW_S
        while self._waiting and self._counted < limit:
            self._waiting -= 1
            self._loading += 1
            self._counted += 1
            simulation.outcome.most_loads = max(simulation.outcome.most_loads, self._loading)
            load = Load()
            simulation.at(simulation.now + patience_s, partial(self._make_room, load))
            self._core_free_at = max(self._core_free_at, simulation.now) + simulation.reload.cpu_s
            simulation.at(self._core_free_at, partial(self._go_on, load))

    def _go_on(self, load: Load) -> None:
        """Do what a load does after its work: call the provider, or wait."""
        simulation, provider = self._simulation, self._simulation.reload.provider
        if provider is None:
            simulation.at(simulation.now + simulation.reload.wait_s, partial(self._end, load))
        elif simulation.answers(provider):
            simulation.at(simulation.now + provider.latency_s, partial(self._end, load))
        elif load.retries < provider.retries:
            delay_s = min(FIRST_DELAY_S * 2 ** min(load.retries, 10), MAX_DELAY_S) * simulation.random.uniform(0.75, 1)
            load.retries += 1
            simulation.at(simulation.now + delay_s, partial(self._go_on, load))
        else:
            simulation.outcome.failed += 1
            self._end(load, is_served=False)

    def _end(self, load: Load, *, is_served: bool = True) -> None:
        if is_served:
            self._simulation.outcome.served_s.append(self._simulation.now)
        self._loading -= 1
        self._make_room(load)

    def _make_room(self, load: Load) -> None:
        if load.counts:
            load.counts = False
            self._counted -= 1
            self._begin_loads()


def simulate(reload: Reload, seed: int = 1) -> Outcome:
    if reload.provider is None and not reload.jitter_s and reload.nodes > 1:
        # The nodes do not affect each other, and each takes the same time from when it sees the change.
        one = Simulation(replace(reload, nodes=1, seen_within_s=0.0), seed).run()
        seen = [random.Random(seed + node).uniform(0, reload.seen_within_s) for node in range(reload.nodes)]
        return Outcome(sorted(at + served_s for at in seen for served_s in one.served_s), most_loads=one.most_loads)
    return Simulation(reload, seed).run()


@dataclass(frozen=True, slots=True)
class Look:
    """One full look of a server at the directory.

    Attributes:
        cpu_s: its processor time.
        calls: of the file system that ask for attributes or a list of names.
        paths: the files and directories among them.
    """

    cpu_s: float
    calls: int
    paths: int


def interval(look: Look, poll_s: float, *, events: bool) -> float:
    """Return the seconds from one full look to the next."""
    return max(poll_s, min(look.cpu_s / SCAN_SHARE, MAX_POLL_S)) if events else poll_s


def calls_on_mount(watchers: int, look: Look, every_s: float, seed: int = 1) -> tuple[float, float]:
    """Return the calls of a second, on average and at most; each watcher begins at a random time."""
    chance, duration_s = random.Random(seed), 60
    seconds: Counter[int] = Counter()
    for _ in range(watchers):
        at = chance.uniform(0, every_s)
        while at < duration_s:
            seconds[int(at)] += look.calls
            at += every_s
    return watchers * look.calls / every_s, max((seconds[second] for second in range(duration_s)), default=0)


def check() -> None:
    """Compare with what can be computed by hand; raise RuntimeError."""
    for reload, *expected in _KNOWN:
        outcome = simulate(reload)
        told = [round(outcome.took_s, 6), outcome.failed, outcome.most_loads]
        if told != expected:
            raise RuntimeError(f"{reload}: {told} and not {expected}")


_KNOWN: tuple[tuple[Reload, float, int, int], ...] = (
    # One after the other; side by side, except for the core; and as many as there are.
    (Reload(1, 10, 0.01, 0.99, loads_at_a_time=1), 10.0, 0, 1),
    (Reload(1, 10, 0.0, 0.5, loads_at_a_time=5), 1.0, 0, 5),
    (Reload(3, 100, 0.01, loads_at_a_time=100), 1.0, 0, 100),
    # Four begin each second where they are slow, and wait for each other where they are not.
    (Reload(1, 12, 0.0, 10.0), 12.0, 0, 12),
    (Reload(1, 12, 0.0, 0.5), 1.5, 0, 4),
    # Of one that hangs for 100 s others wait for 60 s.
    (Reload(1, 2, 0.0, 100.0, loads_at_a_time=1), 160.0, 0, 2),
    # A provider that answers five, and no retries.
    (Reload(8, 1, 0.0, provider=Provider(5.0, latency_s=0.1, retries=0)), 0.1, 3, 1),
)
