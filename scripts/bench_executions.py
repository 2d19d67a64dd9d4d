"""Executions of two servers over one database, for scripts/bench."""

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import bench_servers as servers

WRAPPER = """
import asyncio
from pathlib import Path
from haystack import Pipeline
from pydantic import BaseModel
from hayhooks import BasePipelineWrapper, DurableContext


class Work(BaseModel):
    pid_file: str = ""


class PipelineWrapper(BasePipelineWrapper):
    durable_concurrency = 20

    def setup(self):
        self.pipeline = Pipeline()

    async def run_durable_async(self, context: DurableContext, request: Work) -> int:
        if request.pid_file:
            import os, time
            with open(request.pid_file, "a") as file:
                file.write(f"{os.getpid()} {time.time()}\\n")
            if context.attempt == 1:
                await asyncio.sleep(600)
        return context.attempt
"""


class Pair:
    """Two servers over one pipelines directory and one database."""

    def __init__(self, command: Path, directory: Path, stack: ExitStack, url: str) -> None:
        self._directory = directory
        root = directory / "pipelines"
        (root / "job").mkdir(parents=True)
        (root / "job/pipeline_wrapper.py").write_text(WRAPPER)
        variables = {"HAYHOOKS_STATE_DIR": str(directory / "state"), "HAYHOOKS_DURABLE_URL": url}
        self.servers = [
            stack.enter_context(servers.hayhooks(command, root, directory / f"server-{number}.log", "", variables))
            for number in range(2)
        ]
        for server in self.servers:
            servers.all_served(server, root, directory / "server-0.log")
            self.run(server)  # opens the database

    def run(self, server: servers.Server) -> tuple[float, float]:
        """Run one execution; return the seconds until it was kept, and until it had ended."""
        began = time.monotonic()
        execution = ask(server.url, "POST", "/job/run-durable", {})
        kept = time.monotonic()
        while execution["status"] != "completed":
            execution = ask(server.url, "GET", f"{execution['links']['self']}?wait=30")
        return kept - began, time.monotonic() - began

    def latency(self, count: int = 20) -> tuple[float, float]:
        """Return the medians of ``run`` in seconds, one execution after the other."""
        kept, done = zip(*(self.run(self.servers[0]) for _ in range(count)), strict=True)
        return statistics.median(kept), statistics.median(done)

    def throughput(self, count: int = 200) -> float:
        """Return how many executions end in a second, of *count* that were ordered at once."""
        began = time.monotonic()
        ordered = [ask(self.servers[number % 2].url, "POST", "/job/run-durable", {}) for number in range(count)]
        for execution in ordered:
            while ask(self.servers[0].url, "GET", f"{execution['links']['self']}?wait=30")["status"] != "completed":
                continue
        return count / (time.monotonic() - began)

    def idle(self, seconds: float = 5.0) -> float:
        """Return the processor time of one server while nothing happens, in ms each second."""
        before = self.servers[0].cpu_s() or 0.0
        time.sleep(seconds)
        return ((self.servers[0].cpu_s() or 0.0) - before) / seconds * 1000

    def failover(self) -> float:
        """Kill the server that runs an execution; return the seconds until the other one runs it. Call it last."""
        noted = self._directory / "pids"
        ask(self.servers[0].url, "POST", "/job/run-durable", {"pid_file": str(noted)})
        servers.wait_for(lambda: noted.exists() and noted.read_text().endswith("\n"), self.servers[0], noted)
        pid = int(noted.read_text().split()[0])
        holder = next(server for server in self.servers if server.process.pid == pid)
        holder.process.kill()
        killed = time.time()
        survivor = next(server for server in self.servers if server is not holder)
        servers.wait_for(lambda: noted.read_text().count("\n") > 1, survivor, noted)
        return float(noted.read_text().split()[-1]) - killed


@contextmanager
def pair(command: Path, directory: Path, url: str) -> Iterator[Pair]:
    """Start two servers, by *command*, over the database at *url*; "" is a SQLite file."""
    directory.mkdir()
    with ExitStack() as stack:
        yield Pair(command, directory, stack, url)


def ask(url: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
    """Send a request, and return its JSON."""
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json", **(headers or {})}
    with urlopen(Request(url + path, data, headers, method=method), timeout=60) as answer:
        return json.load(answer)
