"""The gate before the swap: ``check()``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live_server import LiveServer, serving

CHECKED = """
import asyncio, time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.answer = ANSWER

    {check}

    def run_api(self):
        return self.answer
"""

STUBBORN = """async def check(self):
        for _ in range(2):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass"""

PASSING = {
    "plain": "def check(self): assert self.answer",
    "async": "async def check(self): await asyncio.sleep(0)",
    "returns an awaitable": "def check(self): return asyncio.sleep(0)",
    "says True": "def check(self): return True",
    "is the wrapper's own business": "def check(self, text): raise RuntimeError",
}
FAILING = {
    "plain": ("def check(self): raise ValueError('no answer')", "ValueError: no answer"),
    "async": ("async def check(self): raise ValueError('no answer')", "ValueError: no answer"),
    "awaitable": ("def check(self): return self.no()\n    async def no(self): 1 / 0", "ZeroDivisionError"),
    "exits": ("def check(self): raise SystemExit(3)", "SystemExit: 3"),
    "exits on the loop": ("async def check(self): raise SystemExit(3)", "SystemExit: 3"),
    "is interrupted on the loop": ("async def check(self): raise KeyboardInterrupt", "KeyboardInterrupt"),
    "is cancelled on the loop": ("async def check(self): raise asyncio.CancelledError", "CancelledError"),
    "says False": ("def check(self): return False", "check() returned False"),
    "its own timeout": ("async def check(self): raise TimeoutError('mine')", "TimeoutError: mine"),
    "hangs": ("def check(self): time.sleep(5)", "check() did not finish within 1 s"),
    "hangs on the loop": ("async def check(self): await asyncio.sleep(60)", "check() did not finish within 1 s"),
    "will not be cancelled": (STUBBORN, "check() did not finish within 1 s"),
    "a generator": ("def check(self): yield 1", "check() is a generator"),
    "a generator on the loop": ("async def check(self): yield 1", "check() is a generator"),
}


@pytest.fixture
def server(root: Path) -> Iterator[LiveServer]:
    with serving(root, check_timeout=1) as server:
        yield server


@pytest.mark.parametrize("check", PASSING.values(), ids=PASSING)
def test_what_passes_serves(server: LiveServer, check: str):
    server.serve("checked", CHECKED.format(check=check), answer=1)

    assert server.run("checked") == 1


@pytest.mark.parametrize(("check", "reason"), FAILING.values(), ids=FAILING)
def test_what_does_not_pass_is_a_failure_and_the_one_before_serves(server: LiveServer, check: str, reason: str):
    server.serve("checked", CHECKED.format(check=""), answer=1)

    server.write("checked", CHECKED.format(check=check), answer=2)
    error = server.eventually(lambda: server.state("checked")["error"])

    assert reason in error
    assert server.run("checked") == 1
    server.serve("checked", CHECKED.format(check=""), answer=3)
    assert server.run("checked") == 3
    assert server.state("checked")["error"] is None


def test_the_place_of_a_failing_check_is_told(server: LiveServer):
    folder = server.write("checked", CHECKED.format(check="def check(self): 1 / 0"), answer=1)

    server.eventually(lambda: f"{folder}/pipeline_wrapper.py:11" in server.state("checked")["error"])


WAITS = """def check(self):
        open(BEGAN, "w").close()
        while not os.path.exists(GATE):
            time.sleep(0.005)"""


def test_a_check_that_takes_its_time_holds_up_nobody(root: Path, tmp_path: Path):
    began, gate = tmp_path / "began", tmp_path / "gate"
    with serving(root, check_timeout=60) as server:
        waits = "import os\n" + CHECKED.format(check=WAITS)
        server.write("checked", waits, answer=1, began=str(began), gate=str(gate))
        server.eventually(began.exists)
        server.serve("other", CHECKED.format(check=""), answer=2)

        assert server.run("other") == 2
        assert server.state("checked")["state"] == "loading"
        gate.touch()
        server.eventually(lambda: server.run("checked") == 1)
