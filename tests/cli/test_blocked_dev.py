"""`hayhooks dev` while code of a wrapper does not end: it says so, and Ctrl+C ends it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal, in_terminal
from tests.live_server import ECHO, replace
from tests.network import free_port

ENDLESS = """import time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        pass

    async def run_api_async(self) -> str:
        while True:
            time.sleep(0.05)
"""
LINE = "by looping, pipeline_wrapper.py:11: time.sleep(0.05)"
ENDLESS_SETUP = """import time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        while True:
            time.sleep(0.05)
"""


@contextmanager
def blocked(tmp_path: Path) -> Iterator[tuple[Terminal, Path]]:
    """A terminal whose server runs an endless loop on its event loop."""
    wrapper = tmp_path / "pipelines/looping/pipeline_wrapper.py"
    replace(wrapper, ENDLESS)
    port = free_port()
    with in_terminal("dev", "pipelines", "--port", str(port), cwd=tmp_path, columns=120) as terminal:
        terminal.shows("✓ looping")
        url = f"http://127.0.0.1:{port}/looping/run"
        asking = subprocess.Popen(["curl", "-s", "-X", "POST", url, "-d", "{}"], stdout=subprocess.DEVNULL)
        try:
            yield terminal, wrapper
        finally:
            asking.kill()
            asking.wait()


@pytest.mark.parametrize(("line", "end"), [("q", "\n"), ("\x03", "")], ids=["q", "Ctrl+C"])
def test_what_keeps_it_from_stopping_is_told_and_a_second_ctrl_c_ends_it(tmp_path: Path, line: str, end: str):
    with blocked(tmp_path) as (terminal, wrapper):
        since = terminal.shows("event loop has been blocked for")
        terminal.shows(LINE, since)
        replace(wrapper, "# a line more\n" + ENDLESS)  # what runs is the revision before
        since = terminal.shows("pipeline_wrapper.py\n", terminal.shows("✓ looping", since))

        terminal.type(line, end)
        since = terminal.shows(LINE, terminal.shows("event loop cannot stop: it has been blocked for", since))
        terminal.shows("Ctrl+C again ends it at once", since)
        terminal.type("\x03", "")
        assert terminal.process.wait(10) == 0


def test_a_setup_that_does_not_end_is_taken_back(tmp_path: Path):
    wrapper = tmp_path / "pipelines/echo/pipeline_wrapper.py"
    good = "ANSWER = ''\n" + ECHO
    replace(wrapper, good)
    with in_terminal("dev", "pipelines", "--port", str(free_port()), cwd=tmp_path, columns=160) as terminal:
        since = terminal.shows("✓ echo")
        replace(wrapper, ENDLESS_SETUP)
        since = terminal.shows("has been loading for", since)
        replace(wrapper, good)
        since = terminal.shows("serves again", terminal.shows("✓ echo", since))
        since = terminal.shows("is not wanted any more, and still runs setup() at", since)
        terminal.shows("only a restart", since)
