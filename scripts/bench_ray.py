"""A Ray cluster of one node for scripts/bench, which runs in namespaces that hold only loopback for this row."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

URL = "http://127.0.0.1:8000"
SHAPES = {"replicated": "", "per_pipeline": "/each"}  # and the path that each is served below
_DASHBOARD = "http://127.0.0.1:8265"
_IMPORT = "hayhooks.integrations.ray:hayhooks_app"


@contextmanager
def serving(root: Path, directory: Path) -> Iterator[None]:
    """Serve *root* on Ray in both shapes, each with one replica."""
    if [name for _, name in socket.if_nameindex()] != ["lo"]:
        raise RuntimeError(
            "Ray listens on all addresses: run scripts/bench --rows ray as root, on Linux, with Ray installed"
        )
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_DASHBOARD_ADDRESS": _DASHBOARD,
        "HAYHOOKS_ACCESS_LOG": "false",
    }
    start = ["ray", "start", "--head", "--num-cpus=64", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    with (directory / "ray.log").open("w") as log:
        subprocess.run([*start, f"--temp-dir={directory}/ray"], env=environment, stdout=log, stderr=log, check=True)
        applications = [
            {
                "name": shape,
                "route_prefix": prefix or "/",
                "import_path": _IMPORT,
                "args": {"pipelines_dir": str(root), "shape": shape, "ray_options": {"num_cpus": 0.1}},
            }
            for shape, prefix in SHAPES.items()
        ]
        config = directory / "serve.json"  # JSON is YAML
        options = {"http_options": {"host": "127.0.0.1", "port": 8000}, "logging_config": {"enable_access_log": False}}
        config.write_text(json.dumps({**options, "applications": applications}))
        subprocess.run(["serve", "deploy", str(config)], env=environment, stdout=log, stderr=log, check=True)
        deadline = time.monotonic() + 300
        while not _is_running():
            if time.monotonic() > deadline:
                raise RuntimeError(f"Ray Serve does not run; see {log.name}")
            time.sleep(0.5)
        try:
            yield
        finally:
            subprocess.run(["ray", "stop"], env=environment, stdout=log, stderr=log, check=False)


def _is_running() -> bool:
    try:
        with urlopen(f"{_DASHBOARD}/api/serve/applications/", timeout=10) as answer:
            found = json.load(answer)["applications"]
    except OSError:
        return False
    return len(found) > len(SHAPES) and {each["status"] for each in found.values()} == {"RUNNING"}
