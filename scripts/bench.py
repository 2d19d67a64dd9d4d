"""Benchmark hayhooks against the limit: bare Starlette applications that do the same work.

Each server and the load generator run in their own processes, on loopback. Rounds alternate between the servers
(A B, B A, ...). A figure is the median of its rounds, and a ratio the median of the rounds' ratios, because other
programs disturb a machine. CPU time is that of all threads of the server. Every answer is checked: a server with a
wrong answer gets no figure, and the exit status is 1.
"""

import argparse
import json
import os
import platform
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import bench_servers as servers
from bench_servers import Server

HAYHOOKS = Path(sys.executable).with_name("hayhooks")
OURS, LIMIT = "hayhooks", "limit"
WARM_UP_S = 0.3


@dataclass(frozen=True, slots=True)
class Work:
    """One request to repeat, and the right answer."""

    path: str
    body: Any = None
    expect: Any = None  # the result, or the text of a stream
    chunks: int = 0  # of a stream; 0 if it is not one
    connections: int = 16
    pace_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    def job(self, server: Server, seconds: float, expect: str) -> dict[str, Any]:
        """Return the job for bench_load.py."""
        return {
            "url": server.url,
            "method": self.method,
            "path": self.path,
            "body": json.dumps(self.body) if self.body is not None else "",
            "expect": expect,
            "chunks": self.chunks,
            "connections": self.connections,
            "seconds": seconds,
            "pace_s": self.pace_s,
            "headers": self.headers,
        }


@dataclass(slots=True)
class Figure:
    """The measurements of one server in one row.

    Attributes:
        rounds: the value of each round, in *unit*; empty after a wrong answer.
        cpu_us: the server's CPU time per request or chunk, in each round.
        more: other values of each round, by name with unit.
        base: the label of the figure to compare with.
    """

    row: str
    title: str
    label: str
    unit: str
    base: str
    rounds: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    more: dict[str, list[float]] = field(default_factory=dict)
    wrong: int = 0
    first_wrong: str = ""

    def take(self, sample: "Sample") -> None:
        self.rounds.append(sample.value)
        if sample.cpu_us is not None:
            self.cpu_us.append(sample.cpu_us)
        for name, value in sample.more.items():
            self.more.setdefault(name, []).append(value)
        self.wrong += sample.wrong
        self.first_wrong = self.first_wrong or sample.first_wrong


@dataclass(slots=True)
class Sample:
    """The measurements of one server in one round."""

    value: float
    cpu_us: float | None = None
    more: dict[str, float] = field(default_factory=dict)
    wrong: int = 0
    first_wrong: str = ""


Measure = Callable[[], Sample]


class Bench:
    """Starts servers and load generator for the rows, and runs their rounds."""

    def __init__(self, options: argparse.Namespace, directory: Path, stack: ExitStack) -> None:
        self.options = options
        self.directory = directory
        self._stack = stack
        self._load = stack.enter_context(_load(directory))
        self._servers: list[Server] = []
        self._many: list[Server] = []

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def servers(self) -> list[Server]:
        """Return the limit, hayhooks, and those of ``--vs``, with the same pipelines; the first call starts them."""
        if not self._servers:
            root = self.directory / "pipelines"
            servers.write_wrappers(root, with_haystack=any("pipeline" in name for name in self.options.rows))
            self._servers.append(self._stack.enter_context(servers.limit(self.log("limit"))))
            for label, command in self.commands():
                self._servers.append(self._hayhooks(label, command, root))
            self._servers += [Server(url, url) for url in self.options.vs if "://" in url]
        return self._servers

    def many(self) -> list[Server]:
        """Return the limit and hayhooks with ``--deployments`` pipelines; the first call starts them."""
        if not self._many:
            count, root = self.options.deployments, self.directory / "many"
            servers.write_many(root, count)
            self._many.append(
                self._stack.enter_context(
                    servers.limit(self.log("limit-many"), routes=count, label=f"{LIMIT}, {count}")
                )
            )
            for label, command in self.commands():
                self._many.append(self._hayhooks(f"{label}, {count}", command, root))
        return self._many

    def commands(self) -> list[tuple[str, Path]]:
        """Return label and path of each hayhooks command to measure."""
        return [(OURS, HAYHOOKS), *((path, Path(path)) for path in self.options.vs if "://" not in path)]

    def _hayhooks(self, label: str, command: Path, root: Path) -> Server:
        log = self.log(f"server-{len(self._servers)}-{len(self._many)}-{root.name}")
        server = self._stack.enter_context(servers.hayhooks(command, root, log, label))
        servers.all_served(server, root, log)
        return server

    def rounds(self, figures: Sequence[Figure], measures: Sequence[Measure], *, times: int = 1) -> list[Figure]:
        """Run all measures in each round, in reverse order in every second one; *times* multiplies ``--rounds``."""
        for number in range(self.options.rounds * times):
            pairs = list(zip(figures, measures, strict=True))
            for figure, measure in pairs if number % 2 == 0 else reversed(pairs):
                if not figure.wrong:
                    figure.take(measure())
        return list(figures)

    def measure_of(self, server: Server, work: Work, *beside: Work) -> Measure:
        """Return a measure that repeats *work* at full speed, and each of *beside* at its own pace."""
        try:
            works = [(each, check(server, each)) for each in (work, *beside)]
        except WrongAnswerError as error:
            wrong_answer = Sample(0.0, wrong=1, first_wrong=str(error))
            return lambda: wrong_answer

        def ask(seconds: float) -> Sample:
            jobs = [each.job(server, seconds, expect) for each, expect in works]
            cpu_before = server.cpu_s()
            result, *others = self.load(jobs)
            count = result["answers"] * (work.chunks or 1)
            cpu_after = server.cpu_s()
            cpu_us = None if cpu_before is None or cpu_after is None else (cpu_after - cpu_before) / (count or 1) * 1e6
            more = {"p50 ms": result["p50_ms"], "p99 ms": result["p99_ms"]}
            for other_result, other_work in zip(others, beside, strict=True):
                more |= {
                    f"{other_work.path} p50 ms": other_result["p50_ms"],
                    f"{other_work.path} p99 ms": other_result["p99_ms"],
                }
            wrong = [each for each in (result, *others) if each["wrong"]]
            first_wrong = wrong[0]["first_wrong"] if wrong else ""
            return Sample(count / result["took_s"], cpu_us, more, sum(each["wrong"] for each in wrong), first_wrong)

        ask(min(WARM_UP_S, self.options.seconds))
        return lambda: ask(self.options.seconds)

    def load(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.begin(jobs)
        return self.end()

    def begin(self, jobs: list[dict[str, Any]]) -> None:
        """Start *jobs* in the load generator; the caller can measure until it calls ``end``."""
        assert self._load.stdin is not None
        self._load.stdin.write(json.dumps(jobs) + "\n")
        self._load.stdin.flush()

    def end(self) -> list[dict[str, Any]]:
        assert self._load.stdout is not None
        line = self._load.stdout.readline()
        if not line:
            raise RuntimeError("the load generator exited; see its traceback above")
        results: list[dict[str, Any]] = json.loads(line)
        return results


@contextmanager
def _load(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, servers.HERE / "bench_load.py"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class WrongAnswerError(Exception):
    """A server gave a wrong answer; the message quotes it."""


def check(server: Server, work: Work) -> str:
    """Send *work* once and parse the answer; return the text that the load generator compares answers with.

    Raises:
        WrongAnswerError: the answer is wrong.
    """
    data = json.dumps(work.body).encode() if work.body is not None else None
    request = Request(server.url + work.path, data, {"Content-Type": "application/json", **work.headers})
    try:
        with urlopen(request, timeout=60) as response:
            body = response.read().decode()
    except HTTPError as error:
        raise WrongAnswerError(
            f"{server.label} answered {work.path} with status {error.code}: {error.read()[:300]!r}"
        ) from None
    if work.chunks:
        return _check_stream(server, work, body)
    answer = json.loads(body) if work.expect is not None else None
    if work.path == "/mcp":
        answer = answer["result"]["structuredContent"]
    if work.expect is not None and answer != {"result": work.expect}:
        raise WrongAnswerError(f"{server.label} answered {work.path} with {body[:300]}")
    return body if work.expect is not None else ""


def _check_stream(server: Server, work: Work, body: str) -> str:
    events = [event.removeprefix("data: ") for event in body.split("\n\n") if event]
    chunks = [json.loads(event)["choices"][0] for event in events[:-1]]
    texts = [chunk["delta"].get("content") for chunk in chunks]
    right = [None, *[text for text in texts if text], None] == [texts[0] or None, *texts[1:-1], texts[-1] or None]
    if events[-1] != "[DONE]" or chunks[-1]["finish_reason"] != "stop" or not right or len(texts) != work.chunks + 2:
        raise WrongAnswerError(f"{server.label} answered {work.path} with {len(texts)} chunks, ending {body[-300:]!r}")
    if "".join(text for text in texts if text) != work.expect:
        raise WrongAnswerError(f"{server.label} answered {work.path} with a wrong text")
    return str(work.expect)


# Rows: functions that take a Bench and return figures.

Row = Callable[[Bench], list[Figure]]
ROWS: dict[str, Row] = {}


def row(name: str) -> Callable[[Row], Row]:
    def add(function: Row) -> Row:
        ROWS[name] = function
        return function

    return add


def speed(
    name: str, title: str, work: Work, *, others: Iterable[tuple[str, str]] = (), beside: Sequence[Work] = ()
) -> None:
    """Add a row that measures *work* on every server; *others* are further limits, as label and path."""
    unit = "chunks/s" if work.chunks else "requests/s"

    def measure(bench: Bench) -> list[Figure]:
        limit, *rest = bench.servers()
        requests = [(LIMIT, limit, work)]
        requests += [(label, limit, _at(work, path)) for label, path in others]
        requests += [(server.label, server, work) for server in rest]
        figures = [Figure(name, title, label, unit, LIMIT) for label, _, _ in requests]
        return bench.rounds(figures, [bench.measure_of(server, each, *beside) for _, server, each in requests])

    ROWS[name] = measure


def _at(work: Work, path: str) -> Work:
    return Work(path, work.body, work.expect, work.chunks, work.connections, work.pace_s)


SHOUT = {"text": "hello", "times": 3}
random.seed(1)
ARTICLES = [
    {
        "number": number,
        "title": " ".join(random.choices(["red", "blue", "small", "large", "chair", "table", "lamp"], k=4)),
        "price": random.randrange(2, 2000) / 2,
        "tags": random.choices(["new", "sale", "wood", "steel"], k=3),
        "in_stock": random.random() < 0.5,
    }
    for number in range(50)
]
DISCOUNTED = [{**article, "price": article["price"] / 2} for article in ARTICLES]
STATUS = Work("/status", connections=1, pace_s=0.02)


def chat(path: str, count: int, pause_s: float, connections: int) -> Work:
    messages = [{"role": "user", "content": json.dumps([count, pause_s])}]
    text = "".join(f"word{number} " for number in range(count))
    return Work(path, {"model": "m", "messages": messages, "stream": True}, text, count, connections)


speed("run-async", "run, async method", Work("/run_async/run", SHOUT, "HELLO!!!"))
speed("run-sync", "run, sync method", Work("/run_sync/run", SHOUT, "HELLO!!!"))
speed("run-objects", "run, 50 typed objects in and out", Work("/run_objects/run", {"articles": ARTICLES}, DISCOUNTED))
speed("run-pipeline", "run, a small Haystack pipeline", Work("/run_pipeline/run", SHOUT, "HELLO!!!"))
speed(
    "run-sleeping",
    "run, sync method that sleeps 100 ms, 200 connections; `/status` meanwhile",
    Work("/run_sleeping/run", {"text": "x"}, "x", connections=200),
    beside=[STATUS],
)
speed(
    "run-busy",
    "run, sync method that computes, 2 connections; `/status` and another pipeline meanwhile",
    Work("/run_busy/run", {"text": "x"}, "x", connections=2),
    beside=[STATUS, Work("/run_async/run", SHOUT, "HELLO!!!", connections=1, pace_s=0.02)],
)
speed(
    "chat-async",
    "chat stream, async generator, 1,000 chunks",
    chat("/chat_async/chat", 1000, 0, 4),
    others=[("limit, together", "/chat_async_together/chat")],
)
speed(
    "chat-sync",
    "chat stream, sync generator, 1,000 chunks",
    chat("/chat_sync/chat", 1000, 0, 4),
    others=[("limit, a hop a chunk", "/chat_sync_hopping/chat")],
)
speed("chat-pipeline", "chat stream, `streaming_generator`, 1,000 chunks", chat("/chat_pipeline/chat", 1000, 0, 4))
speed("slow-async", "chat stream, async generator, a chunk in 10 ms", chat("/chat_async/chat", 100, 0.01, 20))
speed("slow-sync", "chat stream, sync generator, a chunk in 10 ms", chat("/chat_sync/chat", 100, 0.01, 20))
speed(
    "slow-pipeline", "chat stream, `streaming_generator`, a chunk in 10 ms", chat("/chat_pipeline/chat", 100, 0.01, 20)
)


@row("run-many")
def run_many(bench: Bench) -> list[Figure]:
    """Compare the last of many deployments with a single one."""
    count = bench.options.deployments
    title = f"run, async method, the last of {count:,} deployments"
    first, last = (Work(f"/many{number}/run", SHOUT, "HELLO!!!") for number in (0, count - 1))
    limit, *rest = bench.servers()
    requests = [(limit, _at(first, "/run_async/run"), limit.label)]
    requests += [(server, first, server.label) for server in rest if server.process]
    alone = [server.label for server, _, _ in requests]
    requests += [(server, last, base) for server, base in zip(bench.many(), alone, strict=True)]
    figures = [Figure("run-many", title, server.label, "requests/s", base) for server, _, base in requests]
    return bench.rounds(figures, [bench.measure_of(server, work) for server, work, _ in requests])


@row("mcp")
def mcp(bench: Bench) -> list[Figure]:
    """Compare a call of a tool, by the protocol of 2026 and in a request of its own, with the same call of /run."""
    version = "2026-07-28"
    meta = {"protocolVersion": version, "clientInfo": {"name": "bench", "version": "1"}, "clientCapabilities": {}}
    params = {
        "name": "run_async",
        "arguments": SHOUT,
        "_meta": {f"io.modelcontextprotocol/{name}": value for name, value in meta.items()},
    }
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": version,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "run_async",
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    works = {OURS: Work("/run_async/run", SHOUT, "HELLO!!!")}
    works[f"{OURS}, by MCP"] = Work("/mcp", body, "HELLO!!!", headers=headers)
    server = next(server for server in bench.servers() if server.label == OURS)
    figures = [Figure("mcp", "a call, async method", label, "requests/s", OURS) for label in works]
    return bench.rounds(figures, [bench.measure_of(server, work) for work in works.values()])


@row("executions")
def executions(bench: Bench) -> list[Figure]:
    """Measure executions of two servers over SQLite, and over Postgres if BENCH_POSTGRES_URL names a database."""
    import bench_executions  # noqa: PLC0415 - only this row needs it

    figures = []
    for store, url in (("SQLite", ""), ("Postgres", os.environ.get("BENCH_POSTGRES_URL"))):
        if url is None:
            continue
        titles = {
            "an order, until it is kept": "ms",
            "an order, until its end": "ms",
            "200 orders at once": "executions/s",
            "processor of an idle server": "ms/s",
            "kill -9, until another server goes on": "s",
        }
        found = [Figure("executions", title, f"{OURS}, {store}", unit, "") for title, unit in titles.items()]
        for number in range(bench.options.rounds):
            with bench_executions.pair(HAYHOOKS, bench.directory / f"executions-{store}-{number}", url) as pair:
                kept_s, done_s = pair.latency()
                values = (kept_s * 1000, done_s * 1000, pair.throughput(), pair.idle(), pair.failover())
            for figure, value in zip(found, values, strict=True):
                figure.take(Sample(value))
        figures += found
    return figures


@row("ray")
def ray(bench: Bench) -> list[Figure]:
    """Compare one process with Ray Serve, in both shapes, each with one replica."""
    import bench_ray  # noqa: PLC0415 - only this row needs Ray

    root = bench.directory / "ray"
    servers.write_wrappers(root, with_haystack=False)
    alone, figures = bench._hayhooks(OURS, HAYHOOKS, root), []
    with bench_ray.serving(root, bench.directory):
        proxy = Server("Ray", bench_ray.URL)
        for title, unit, work in (
            ("run, async method", "requests/s", Work("/run_async/run", SHOUT, "HELLO!!!")),
            (
                "run, async method, one at a time",
                "requests/s",
                Work("/run_async/run", SHOUT, "HELLO!!!", connections=1),
            ),
            ("chat, async method", "chunks/s", chat("/chat_async/chat", 100, 0.0, 16)),
        ):
            works = {OURS: (alone, work)}
            for shape, prefix in bench_ray.SHAPES.items():
                works[f"Ray Serve, {shape}"] = (proxy, replace(work, path=prefix + work.path))
            row = [Figure("ray", title, label, unit, OURS) for label in works]
            figures += bench.rounds(row, [bench.measure_of(server, work) for server, work in works.values()])
    return figures


@row("console")
def console(bench: Bench) -> list[Figure]:
    """Compare a server that nobody watches with others; measure how long a save takes until the console shows it."""
    import bench_console  # noqa: PLC0415 - only this row needs Playwright and Chromium

    root, work = bench.directory / "console", Work("/run_async/run", SHOUT, "HELLO!!!")
    servers.write_wrappers(root, with_haystack=False)
    labels = (OURS, f"{OURS}, `/events` is read", f"{OURS}, the console is open")
    alone, followed, watched = (bench._hayhooks(label, HAYHOOKS, root) for label in labels)
    with subprocess.Popen(["curl", "-sN", f"{followed.url}/events"], stdout=subprocess.DEVNULL) as reader:
        try:
            with bench_console.opened(watched.url) as page:
                figures = [Figure("console", "run, async method", label, "requests/s", OURS) for label in labels]
                measured = [bench.measure_of(server, work) for server in (alone, followed, watched)]
                bench.rounds(figures, measured)
                saves = Figure("console", "a save, until the console shows it", OURS, "s", "")
                bench.rounds([saves], [lambda: Sample(bench_console.save_until_seen(page, root / "many0"))], times=5)
        finally:
            reader.terminate()
    return [*figures, saves]


@row("swap")
def swap(bench: Bench) -> list[Figure]:
    """Edit one of many deployments, and measure how long the event loop cannot run other tasks."""
    title = f"a new revision among {bench.options.deployments:,} deployments"
    root = bench.directory / "many"
    found = bench.many()[1:]
    kinds = {"loop's own time, longest turn": 1, "longest pause": 0}
    figures, samples = [], []
    for server in found:
        swaps = [_swap(server, root, number) for number in range(bench.options.rounds)]
        for kind, index in kinds.items():
            figures.append(Figure("swap", f"{title}: {kind}", server.label, "ms", LIMIT))
            samples.append([times[index] for times in swaps])
    for figure, values in zip(figures, samples, strict=True):
        figure.rounds = values
    return figures


def _swap(server: Server, root: Path, number: int) -> tuple[float, float]:
    """Edit a wrapper while the probe runs; return the event loop's longest pause and longest CPU time, in ms."""
    seconds = 1.5
    before = servers.get(server.url, "/status")["generation"]
    request = Request(f"{server.url}/probe/run", json.dumps({"seconds": seconds}).encode())
    method = servers.TRIVIAL + f"\n\n# {server.label} {number} {before}"
    writer = subprocess.Popen(
        [sys.executable, "-c", "import sys, time, bench_servers as b; from pathlib import Path; time.sleep(0.3); "
         "b.write_wrapper(Path(sys.argv[1]), sys.argv[2])", root / "many0", method],
        cwd=servers.HERE,
    )  # fmt: skip
    with urlopen(request, timeout=60) as response:
        pause, turn = json.load(response)["result"]
    writer.wait()
    after = servers.get(server.url, "/status")["generation"]
    if after == before:
        raise WrongAnswerError(f"{server.label} did not deploy a new revision within {seconds - 0.3} s")
    return pause, turn


@row("start-many")
def start_many(bench: Bench) -> list[Figure]:
    """Measure from process start until all of many deployments are served."""
    count, root = bench.options.deployments, bench.directory / "many"
    servers.write_many(root, count)
    title = f"start to all served, {count:,} trivial wrappers"
    figures = [Figure("start-many", title, label, "s", LIMIT) for label, _ in bench.commands()]
    return bench.rounds(figures, [_start_time(bench, command, root, "/readyz") for _, command in bench.commands()])


@row("start")
def start(bench: Bench) -> list[Figure]:
    """Measure from process start until five Haystack wrappers are served; the limit is their imports alone."""
    root = bench.directory / "five"
    for number in range(5):
        folder = root / f"five{number}"
        servers.write_wrapper(folder, servers.METHODS["run_pipeline"], servers.SETUPS["run_pipeline"], "import work\n")
        (folder / "work.py").write_text((servers.HERE / "bench_work.py").read_text())
    title = "start to all served, 5 wrappers with Haystack"
    imports = "from haystack import Pipeline; from haystack.components.builders import PromptBuilder"
    figures = [Figure("start", title, LIMIT, "s", LIMIT)]
    measures = [_run_time([sys.executable, "-c", imports], bench)]
    for label, command in bench.commands():
        figures += [
            Figure("start", title, label, "s", LIMIT),
            Figure("start", "the same to `/healthz`", label, "s", ""),
        ]
        measures += [_start_time(bench, command, root, path) for path in ("/readyz", "/healthz")]
    times = 1 if bench.options.quick else 3  # short rounds, whose times vary by half
    return bench.rounds(figures, measures, times=times)


def _start_time(bench: Bench, command: Path, root: Path, path: str) -> Measure:
    """Measure the time until *path* answers 200, and check that after ``/readyz`` all deployments are served."""

    def started() -> Sample:
        began = time.perf_counter()
        log = bench.log("start")
        with servers.running(servers.run_command(command, root, port := servers.free_port()), log) as process:
            server = Server(str(command), f"http://127.0.0.1:{port}", process)
            servers.wait_for(lambda: servers.get(server.url, path), server, log)
            took_s, cpu_s = time.perf_counter() - began, server.cpu_s()
            if path == "/readyz":
                servers.all_served(server, root, log)
        return Sample(took_s, None, {"CPU s": cpu_s or 0.0})

    return started


@row("command-line")
def command_line(bench: Bench) -> list[Figure]:
    """Measure short commands; the limit is Python without a program."""
    figures = [Figure("command-line", "a process that ends", LIMIT, "s", LIMIT)]
    measures = [_run_time([sys.executable, "-c", "pass"], bench)]
    for server, (label, command) in zip(bench.servers()[1:], bench.commands(), strict=False):
        port = server.url.rpartition(":")[2]
        for title, arguments in (("`--help`", ["--help"]), ("`status`", ["status", "--port", port])):
            figures.append(Figure("command-line", title, label, "s", LIMIT))
            measures.append(_run_time([command, *arguments], bench))
    return bench.rounds(figures, measures)


def _run_time(command: list[Any], bench: Bench) -> Measure:
    def run() -> Sample:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, env=servers.environment(), cwd=bench.directory, stdout=subprocess.DEVNULL)
        took_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Sample(took_s, None, {"CPU s": cpu_s})

    return run


@row("memory")
def memory(bench: Bench) -> list[Figure]:
    """Measure resident memory: without deployments, per deployment, per open and ended stream, and after reloads."""
    figures: list[Figure] = []

    def add(title: str, label: str, unit: str, value: float) -> None:
        figures.append(Figure("memory", title, label, unit, LIMIT, [value]))

    for label, command in bench.commands():
        idle = _memory_of_deployments(bench, command, 0)
        few, many = (_memory_of_deployments(bench, command, count) for count in (1, bench.options.deployments))
        add("resident, nothing deployed", label, "MB", idle)
        add("a trivial deployment", label, "KB", (many - few) / max(bench.options.deployments - 1, 1) * 1024)
        add("kept of 100 reloads of 5 MB", label, "MB", _memory_of_reloads(bench, command))
    # Fresh servers: one that has served many requests can reuse their memory.
    root = bench.directory / "memory-streams"
    servers.write_wrappers(root, with_haystack=False)
    fresh = [servers.limit(bench.log("memory-limit"))]
    fresh += [
        servers.hayhooks(command, root, bench.log("memory-streams"), label) for label, command in bench.commands()
    ]
    for started in fresh:
        with started as server:
            if server.label != LIMIT:
                servers.all_served(server, root, bench.log("memory"))
            each, kept = _memory_of_streams(bench, server)
            add("an open stream", server.label, "KB", each)
            add("kept of each of 1,000 streams that have ended", server.label, "KB", kept)
    return figures


def _memory_of_deployments(bench: Bench, command: Path, count: int) -> float:
    root = bench.directory / f"memory{count}"
    root.mkdir(exist_ok=True)
    if count:
        servers.write_many(root, count)
    log = bench.log(f"memory{count}")
    with servers.hayhooks(command, root, log, str(command)) as server:
        servers.all_served(server, root, log)
        return server.resident_mb() or 0.0


def _memory_of_reloads(bench: Bench, command: Path, reloads: int = 100) -> float:
    """Return the MB that *reloads* leave, after a few that warm up."""
    root, log = bench.directory / "memory-reloads", bench.log("memory-reloads")
    root.mkdir(exist_ok=True)
    with servers.hayhooks(command, root, log, str(command)) as server:
        resident = []
        for versions in (range(3), range(3, 3 + reloads)):
            for version in versions:
                servers.reload_large(server, root, log, version)
            time.sleep(3.0)  # the old revisions are torn down, and collected
            resident.append(server.resident_mb() or 0.0)
    return resident[1] - resident[0]


def _memory_of_streams(bench: Bench, server: Server, streams: int = 200) -> tuple[float, float]:
    """Return the KB of each open stream, and the KB that each ended stream leaves after the first *streams*."""
    work = chat("/chat_async/chat", 30, 0.05, streams)
    job = work.job(server, 0.01, str(work.expect))  # one answer for each connection
    resident = []
    for _ in range(6):
        before = server.resident_mb() or 0.0
        bench.begin([job])
        time.sleep(1.0)  # a stream takes 1.5 s, so all are open now
        resident.append((before, server.resident_mb() or 0.0))
        bench.end()
    each = resident[0][1] - resident[0][0]
    return each / streams * 1024, ((server.resident_mb() or 0.0) - resident[1][0]) / (5 * streams) * 1024


# The report.


def ratio(values: Sequence[float], base: Sequence[float]) -> float | None:
    pairs = [value / other for value, other in zip(values, base, strict=False) if other]
    return statistics.median(pairs) if pairs else None


def as_dict(figure: Figure, others: Sequence[Figure]) -> dict[str, Any]:
    """Return a figure with its medians and ratios, or with None after a wrong answer."""
    result = asdict(figure)
    if figure.wrong:
        return {**result, "rounds": [], "cpu_us": [], "more": {}, "value": None, "of_limit": None}
    result["value"] = statistics.median(figure.rounds)
    result["more"] = {name: statistics.median(values) for name, values in figure.more.items()}
    result["cpu_us_each"] = statistics.median(figure.cpu_us) if figure.cpu_us else None
    like = [other for other in others if (other.row, other.title) == (figure.row, figure.title) and not other.wrong]
    base = next((other for other in like if other.label == figure.base), None)
    if base is not None and base is not figure:
        result["of_limit"] = ratio(figure.rounds, base.rounds)
        result["cpu_of_limit"] = ratio(figure.cpu_us, base.cpu_us)
    return result


def as_markdown(results: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """Return a table of all figures, and a line with the machine and the options."""
    lines = [
        "| work | server | figure | of the limit | CPU, us each | of the limit | more |",
        "| --- | --- | --: | --: | --: | --: | --- |",
    ]
    for result in results:
        figure = f"WRONG: {result['wrong']}" if result["wrong"] else f"{number(result['value'])} {result['unit']}"
        ratios = (number(result.get("of_limit")), number(result.get("cpu_us_each")), number(result.get("cpu_of_limit")))
        more = ", ".join(f"{name} {number(value)}" for name, value in result["more"].items())
        lines.append("| " + " | ".join([result["title"], result["label"], figure, *ratios, more]) + " |")
    lines += ["", f"{where()}; {options.rounds} rounds of {options.seconds:g} s; load average {os.getloadavg()[0]:.1f}"]
    return "\n".join(lines)


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def where() -> str:
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def main() -> int:
    options = parse()
    if options.write:
        servers.write_wrappers(options.write)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that all servers are stopped
    figures: list[Figure] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hayhooks-bench-") as directory, ExitStack() as stack:
        bench = Bench(options, Path(directory), stack)
        for name in options.rows:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                figures += ROWS[name](bench)
            except WrongAnswerError as error:
                failed.append(f"{name}: {error}")
    failed += [
        f"{figure.row}: {figure.label} gave {figure.wrong} wrong answers, first: {figure.first_wrong}"
        for figure in figures
        if figure.wrong
    ]
    results = [as_dict(figure, figures) for figure in figures]
    if options.json:
        options.json.write_text(json.dumps({"where": where(), "figures": results, "failed": failed}, indent=2) + "\n")
    print(as_markdown(results, options))
    for line in failed:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; under two minutes")
    parser.add_argument("--rows", "--only", type=chosen, help=f"run only these, separated by commas: {', '.join(ROWS)}")
    parser.add_argument(
        "--vs",
        action="append",
        default=[],
        metavar="URL|COMMAND",
        help="also measure this: the URL of a server with the wrappers of --write, or another hayhooks command",
    )
    parser.add_argument("--write", type=Path, metavar="DIR", help="write the benchmark's wrappers to DIR and exit")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE, with every round")
    parser.add_argument("--rounds", type=int, help="number of rounds (default: 5; 2 with --quick)")
    parser.add_argument("--seconds", type=float, help="duration of a round (default: 3; 0.5 with --quick)")
    parser.add_argument("--deployments", type=int, help="for rows with many (default: 1000; 300 with --quick)")
    options = parser.parse_args()
    options.rows = options.rows or [name for name in ROWS if name != "ray"]  # it wants a network of its own
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (0.5 if options.quick else 3.0)
    options.deployments = options.deployments or (300 if options.quick else 1000)
    return options


def chosen(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise argparse.ArgumentTypeError(f"there is no row {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
