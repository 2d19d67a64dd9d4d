"""Measure what one server costs on this machine, with real servers and the real kernel."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.request import Request, urlopen

import bench_servers as servers
from bench_servers import Server
from capacity_model import Look

from hayhooks.kernel.scan import EVERYTHING, Scanner

HAYHOOKS = Path(sys.executable).with_name("hayhooks")
LATENCY_S = 0.3  # of a call that is answered
VERSIONED = "async def run_api_async(self) -> int:\n    return VERSION"
TRIVIAL_SYNC = "def run_api(self) -> int:\n    return 1"
CALL = """
import random
import urllib.error
import urllib.request


def call(url):
    for retry in range(3):  # as the client of OpenAI does it
        try:
            return urllib.request.urlopen(url, timeout=60).read()
        except urllib.error.HTTPError:
            if retry == 2:
                raise
            time.sleep(0.5 * 2**retry * random.uniform(0.75, 1))

"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    looks: tuple[int, ...] = (10, 100, 1000)
    pipelines: int = 1000  # of one server
    with_haystack: int = 20
    saves: int = 20
    # Measurements that are compared with the simulation: loads at a time, and jitter in seconds.
    waiting: int = 100  # loads that wait
    wait_s: float = 0.2  # each of them
    waiting_ways: tuple[tuple[int, float], ...] = ((1, 0.0), (4, 0.0), (16, 0.0), (0, 0.0), (0, 5.0))
    calling: int = 200  # loads that call a provider
    rate: float = 20.0  # calls a second that it answers
    calling_ways: tuple[tuple[int, float], ...] = ((200, 0.0), (1, 0.0), (200, 15.0))
    idle_s: float = 10.0
    trial_s: int = 30  # the default of HAYHOOKS_TRIAL_SECONDS
    rounds: int = 3
    seconds: float = 2.0


SMALL = Sizes(
    looks=(3, 10),
    pipelines=10,
    with_haystack=2,
    saves=2,
    waiting=8,
    wait_s=0.1,
    waiting_ways=((1, 0.0), (0, 1.0)),
    calling=10,
    rate=5.0,
    calling_ways=((10, 0.0),),
    idle_s=1.0,
    trial_s=1,
    rounds=1,
    seconds=0.1,
)


@dataclass(frozen=True, slots=True)
class Loads:
    """What loads of one kind cost, each.

    Attributes:
        cpu_ms: of the server from the change to its publication, everything included.
        wall_ms: what ``/status`` tells of a load, the median.
        kb: of resident memory that it adds.
        all_s: from the change of all to the publication of the last.
    """

    count: int
    cpu_ms: float
    wall_ms: float
    kb: float
    all_s: float


@dataclass(slots=True)
class Costs:
    """All measurements, with the machine."""

    where: str = ""
    looks: dict[str, dict[str, float]] = field(default_factory=dict)  # a `Look` by number of pipelines
    idle_cpu_ms: dict[str, float] = field(default_factory=dict)  # of a server that nobody asks, per second
    server_mb: float = 0.0
    haystack_mb: float = 0.0  # of a server whose one pipeline imports Haystack
    small: Loads | None = None
    haystack: Loads | None = None
    changed: Loads | None = None  # all small pipelines at once
    changed_mb: float = 0.0  # resident after that, while what was replaced may serve again
    trial_over_mb: float = 0.0  # and when it has gone
    changed_again_mb: float = 0.0  # the same, when all have changed a second time
    saved_ms: dict[str, float] = field(default_factory=dict)  # from a save to the first answer, by number of pipelines
    per_s: dict[str, float] = field(default_factory=dict)  # requests, by row of the benchmark
    worker_mb: float = 0.0  # that one more worker adds, of memory that it does not share
    compared: list[dict[str, float]] = field(default_factory=list)  # loads that wait
    herds: list[dict[str, float]] = field(default_factory=list)  # loads that call a provider

    def look(self, pipelines: int) -> Look:
        values = self.looks[str(pipelines)]
        return Look(values["cpu_s"], int(values["calls"]), int(values["paths"]))

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> "Costs":
        values = json.loads(file.read_text())
        for name in ("small", "haystack", "changed"):
            values[name] = Loads(**values[name])
        return cls(**values)


def measure(directory: Path, sizes: Sizes) -> Costs:
    """Measure everything; *directory* is for files."""
    costs = Costs(_where())
    for count in sizes.looks:
        _tell(f"looks at {count} pipelines")
        look = _look(directory / f"looks{count}", count)
        costs.looks[str(count)] = asdict(look)
    _tell("small pipelines")
    _measure_small(directory, sizes, costs)
    _tell("pipelines with Haystack")
    _measure_haystack(directory, sizes, costs)
    _tell("a worker")
    _measure_worker(directory, costs)
    for loads, jitter_s in sizes.waiting_ways:
        _tell(f"loads that wait, {loads} at a time, jitter {jitter_s:g} s")
        took_s = _waiting_loads(directory, sizes, loads, jitter_s)
        costs.compared.append(
            {
                "loads_at_a_time": loads,
                "jitter_s": jitter_s,
                "pipelines": sizes.waiting,
                "wait_s": sizes.wait_s,
                "took_s": took_s,
            }
        )
    for loads, jitter_s in sizes.calling_ways:
        _tell(f"loads that call a provider, {loads} at a time, jitter {jitter_s:g} s")
        costs.herds.append(_calling_loads(directory, sizes, loads, jitter_s))
    _tell("requests")
    _measure_requests(directory, sizes, costs)
    return costs


def _tell(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


def _where() -> str:
    cpu = Path("/proc/cpuinfo")
    models = [line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    python = ".".join(map(str, sys.version_info[:3]))
    machine = f"{os.cpu_count()} cores ({models[0] if models else 'unknown'}), {sys.platform}, local disk"
    return f"{machine}, Python {python}; load average {os.getloadavg()[0]:.1f} at the beginning"


# Looks.


def _look(root: Path, count: int) -> Look:
    """Measure one full look of the kernel at *count* small pipelines that do not change."""
    for number in range(count):
        servers.write_wrapper(root / f"many{number}", servers.TRIVIAL)
    scanner = Scanner(root, debounce_s=0.02, removal_grace_s=0.4)
    while scanner.scan(time.monotonic(), EVERYTHING).pending:
        time.sleep(0.02)
    took_s = []
    for _ in range(10):
        began = time.thread_time()
        scanner.scan(time.monotonic(), EVERYTHING)
        took_s.append(time.thread_time() - began)
    calls: Counter[str] = Counter()

    def count_call(_frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call":
            calls[getattr(function, "__qualname__", "")] += 1

    sys.setprofile(count_call)
    try:
        scanner.scan(time.monotonic(), EVERYTHING)
    finally:
        sys.setprofile(None)
    # strace shows the same: a scandir is an open, an fstat and the reading of the names.
    attributes = calls["stat"] + calls["lstat"] + calls["DirEntry.stat"] + calls["scandir"]
    return Look(statistics.median(took_s), attributes + calls["scandir"], 2 * count + 1)


# Servers.


@contextmanager
def _server(root: Path, variables: Mapping[str, str] | None = None) -> Iterator[tuple[Server, Path]]:
    root.mkdir(parents=True, exist_ok=True)
    log = root.with_suffix(".log")
    state = {"HAYHOOKS_STATE_DIR": str(root.with_suffix(".state")), **(variables or {})}
    with servers.hayhooks(HAYHOOKS, root, log, root.name, state) as server:
        servers.all_served(server, root, log)
        yield server, log


def _loads(server: Server, log: Path, names: list[str], change: Any) -> Loads:
    """Call *change*, and wait until a newer revision of all *names* is served; measure that."""
    _settle(server)
    before = {name: entry["revision"] for name, entry in _entries(server).items()}
    cpu_s, memory, began = server.cpu_s() or 0.0, server.resident_mb() or 0.0, time.time()
    change()

    def are_served() -> bool:
        entries = _entries(server)
        states = [entries[name] for name in names if name in entries]
        if failed := [entry["error"] for entry in states if entry["error"]]:
            raise RuntimeError(f"a pipeline does not load: {failed[0]}")
        new = [each for each in states if each["state"] == "serving" and each["revision"] != before.get(each["name"])]
        return len(new) == len(names)

    servers.wait_for(are_served, server, log, step_s=0.25)
    entries = _entries(server)
    all_s = max(entries[name]["loaded_at"] for name in names) - began
    cpu_used_s = (server.cpu_s() or 0.0) - cpu_s
    added_mb = (server.resident_mb() or 0.0) - memory
    wall_ms = statistics.median(entries[name]["load_ms"] for name in names)
    count = len(names)
    return Loads(count, cpu_used_s / count * 1000, wall_ms, added_mb / count * 1024, all_s)


def _entries(server: Server) -> dict[str, Any]:
    return {entry["name"]: entry for entry in servers.get(server.url, "/status")["deployments"]}


def _settle(server: Server) -> None:
    """Wait until *server* has done what it does after a change."""
    for _ in range(20):
        before = server.cpu_s() or 0.0
        time.sleep(0.5)
        if (server.cpu_s() or 0.0) - before < 0.05:
            return


def _write_many(root: Path, count: int, version: int) -> list[str]:
    names = [f"many{number}" for number in range(count)]
    for name in names:
        servers.write_wrapper(root / name, servers.TRIVIAL, f"self.version = {version}")
    return names


def _measure_small(directory: Path, sizes: Sizes, costs: Costs) -> None:
    root = directory / "small"
    with _server(root, {"HAYHOOKS_TRIAL_SECONDS": str(sizes.trial_s)}) as (server, log):
        _settle(server)
        costs.server_mb = server.resident_mb() or 0.0
        servers.write_wrapper(root / "saved", VERSIONED.replace("VERSION", "0"))
        servers.all_served(server, root, log)
        costs.saved_ms["1"] = _save_to_served(server, root, sizes.saves)
        names = [f"many{number}" for number in range(sizes.pipelines - 1)]
        costs.small = _loads(server, log, names, lambda: _write_many(root, len(names), 1))
        _settle(server)
        costs.saved_ms[str(sizes.pipelines)] = _save_to_served(server, root, sizes.saves)
        costs.changed = _loads(server, log, names, lambda: _write_many(root, len(names), 2))
        costs.changed_mb = server.resident_mb() or 0.0
        costs.trial_over_mb = _memory_after_trial(server, sizes)
        _loads(server, log, names, lambda: _write_many(root, len(names), 3))
        costs.changed_again_mb = _memory_after_trial(server, sizes)
    for count in sizes.looks:
        root = directory / f"looks{count}"
        with _server(root) as (server, log):
            _settle(server)
            before = server.cpu_s() or 0.0
            time.sleep(sizes.idle_s)
            costs.idle_cpu_ms[str(count)] = ((server.cpu_s() or 0.0) - before) / sizes.idle_s * 1000


def _memory_after_trial(server: Server, sizes: Sizes) -> float:
    time.sleep(sizes.trial_s + 1)
    _settle(server)
    return server.resident_mb() or 0.0


def _save_to_served(server: Server, root: Path, saves: int) -> float:
    """Return the median of the milliseconds from a save to the first answer of the new revision."""
    took_ms = []
    for version in range(1, saves + 1):
        time.sleep(0.3)  # what the last one left is retired
        servers.write_wrapper(root / "saved", VERSIONED.replace("VERSION", str(version)))
        began = time.perf_counter()
        while _answer(server) != version:
            time.sleep(0.001)
        took_ms.append((time.perf_counter() - began) * 1000)
    return statistics.median(took_ms)


def _answer(server: Server) -> Any:
    request = Request(f"{server.url}/saved/run", b"{}", {"Content-Type": "application/json"})
    with urlopen(request, timeout=10) as response:
        return json.load(response)["result"]


def _write_haystack(folder: Path) -> None:
    servers.write_wrapper(folder, servers.METHODS["run_pipeline"], servers.SETUPS["run_pipeline"], "import work\n")
    draft = folder / ".work"
    shutil.copy(servers.HERE / "bench_work.py", draft)
    draft.replace(folder / "work.py")


def _measure_haystack(directory: Path, sizes: Sizes, costs: Costs) -> None:
    root = directory / "haystack"
    _write_haystack(root / "first")
    with _server(root) as (server, log):
        _settle(server)
        costs.haystack_mb = server.resident_mb() or 0.0
        names = [f"pipeline{number}" for number in range(sizes.with_haystack)]
        drafts = directory / "drafts"
        for name in names:
            _write_haystack(drafts / name)
        costs.haystack = _loads(server, log, names, lambda: [(drafts / n).rename(root / n) for n in names])


def _measure_worker(directory: Path, costs: Costs) -> None:
    """Measure by how much two and three workers differ."""
    root, memory = directory / "haystack", {}
    for workers in (2, 3):
        with _server(root, {"HAYHOOKS_WORKERS": str(workers)}) as (server, _):
            time.sleep(2.0)
            memory[workers] = sum(map(_proportional_mb, _tree(server.pid or 0)))
    costs.worker_mb = memory[3] - memory[2]


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _tree(int(child))


def _proportional_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _waiting_loads(directory: Path, sizes: Sizes, loads: int, jitter_s: float) -> float:
    """Return the seconds until pipelines whose ``setup()`` waits are served, all of which appear at once."""
    name = f"waiting{loads}-{jitter_s:g}"
    root, drafts = directory / name, directory / f"{name}-drafts"
    variables = {"HAYHOOKS_LOADS_AT_A_TIME": str(loads), "HAYHOOKS_LOAD_JITTER_MS": str(int(jitter_s * 1000))}
    names = [f"waits{number}" for number in range(sizes.waiting)]
    for each in names:
        servers.write_wrapper(drafts / each, TRIVIAL_SYNC, f"time.sleep({sizes.wait_s})")
    with _server(root, variables) as (server, log):
        return _loads(server, log, names, lambda: [(drafts / each).rename(root / each) for each in names]).all_s


class _Provider(ThreadingHTTPServer):
    """Answers so many calls a second, and others with a 429; it counts all by second."""

    request_queue_size = 1000

    def __init__(self, rate: float) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.rate = self._tokens = rate
        self.calls: Counter[int] = Counter()
        self._filled_at = time.monotonic()
        self._lock = threading.Lock()

    def answers(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self.calls[int(now)] += 1
            self._tokens = min(self.rate, self._tokens + (now - self._filled_at) * self.rate)
            self._filled_at = now
            is_answered = self._tokens >= 1
            self._tokens -= is_answered
        return is_answered


class _Answer(BaseHTTPRequestHandler):
    server: _Provider

    def do_GET(self) -> None:
        is_answered = self.server.answers()
        if is_answered:
            time.sleep(LATENCY_S)
        self.send_response(200 if is_answered else 429)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_args: Any) -> None: ...


def _calling_loads(directory: Path, sizes: Sizes, loads: int, jitter_s: float) -> dict[str, float]:
    """Count what comes of pipelines whose ``setup()`` calls a provider, all of which appear at once."""
    name = f"calling{loads}-{jitter_s:g}"
    root, drafts = directory / name, directory / f"{name}-drafts"
    variables = {"HAYHOOKS_LOADS_AT_A_TIME": str(loads), "HAYHOOKS_LOAD_JITTER_MS": str(int(jitter_s * 1000))}
    names = [f"calls{number}" for number in range(sizes.calling)]
    provider = _Provider(sizes.rate)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    for each in names:
        call = f'call("http://127.0.0.1:{provider.server_address[1]}")'
        servers.write_wrapper(drafts / each, TRIVIAL_SYNC, call, CALL)
    with _server(root, variables) as (server, log):
        _settle(server)
        for each in names:
            (drafts / each).rename(root / each)

        def have_ended() -> bool:
            states = [entry["state"] for entry in _entries(server).values()]
            return len(states) == len(names) and "loading" not in states

        servers.wait_for(have_ended, server, log, step_s=0.25)
        failed = sum(entry["state"] == "failed" for entry in _entries(server).values())
    provider.shutdown()
    provider.server_close()
    return {
        "loads_at_a_time": loads,
        "jitter_s": jitter_s,
        "pipelines": sizes.calling,
        "rate": sizes.rate,
        "failed": failed,
        "peak_calls": max(provider.calls.values()),
    }


def _measure_requests(directory: Path, sizes: Sizes, costs: Costs) -> None:
    rows = ["run-async", "run-sync"]
    file = directory / "bench.json"
    rounds = ["--rounds", str(sizes.rounds), "--seconds", str(sizes.seconds)]
    command = [sys.executable, servers.HERE / "bench.py", "--rows", ",".join(rows), *rounds, "--json", file]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    figures = json.loads(file.read_text())["figures"]
    costs.per_s = {each["row"]: each["value"] for each in figures if each["label"] == "hayhooks"}
