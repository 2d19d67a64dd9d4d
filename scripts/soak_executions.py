"""Kill servers at random while they run executions; check that nothing is lost, and no kept step is done again.

Three servers share a pipelines directory and a SQLite file, or the database at --url. Now and then one is killed,
stopped or frozen for a moment, and started again; the wrapper is saved meanwhile.
"""

import argparse
import collections
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import URLError

import bench_servers as servers
from bench_executions import ask

WRAPPER = """
import asyncio
from haystack import Pipeline
from pydantic import BaseModel
from hayhooks import BasePipelineWrapper, DurableContext

LOG = {log!r}


class Work(BaseModel):
    names: list[str]


def note(line):
    with open(LOG, "a") as file:
        file.write(line + "\\n")
    return line


class PipelineWrapper(BasePipelineWrapper):
    durable_concurrency = 4

    def setup(self):
        self.pipeline = Pipeline()

    async def run_durable_async(self, context: DurableContext, request: Work) -> int:
        for name in request.names:
            await context.step(name, note, f"begun {{name}}")
            note(f"kept {{name}}")
            await asyncio.sleep(0.05)
        return len(request.names)

# saved {number} times
"""

HAYHOOKS = Path(sys.executable).with_name("hayhooks")


class Soak:
    """Servers that come and go, and what was ordered of them."""

    def __init__(self, directory: Path, url: str, seed: int) -> None:
        self.random = random.Random(seed)
        self._directory = directory
        self._root = directory / "pipelines"
        self._variables = {
            "HAYHOOKS_STATE_DIR": str(directory / "state"),
            "HAYHOOKS_DURABLE_URL": url,
            "HAYHOOKS_DURABLE_MAX_ATTEMPTS": "1000",  # each kill counts as a crash
            "HAYHOOKS_DURABLE_GRACE": "0",
        }
        self.servers: list[tuple[servers.Server, ExitStack]] = []
        self.ordered: dict[str, list[str]] = {}  # the names of the steps of each execution
        self.done: collections.Counter[str] = collections.Counter()

    def save(self) -> None:
        """Save the wrapper with another comment."""
        (self._root / "job").mkdir(parents=True, exist_ok=True)
        self.done["saves"] += 1
        text = WRAPPER.format(log=str(self._directory / "log"), number=self.done["saves"])
        file = self._root / "job/pipeline_wrapper.py"
        file.with_suffix(".new").write_text(text)
        file.with_suffix(".new").replace(file)

    def start(self) -> None:
        """Start one more server."""
        stack = ExitStack()
        log = self._directory / f"server-{self.done['starts']}.log"
        server = stack.enter_context(servers.hayhooks(HAYHOOKS, self._root, log, "hayhooks", self._variables))
        self.done["starts"] += 1
        self.servers.append((server, stack))

    def disturb(self) -> None:
        """Kill, stop or freeze a server, or save the wrapper."""
        server, stack = self.random.choice(self.servers)
        assert server.process is not None
        match self.random.choice(["kill", "kill", "stop", "freeze", "save"]):
            case "save":
                self.save()
                return
            case "freeze":
                self.done["freezes"] += 1
                os.kill(server.process.pid, signal.SIGSTOP)
                time.sleep(self.random.uniform(0.1, 3))
                os.kill(server.process.pid, signal.SIGCONT)
                return
            case "kill":
                self.done["kills"] += 1
                server.process.kill()
            case "stop":
                self.done["stops"] += 1
        self.servers.remove((server, stack))
        stack.close()
        self.start()

    def order(self) -> None:
        """Order an execution from any server."""
        names = [f"{len(self.ordered)}-{step}" for step in range(4)]
        server = self.random.choice(self.servers)[0]
        key = f"order {len(self.ordered)}"  # it is ordered again if no answer comes
        while True:
            try:
                execution = ask(server.url, "POST", "/job/run-durable", {"names": names}, {"Idempotency-Key": key})
                break
            except (URLError, OSError, ValueError):
                time.sleep(0.1)
                server = self.random.choice(self.servers)[0]
        self.ordered[execution["links"]["self"]] = names

    def end(self, deadline_s: float) -> list[str]:
        """Wait for the end of all; return what is wrong."""
        wrong = []
        until = time.monotonic() + deadline_s
        for path, names in self.ordered.items():
            execution: Any = {}
            while execution.get("status") not in ("completed", "failed", "canceled") and time.monotonic() < until:
                try:
                    execution = ask(self.servers[0][0].url, "GET", f"{path}?wait=5")
                except (URLError, OSError, ValueError):
                    time.sleep(0.1)
            if execution.get("status") != "completed":
                wrong.append(f"{names[0]} is not completed: {json.dumps(execution)[:500]}")
        kept: set[str] = set()
        begun: collections.Counter[str] = collections.Counter()
        for line in (self._directory / "log").read_text().splitlines():
            what, name = line.split()
            begun[name] += what == "begun"
            if what == "begun" and name in kept:
                wrong.append(f"the step {name} was done again after it was kept")
            if what == "kept":
                kept.add(name)
        self.done["steps"] = len(begun)
        self.done["steps begun again, for they had not been kept"] = sum(begun.values()) - len(begun)
        missing = {name for names in self.ordered.values() for name in names} - begun.keys()
        return [*wrong, *(f"the step {name} was never done" for name in missing)]


def main() -> int:
    """Run the soak; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: %(default)s)")
    parser.add_argument("--url", default="", help="of the database (default: a SQLite file)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what happens when")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="hayhooks-soak-") as directory:
        soak = Soak(Path(directory), options.url, options.seed)
        soak.save()
        try:
            for _ in range(3):
                soak.start()
            until = time.monotonic() + options.minutes * 60
            next_disturbance = 0.0
            while time.monotonic() < until:
                soak.order()
                time.sleep(soak.random.expovariate(4))
                if time.monotonic() > next_disturbance:
                    soak.disturb()
                    next_disturbance = time.monotonic() + soak.random.expovariate(0.4)
            wrong = soak.end(deadline_s=300)
        finally:
            for _, stack in soak.servers:
                stack.close()
    print(f"{len(soak.ordered)} executions, {dict(soak.done)}")
    print("\n".join(wrong) or "nothing is lost, and no kept step was done again")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
