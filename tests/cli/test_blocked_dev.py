"""`hayhooks dev` while code of a wrapper does not end: it says so, and Ctrl+C ends it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal, in_terminal
from tests.live_server import ECHO, eventually, replace
from tests.network import free_port

ENDLESS = """import time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        pass

    async def run_api_async(self) -> str:
        open("begun", "w").close()
        while True:
            time.sleep(0.05)
"""
WRAPPER = "pipelines/looping/pipeline_wrapper.py"
ENDLESS_THREAD = ENDLESS.replace("async def run_api_async", "def run_api")
LINE = "by looping, pipeline_wrapper.py:12: time.sleep(0.05)"
ENDLESS_SETUP = """import time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        while True:
            time.sleep(0.05)
"""


@contextmanager
def blocked(tmp_path: Path, code: str = ENDLESS, **settings: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """A terminal whose server runs an endless loop, and the client that waits for it."""
    replace(tmp_path / WRAPPER, code)
    begun = tmp_path / "begun"
    port = free_port()
    with in_terminal(
        "dev", "pipelines", "--port", str(port), cwd=tmp_path, columns=200, lines=24, **settings
    ) as terminal:
        terminal.shows("✓ looping")
        url = f"http://127.0.0.1:{port}/looping/run"
        retries = ["--retry", "9", "--retry-connrefused"]  # it may not listen yet
        command = ["curl", "-s", *retries, "-X", "POST", url, "-d", "{}"]
        asking = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            eventually(begun.exists)
            yield terminal, asking
        finally:
            asking.kill()
            asking.wait()


@pytest.mark.parametrize(("line", "end"), [("q", "\n"), ("\x03", "")], ids=["q", "Ctrl+C"])
def test_what_keeps_it_from_stopping_is_told_and_a_second_ctrl_c_ends_it(tmp_path: Path, line: str, end: str):
    with blocked(tmp_path) as (terminal, _):
        since = terminal.shows("event loop has been blocked for")
        terminal.shows("nothing is served until it ends", terminal.shows(LINE, since))
        replace(tmp_path / WRAPPER, "# a line more\n" + ENDLESS)  # what runs is the revision before
        since = terminal.shows("pipeline_wrapper.py\n", terminal.shows("✓ looping", since))
        since = terminal.shows("waits, as requests do, until the event loop goes on", since)
        terminal.shows("only a restart helps", since)

        terminal.type(line, end)
        since = terminal.shows(LINE, terminal.shows("event loop cannot stop: it has been blocked for", since))
        terminal.shows("Ctrl+C ends it at once", since)
        terminal.type("\x03", "")
        assert terminal.process.wait(60) == 0


@pytest.mark.parametrize("again", [("q", "\n"), ("\x03", "")], ids=["q", "Ctrl+C"])
def test_a_stop_names_the_method_that_it_waits_for_and_a_second_one_does_not_wait(
    tmp_path: Path, again: tuple[str, str]
):
    with blocked(tmp_path, ENDLESS_THREAD, GRACEFUL_SHUTDOWN_TIMEOUT="600") as (terminal, _):
        terminal.type("q")
        since = terminal.shows("stopping waits up to ")
        since = terminal.shows(
            "s for looping, run_api() at pipeline_wrapper.py:12: time.sleep(0.05); Ctrl+C ends", since
        )
        assert "event loop" not in terminal.text
        terminal.type(*again)
        assert terminal.process.wait(60) == 0
        assert "ASGI" not in terminal.text


def test_a_method_that_goes_on_after_its_client_has_left_is_told_once(tmp_path: Path):
    with blocked(tmp_path, ENDLESS_THREAD) as (terminal, asking):
        asking.kill()
        since = terminal.shows(
            "still runs run_api() at pipeline_wrapper.py:12: time.sleep(0.05)", terminal.shows("cancelled")
        )
        terminal.shows("only a restart ends its thread", since)


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
