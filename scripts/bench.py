"""Bench: what serving costs, beside the limit of the machine: bare Starlette applications that do the same work.

Every server runs in a process of its own, on loopback, and so does the load. Rounds are interleaved, A B A B, and
what is told is the median; a ratio is the median of the rounds' ratios, for a machine is never alone. Processor time
is the server's own, of all its threads. Answers are checked, every one; where one is wrong there is no figure, and the
exit status is 1.
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
from dataclasses import asdict, dataclass, field
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
    """Something to ask for over and over."""

    path: str
    body: Any = None
    expect: Any = None  # the result; of a stream its text
    chunks: int = 0  # of a stream
    connections: int = 16
    pace_s: float = 0.0

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    def job(self, server: Server, seconds: float, expect: str) -> dict[str, Any]:
        """As bench_load.py takes it."""
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
        }


@dataclass(slots=True)
class Figure:
    """What was measured of one server in one row.

    Attributes:
        rounds: the value of each round, in *unit*; none if an answer was wrong.
        cpu_us: the server's processor time for each request or chunk, in each round.
        more: other values of each round, by name with unit.
        base: the label of the figure that this one is compared with.
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
    """One server, one round."""

    value: float
    cpu_us: float | None = None
    more: dict[str, float] = field(default_factory=dict)
    wrong: int = 0
    first_wrong: str = ""


Measure = Callable[[], Sample]


class Bench:
    """What the rows need: the servers, the load, how long and how often."""

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
        """The limit, hayhooks, and what ``--vs`` names, all serving the same; started when first asked for."""
        if not self._servers:
            root = self.directory / "pipelines"
            servers.write_wrappers(root, with_haystack=any("pipeline" in name for name in self.options.rows))
            self._servers.append(self._stack.enter_context(servers.limit(self.log("limit"))))
            for label, command in self.commands():
                self._servers.append(self._hayhooks(label, command, root))
            self._servers += [Server(url, url) for url in self.options.vs if "://" in url]
        return self._servers

    def many(self) -> list[Server]:
        """Limit and hayhooks, with the many deployments."""
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
        """The hayhooks commands that are measured."""
        return [(OURS, HAYHOOKS), *((path, Path(path)) for path in self.options.vs if "://" not in path)]

    def _hayhooks(self, label: str, command: Path, root: Path) -> Server:
        log = self.log(f"server-{len(self._servers)}-{len(self._many)}-{root.name}")
        server = self._stack.enter_context(servers.hayhooks(command, root, log, label))
        servers.all_served(server, root, log)
        return server

    def rounds(self, figures: Sequence[Figure], measures: Sequence[Measure], *, times: int = 1) -> list[Figure]:
        """Measure in turn, and back in the next round, so that nobody has the better place; *times* as many rounds."""
        for number in range(self.options.rounds * times):
            pairs = list(zip(figures, measures, strict=True))
            for figure, measure in pairs if number % 2 == 0 else reversed(pairs):
                if not figure.wrong:
                    figure.take(measure())
        return list(figures)

    def asking(self, server: Server, work: Work, *beside: Work) -> Measure:
        """A measure: ask for *work* as often as can be, while each of *beside* is asked for at its pace."""
        try:
            works = [(one, check(server, one)) for one in (work, *beside)]
        except WrongAnswerError as error:
            wrong_answer = Sample(0.0, wrong=1, first_wrong=str(error))
            return lambda: wrong_answer

        def ask(seconds: float) -> Sample:
            jobs = [one.job(server, seconds, expect) for one, expect in works]
            cpu_before = server.cpu_s()
            told, *others = self.load(jobs)
            count = told["answers"] * (work.chunks or 1)
            cpu_after = server.cpu_s()
            cpu_us = None if cpu_before is None or cpu_after is None else (cpu_after - cpu_before) / (count or 1) * 1e6
            more = {"p50 ms": told["p50_ms"], "p99 ms": told["p99_ms"]}
            for other, one in zip(others, beside, strict=True):
                more |= {f"{one.path} p50 ms": other["p50_ms"], f"{one.path} p99 ms": other["p99_ms"]}
            wrong = [one for one in (told, *others) if one["wrong"]]
            first_wrong = wrong[0]["first_wrong"] if wrong else ""
            return Sample(count / told["took_s"], cpu_us, more, sum(one["wrong"] for one in wrong), first_wrong)

        ask(min(WARM_UP_S, self.options.seconds))
        return lambda: ask(self.options.seconds)

    def load(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.begin(jobs)
        return self.end()

    def begin(self, jobs: list[dict[str, Any]]) -> None:
        """Have the load's process do *jobs*, while something else is looked at."""
        assert self._load.stdin is not None
        self._load.stdin.write(json.dumps(jobs) + "\n")
        self._load.stdin.flush()

    def end(self) -> list[dict[str, Any]]:
        assert self._load.stdout is not None
        line = self._load.stdout.readline()
        if not line:
            raise RuntimeError("the load has ended")
        told: list[dict[str, Any]] = json.loads(line)
        return told


@contextmanager
def _load(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, servers.HERE / "bench_load.py"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class WrongAnswerError(Exception):
    """A server does not do the work; what it said instead."""


def check(server: Server, work: Work) -> str:
    """Ask once, read the answer as its users do, and return what the load may compare others with.

    Raises:
        WrongAnswerError: it is not right.
    """
    data = json.dumps(work.body).encode() if work.body is not None else None
    request = Request(server.url + work.path, data, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=60) as response:
            body = response.read().decode()
    except HTTPError as error:
        raise WrongAnswerError(
            f"{server.label} answers {work.path} with {error.code}: {error.read()[:300]!r}"
        ) from None
    if work.chunks:
        return _check_stream(server, work, body)
    if work.expect is not None and json.loads(body) != {"result": work.expect}:
        raise WrongAnswerError(f"{server.label} answers {work.path} with {body[:300]}")
    return body if work.expect is not None else ""


def _check_stream(server: Server, work: Work, body: str) -> str:
    events = [event.removeprefix("data: ") for event in body.split("\n\n") if event]
    chunks = [json.loads(event)["choices"][0] for event in events[:-1]]
    texts = [chunk["delta"].get("content") for chunk in chunks]
    right = [None, *[text for text in texts if text], None] == [texts[0] or None, *texts[1:-1], texts[-1] or None]
    if events[-1] != "[DONE]" or chunks[-1]["finish_reason"] != "stop" or not right or len(texts) != work.chunks + 2:
        raise WrongAnswerError(f"{server.label} answers {work.path} with {len(texts)} chunks, ending {body[-300:]!r}")
    if "".join(text for text in texts if text) != work.expect:
        raise WrongAnswerError(f"{server.label} answers {work.path} with another text")
    return str(work.expect)


# The rows, each a function of a bench that gives figures.

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
    """A row: *work* asked of every server; *others* are more limits, by label and path."""
    unit = "chunks/s" if work.chunks else "requests/s"

    def measure(bench: Bench) -> list[Figure]:
        limit, *rest = bench.servers()
        asked = [(LIMIT, limit, work)]
        asked += [(label, limit, _at(work, path)) for label, path in others]
        asked += [(server.label, server, work) for server in rest]
        figures = [Figure(name, title, label, unit, LIMIT) for label, _, _ in asked]
        return bench.rounds(figures, [bench.asking(server, one, *beside) for _, server, one in asked])

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
    """The last of the many deployments, against the only one."""
    count = bench.options.deployments
    title = f"run, async method, the last of {count:,} deployments"
    first, last = (Work(f"/many{number}/run", SHOUT, "HELLO!!!") for number in (0, count - 1))
    limit, *rest = bench.servers()
    asked = [(limit, _at(first, "/run_async/run"), limit.label)]
    asked += [(server, first, server.label) for server in rest if server.process]
    alone = [server.label for server, _, _ in asked]
    asked += [(server, last, base) for server, base in zip(bench.many(), alone, strict=True)]
    figures = [Figure("run-many", title, server.label, "requests/s", base) for server, _, base in asked]
    return bench.rounds(figures, [bench.asking(server, work) for server, work, _ in asked])


@row("swap")
def swap(bench: Bench) -> list[Figure]:
    """One of the many is changed: how long the event loop is away from its other tasks."""
    title = f"a new revision among {bench.options.deployments:,} deployments"
    root = bench.directory / "many"
    found = bench.many()[1:]
    kinds = {"loop's own time, longest turn": 1, "longest pause": 0}
    figures, samples = [], []
    for server in found:
        swaps = [_swap(server, root, number) for number in range(bench.options.rounds)]
        for kind, index in kinds.items():
            figures.append(Figure("swap", f"{title}: {kind}", server.label, "ms", LIMIT))
            samples.append([one[index] for one in swaps])
    for figure, values in zip(figures, samples, strict=True):
        figure.rounds = values
    return figures


def _swap(server: Server, root: Path, number: int) -> tuple[float, float]:
    """Change a wrapper while the probe runs; returns the longest pause and the longest turn, in ms."""
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
    """From the start of the process until all of the many are served."""
    count, root = bench.options.deployments, bench.directory / "many"
    servers.write_many(root, count)
    title = f"start to all served, {count:,} trivial wrappers"
    figures = [Figure("start-many", title, label, "s", LIMIT) for label, _ in bench.commands()]
    return bench.rounds(figures, [_starting(bench, command, root, "/readyz") for _, command in bench.commands()])


@row("start")
def start(bench: Bench) -> list[Figure]:
    """From the start of the process until five wrappers with Haystack are served; the limit is what they import."""
    root = bench.directory / "five"
    for number in range(5):
        folder = root / f"five{number}"
        servers.write_wrapper(folder, servers.METHODS["run_pipeline"], servers.SETUPS["run_pipeline"], "import work\n")
        (folder / "work.py").write_text((servers.HERE / "bench_work.py").read_text())
    title = "start to all served, 5 wrappers with Haystack"
    imports = "from haystack import Pipeline; from haystack.components.builders import PromptBuilder"
    figures = [Figure("start", title, LIMIT, "s", LIMIT)]
    measures = [_running([sys.executable, "-c", imports], bench)]
    for label, command in bench.commands():
        figures += [
            Figure("start", title, label, "s", LIMIT),
            Figure("start", "the same to `/healthz`", label, "s", ""),
        ]
        measures += [_starting(bench, command, root, path) for path in ("/readyz", "/healthz")]
    times = 1 if bench.options.quick else 3  # each is short, and the same one differs by half
    return bench.rounds(figures, measures, times=times)


def _starting(bench: Bench, command: Path, root: Path, path: str) -> Measure:
    """The time until *path* answers with 200; ``/readyz`` also means that all are served, for they load quickly."""

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
    """Commands that ask and end; the limit is Python alone."""
    figures = [Figure("command-line", "a process that ends", LIMIT, "s", LIMIT)]
    measures = [_running([sys.executable, "-c", "pass"], bench)]
    for server, (label, command) in zip(bench.servers()[1:], bench.commands(), strict=False):
        port = server.url.rpartition(":")[2]
        for title, arguments in (("`--help`", ["--help"]), ("`status`", ["status", "--port", port])):
            figures.append(Figure("command-line", title, label, "s", LIMIT))
            measures.append(_running([command, *arguments], bench))
    return bench.rounds(figures, measures)


def _running(command: list[Any], bench: Bench) -> Measure:
    def run() -> Sample:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, env=servers.environment(), cwd=bench.directory, stdout=subprocess.DEVNULL)
        took_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Sample(took_s, None, {"CPU s": cpu_s})

    return run


@row("memory")
def memory(bench: Bench) -> list[Figure]:
    """What is resident: with nothing deployed, for each deployment, for each open stream, and what stays of those."""
    figures: list[Figure] = []

    def tell(title: str, label: str, unit: str, value: float) -> None:
        figures.append(Figure("memory", title, label, unit, LIMIT, [value]))

    for label, command in bench.commands():
        idle = _memory_of_deployments(bench, command, 0)
        few, many = (_memory_of_deployments(bench, command, count) for count in (1, bench.options.deployments))
        tell("resident, nothing deployed", label, "MB", idle)
        tell("a trivial deployment", label, "KB", (many - few) / max(bench.options.deployments - 1, 1) * 1024)
    # Of servers that have served nothing yet: where many requests have been, there is room for the next.
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
            tell("an open stream", server.label, "KB", each)
            tell("kept of each of 1,000 streams that have ended", server.label, "KB", kept)
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


def _memory_of_streams(bench: Bench, server: Server, streams: int = 200) -> tuple[float, float]:
    """KB resident of each open stream, and of each that was open long ago: both after a first lot."""
    work = chat("/chat_async/chat", 30, 0.05, streams)
    job = work.job(server, 0.01, str(work.expect))  # one answer for each connection
    resident = []
    for _ in range(6):
        before = server.resident_mb() or 0.0
        bench.begin([job])
        time.sleep(1.0)  # all are open: a stream takes 1.5 s
        resident.append((before, server.resident_mb() or 0.0))
        bench.end()
    each = resident[0][1] - resident[0][0]
    return each / streams * 1024, ((server.resident_mb() or 0.0) - resident[1][0]) / (5 * streams) * 1024


# What is told.


def ratio(values: Sequence[float], base: Sequence[float]) -> float | None:
    pairs = [value / other for value, other in zip(values, base, strict=False) if other]
    return statistics.median(pairs) if pairs else None


def as_dict(figure: Figure, others: Sequence[Figure]) -> dict[str, Any]:
    """A figure with its medians and ratios; without any where an answer was wrong."""
    told = asdict(figure)
    if figure.wrong:
        return {**told, "rounds": [], "cpu_us": [], "more": {}, "value": None, "of_limit": None}
    told["value"] = statistics.median(figure.rounds)
    told["more"] = {name: statistics.median(values) for name, values in figure.more.items()}
    told["cpu_us_each"] = statistics.median(figure.cpu_us) if figure.cpu_us else None
    like = [other for other in others if (other.row, other.title) == (figure.row, figure.title) and not other.wrong]
    base = next((other for other in like if other.label == figure.base), None)
    if base is not None and base is not figure:
        told["of_limit"] = ratio(figure.rounds, base.rounds)
        told["cpu_of_limit"] = ratio(figure.cpu_us, base.cpu_us)
    return told


def as_markdown(told: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """A table of all figures, and a line that says where and how."""
    lines = [
        "| work | server | figure | of the limit | CPU, us each | of the limit | more |",
        "| --- | --- | --: | --: | --: | --: | --- |",
    ]
    for one in told:
        figure = f"WRONG: {one['wrong']}" if one["wrong"] else f"{number(one['value'])} {one['unit']}"
        more = ", ".join(f"{name} {number(value)}" for name, value in one["more"].items())
        cells = (one["title"], one["label"], figure, number(one.get("of_limit")), number(one.get("cpu_us_each")))
        lines.append("| " + " | ".join([*cells, number(one.get("cpu_of_limit")), more]) + " |")
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so everything is ended that was started
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
        f"{one.row}: {one.label} gave {one.wrong} wrong answers: {one.first_wrong}" for one in figures if one.wrong
    ]
    told = [as_dict(figure, figures) for figure in figures]
    if options.json:
        options.json.write_text(json.dumps({"where": where(), "figures": told, "failed": failed}, indent=2) + "\n")
    print(as_markdown(told, options))
    for line in failed:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="in under two minutes: fewer and shorter rounds")
    parser.add_argument("--rows", type=chosen, help=f"some of these, by commas: {', '.join(ROWS)}")
    parser.add_argument(
        "--vs",
        action="append",
        default=[],
        metavar="URL|COMMAND",
        help="measure another server too: one that serves what --write wrote, or another hayhooks command",
    )
    parser.add_argument("--write", type=Path, metavar="DIR", help="write the wrappers that are measured, and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, those of each round too")
    parser.add_argument("--rounds", type=int, help="default: 5; 2 with --quick")
    parser.add_argument("--seconds", type=float, help="of a round; default: 3; 0.5 with --quick")
    parser.add_argument("--deployments", type=int, help="how many are many (default: 1000; 300 with --quick)")
    options = parser.parse_args()
    options.rows = options.rows or list(ROWS)
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
