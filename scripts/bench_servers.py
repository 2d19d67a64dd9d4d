"""Start and stop the measured servers, write their wrappers, and read their CPU time and memory."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any
from urllib.request import urlopen

HERE = Path(__file__).parent
DEADLINE_S = 120

WRAPPER = """
import asyncio
import time
{imports}
from hayhooks import BasePipelineWrapper, streaming_generator


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        {setup}

{method}
"""

METHODS = {
    "run_async": "async def run_api_async(self, text: str, times: int = 1) -> str:\n    return work.shout(text, times)",
    "run_sync": "def run_api(self, text: str, times: int = 1) -> str:\n    return work.shout(text, times)",
    "run_sleeping": "def run_api(self, text: str) -> str:\n    return work.nap(text)",
    "run_busy": "def run_api(self, text: str) -> str:\n    return work.count_down(text)",
    "run_objects": "async def run_api_async(self, articles: list[work.Article]) -> list[work.Article]:\n"
    "    return work.discounted(articles)",
    "run_pipeline": "def run_api(self, text: str, times: int = 1) -> str:\n"
    "    return work.prompted(self.pipeline, text, times)",
    "chat_async": "async def run_chat_completion_async(self, model, messages, body):\n"
    "    return work.words_async(*work.wanted(messages))",
    "chat_sync": "def run_chat_completion(self, model, messages, body):\n    return work.words(*work.wanted(messages))",
    "chat_pipeline": "def run_chat_completion(self, model, messages, body):\n"
    "    count, pause_s = work.wanted(messages)\n"
    '    arguments = {"speaker": {"count": count, "pause_s": pause_s}}\n'
    "    return streaming_generator(self.pipeline, pipeline_run_args=arguments)",
}

SETUPS = {"run_pipeline": "self.pipeline = work.prompting()", "chat_pipeline": "self.pipeline = work.speaking()"}

# The many deployments: no second file, no Haystack.
TRIVIAL = """async def run_api_async(self, text: str, times: int = 1) -> str:
    return text.upper() + "!" * times"""

# What is reloaded again and again.
LARGE = """self.held = bytearray(5_000_000)
        self.held[::4096] = b"x" * len(self.held[::4096])"""

# The longest time between two turns of a task: wall-clock time, and CPU time of the event loop's thread.
PROBE = """async def run_api_async(self, seconds: float) -> list[float]:
    longest = working = 0.0
    end, now, used = time.perf_counter() + seconds, time.perf_counter(), time.thread_time()
    while now < end:
        await asyncio.sleep(0)
        before, now, used_before, used = now, time.perf_counter(), used, time.thread_time()
        longest, working = max(longest, now - before), max(working, used - used_before)
    return [longest * 1000, working * 1000]"""


def write_wrapper(folder: Path, method: str, setup: str = "pass", imports: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    source = WRAPPER.format(imports=imports, setup=setup, method=indent(method, "    "))
    draft = folder / ".draft"
    draft.write_text(source)
    draft.replace(folder / "pipeline_wrapper.py")


def write_wrappers(root: Path, *, with_haystack: bool = True) -> None:
    """Write a wrapper for each kind of work."""
    for name, method in METHODS.items():
        if name in SETUPS and not with_haystack:
            continue
        write_wrapper(root / name, method, SETUPS.get(name, "pass"), imports="import work\n")
        shutil.copy(HERE / "bench_work.py", root / name / "work.py")
    write_many(root, 1)


def write_many(root: Path, count: int) -> None:
    for number in range(count):
        write_wrapper(root / f"many{number}", TRIVIAL)
    write_wrapper(root / "probe", PROBE)


def reload_large(server: "Server", root: Path, log: Path, version: int) -> None:
    """Overwrite a wrapper that holds 5 MB, and wait until the new one serves."""
    before = revision_of(server)
    write_wrapper(root / "large", TRIVIAL, f"{LARGE}  # {version}")
    wait_for(lambda: revision_of(server) not in (before, None), server, log)


def revision_of(server: "Server") -> str | None:
    """Return the revision that serves the name `large`."""
    status = get(server.url, "/status/large")
    return status and status["revision"]


@dataclass(frozen=True, slots=True)
class Server:
    """A measured server; without *process*, one that the benchmark did not start."""

    label: str
    url: str
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def cpu_s(self) -> float | None:
        """Return the CPU time of all threads, or None where it is unknown."""
        if self.pid is None or sys.platform != "linux":
            return None
        # The clock id of clock_getcpuclockid(3); /proc only has hundredths of a second.
        return time.clock_gettime((~self.pid << 3) | 2)

    def resident_mb(self) -> float | None:
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            return None
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) / 1024


@contextmanager
def hayhooks(
    command: Path, root: Path, log: Path, label: str, variables: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run ``hayhooks run`` on *root* with environment *variables*.

    Yield when it answers, before all is loaded (see ``all_served``).
    """
    port = free_port()
    with running(run_command(command, root, port), log, variables) as process:
        server = Server(label, f"http://127.0.0.1:{port}", process)
        wait_for(lambda: get(server.url, "/status"), server, log)
        yield server


def run_command(command: Path, root: Path, port: int) -> list[Any]:
    return [command, "run", "--host", "127.0.0.1", "--port", str(port), "--pipelines-dir", root]


@contextmanager
def limit(log: Path, *, routes: int = 0, label: str = "limit") -> Iterator[Server]:
    """Run the bare application; yield when it answers."""
    port = free_port()
    with running([sys.executable, HERE / "bench_limits.py", str(port), str(routes)], log) as process:
        server = Server(label, f"http://127.0.0.1:{port}", process)
        wait_for(lambda: get(server.url, "/status"), server, log)
        yield server


@contextmanager
def running(
    command: list[Any], log: Path, variables: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run *command* during the block, and stop it after an exception too."""
    with log.open("wb") as output:
        env = environment() | dict(variables or {})
        started = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=log.parent)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(timeout=10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def environment() -> dict[str, str]:
    """Return our environment without hayhooks settings, and without an access log: the limit has none either."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HAYHOOKS_")}
    return {**kept, "HAYHOOKS_ACCESS_LOG": "false", "HAYSTACK_TELEMETRY_ENABLED": "false"}


def all_served(server: Server, root: Path, log: Path) -> None:
    """Wait until *server* serves every folder of *root*.

    Raises:
        RuntimeError: a folder failed to load, or the deadline has passed.
    """
    names = sorted(folder.name for folder in root.iterdir())

    def served() -> bool:
        status = get(server.url, "/status")
        failed = [entry["error"] for entry in status["deployments"] if entry["state"] == "failed"]
        if failed:
            raise RuntimeError(f"{server.label} cannot serve a benchmark wrapper: {failed[0]}")
        return bool(status["pipelines"] == names)

    wait_for(served, server, log, step_s=0.1)


def get(url: str, path: str) -> Any:
    """Return the JSON body of the answer, or None if there is no answer."""
    try:
        with urlopen(url + path, timeout=10) as response:
            return json.load(response)
    except OSError:
        return None


def wait_for(condition: Callable[[], Any], server: Server, log: Path, *, step_s: float = 0.01) -> None:
    """Poll until *condition* holds.

    Raises:
        RuntimeError: the server's process has exited, or the deadline has passed; with the end of *log*.
    """
    end = time.monotonic() + DEADLINE_S
    while not condition():
        ended = server.process is not None and server.process.poll() is not None
        if ended or time.monotonic() > end:
            reason = "the process has exited" if ended else f"not ready within {DEADLINE_S} s"
            output = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{server.label}: {reason}\n{output}")
        time.sleep(step_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
