"""A Ray cluster of one node, in namespaces that hold only its processes and the loopback interface.

Ray listens on all addresses, and on ports that nobody gives it.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.live_server import eventually

URL = "http://127.0.0.1:8000"
METRICS = "http://127.0.0.1:9090/metrics"
_DASHBOARD = "http://127.0.0.1:8265"
_BIN = Path(sys.executable).parent
_ENVIRONMENT = {
    **os.environ,
    "PATH": f"{_BIN}:{os.environ['PATH']}:/usr/sbin",
    "RAY_AUTH_MODE": "disabled",
    "RAY_DASHBOARD_ADDRESS": _DASHBOARD,
    "RAY_ADDRESS": "127.0.0.1:6379",
}
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_libc = ctypes.CDLL(None, use_errno=True)


class Cluster:
    """The cluster; the thread that has made it is in its network."""

    def __init__(self, folder: Path, init: int) -> None:
        self.folder = folder
        self._init = init  # the first process of the namespaces
        self.client = httpx.Client(base_url=URL, timeout=60)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run *command* in the cluster's namespaces."""
        inside = ["nsenter", "--target", str(self._init), "--net", "--pid", "--mount", *command]
        done = subprocess.run(inside, env=_ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def deploy(self, *, import_path: str = "hayhooks.integrations.ray:hayhooks_app", **arguments: Any) -> None:
        """Deploy the application "hayhooks" from a configuration file; do not wait for it."""
        application = {"name": "hayhooks", "route_prefix": "/", "import_path": import_path, "args": arguments}
        config = self.folder / "config.yaml"
        http = {"host": "127.0.0.1", "port": 8000}
        config.write_text(yaml.safe_dump({"http_options": http, "applications": [application]}))
        self.run("serve", "deploy", str(config))

    def applications(self) -> dict[str, Any]:
        """The applications as Ray tells them, by name."""
        answer = httpx.get(f"{_DASHBOARD}/api/serve/applications/", timeout=30).raise_for_status()
        found: dict[str, Any] = answer.json()["applications"]
        return found

    def wait_until(self, status: str, name: str = "hayhooks") -> dict[str, Any]:
        """The application *name* once it has that status."""

        def reached() -> bool:
            return bool(self.applications()[name]["status"] == status)

        eventually(reached, f"{name} to be {status}", deadline_s=120)
        found: dict[str, Any] = self.applications()[name]
        return found

    def eventually(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for *condition*; Ray takes seconds to start and to stop processes."""
        return eventually(condition, what, deadline_s=120)

    def log_of_replicas(self) -> str:
        """What the replicas have logged."""
        files = self.folder.glob("ray/session_latest/logs/serve/replica_*.log")
        return "\n".join(file.read_text() for file in files)


@contextmanager
def running() -> Iterator[Cluster]:
    """A cluster; it ends with the block, every process of it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # paths of sockets are short
    command = (
        "ip link set lo up && ray start --head --num-cpus=16 --node-ip-address=127.0.0.1 --disable-usage-stats"
        f" --metrics-export-port=9090 --temp-dir={folder}/ray && exec sleep infinity"
    )
    with (folder / "start.log").open("w") as log:
        outer = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-c",
                command,
            ],
            env=_ENVIRONMENT,
            stdout=log,
            stderr=log,
        )
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        init = int(eventually(lambda: children.read_text().split()[0], "the first process of the namespaces"))
        with _in_network_of(init):
            cluster = Cluster(folder, init)
            with cluster.client:
                eventually(
                    lambda: httpx.get(f"{_DASHBOARD}/api/version").is_success,
                    f"Ray to start: {folder}/start.log",
                    deadline_s=120,
                )
                yield cluster
    finally:
        outer.kill()
        outer.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _in_network_of(process: int) -> Iterator[None]:
    """Move this thread, and those that it starts, into the network namespace of *process*."""
    with open("/proc/thread-self/ns/net") as before:
        with open(f"/proc/{process}/ns/net") as network:
            _enter(network.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
