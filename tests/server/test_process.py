"""What a process that only serves hayhooks changes for itself."""

import sys
import time
from pathlib import Path

import pytest

from tests.cli.processes import Process, started
from tests.live_server import ECHO, eventually, replace

LARGE = ECHO.replace(
    "        pass",
    "        self.held = bytearray(5_000_000)\n        self.held[::4096] = b'x' * len(self.held[::4096])",
    1,
)


def resident_mb(server: Process) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096 // 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_reloads_of_5_mb_leave_little(tmp_path: Path):
    with started(tmp_path, "run", "--pipelines-dir", str(tmp_path / "pipelines"), TRIAL_SECONDS="0") as server:

        def reload(versions: range) -> None:
            for version in versions:
                replace(tmp_path / "pipelines/app/pipeline_wrapper.py", f"ANSWER = '{version}'\n{LARGE}")
                eventually(lambda: server.post("/app/run", json={}).json().get("result") == str(version))  # noqa: B023
            eventually(lambda: not server.get("/status").json()["retired"])

        reload(range(3))
        time.sleep(3)  # the garbage collection has no other sign
        before = resident_mb(server)
        reload(range(3, 103))
        eventually(lambda: resident_mb(server) <= before + 20, f"at most {before + 20} MB")
