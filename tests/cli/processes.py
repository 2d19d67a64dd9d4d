"""Run the command line as a process, as its users do."""

import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from tests.fork_server import HAYHOOKS, popen
from tests.live_server import eventually
from tests.network import free_port


def environment(**settings: str) -> dict[str, str]:
    """The environment of a process: ours, without the settings of whoever runs the tests, and *settings*."""
    return {**os.environ, "COLUMNS": "80", **{f"HAYHOOKS_{name}": value for name, value in settings.items()}}


def hayhooks(*arguments: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command, pipe = [HAYHOOKS, *arguments], subprocess.PIPE
    with popen(command, cwd=cwd, env=environment(**settings), stdout=pipe, stderr=pipe, text=True) as process:
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


class Process:
    """A server in a process of its own."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, output: Path, verify: ssl.SSLContext | bool = True
    ) -> None:
        self.process = process
        self.port = port
        self.url = f"http{'' if verify is True else 's'}://127.0.0.1:{port}"
        self._output = output
        self._verify = verify

    def client(self) -> httpx.Client:
        """A client that keeps its connection."""
        return httpx.Client(base_url=self.url, timeout=60, verify=self._verify)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, verify=self._verify)

    def post(self, path: str, json: object) -> httpx.Response:
        return httpx.post(self.url + path, json=json, timeout=30, verify=self._verify)

    def processor_s(self) -> float:
        """The processor time that it has taken, all threads together."""
        return time.clock_gettime(~self.process.pid << 3 | 2)  # the clock that clock_getcpuclockid(3) gives

    def output(self) -> str:
        """All that it has printed."""
        return self._output.read_text()

    def prints(self, text: str) -> None:
        """Wait until it has printed *text*."""
        eventually(lambda: text in self.output(), f"{text!r} in the output")

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Send *sig* and return the exit status."""
        self.process.send_signal(sig)
        return self.process.wait(timeout=40)


def _all_are_ready(client: httpx.Client) -> bool:
    """Whether no worker still loads; one that does is soon another one than those that answered before."""
    status = client.get("/status")
    workers = status.json().get("workers", ()) if status.status_code == 200 else ()  # else it needs a key
    return all(worker["ready"] for worker in workers)


@contextmanager
def started(
    tmp_path: Path,
    *arguments: str,
    port: int | None = None,
    executable: str = HAYHOOKS,
    cafile: Path | None = None,
    ready: int = 200,
    forks: bool = True,
    imports: tuple[str, ...] = (),
    variables: dict[str, str] | None = None,
    **settings: str,
) -> Iterator[Process]:
    """A serving command that is ready, or whose ``/readyz`` has the status *ready*; with *cafile* it serves TLS.

    *settings* are in its environment, and other *variables*. Without *forks* it is a new interpreter; a fork has
    *imports* already. See ``tests.fork_server``.
    """
    port = port or free_port()
    output = tmp_path / f"output-{port}"
    with output.open("wb") as file:
        process = (partial(popen, imports=imports) if forks else subprocess.Popen)(
            [executable, *arguments, "--port", str(port)],
            cwd=tmp_path,
            env={**environment(**settings), **(variables or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Process(process, port, output, ssl.create_default_context(cafile=cafile) if cafile else True)
    try:
        with server.client() as client:  # which is made once: to make one takes longer than to ask
            eventually(lambda: client.get("/readyz").status_code == ready, f"/readyz to be {ready}", 60)
            if ready == 200 and ("--workers" in arguments or "WORKERS" in settings):
                eventually(lambda: _all_are_ready(client), "all workers to be ready", 60)
        yield server
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
