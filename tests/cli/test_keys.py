"""The keys of `hayhooks dev`, in a terminal."""

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cli.processes import started
from tests.cli.terminal import Terminal, in_terminal
from tests.live_server import ECHO, eventually, replace
from tests.network import free_port


@contextmanager
def dev(tmp_path: Path, graceful_s: int = 30) -> Iterator[tuple[Terminal, str]]:
    port = free_port()
    with in_terminal(
        "dev", cwd=tmp_path, columns=200, PORT=str(port), GRACEFUL_SHUTDOWN_TIMEOUT=str(graceful_s)
    ) as terminal:
        terminal.shows("(h + Enter lists the keys, Ctrl+C stops)")
        yield terminal, f"http://127.0.0.1:{port}"


def write(tmp_path: Path, name: str, wrapper: str = ECHO) -> None:
    replace(tmp_path / f"pipelines/{name}/pipeline_wrapper.py", "ANSWER = ''\n" + wrapper)


def test_h_lists_the_keys_and_q_quits(tmp_path: Path):
    with dev(tmp_path) as (terminal, _):
        terminal.type("h")
        at = 0
        for key in ("h ", "o ", "r NAME", "t ", "c ", "q "):
            at = terminal.shows(f"\n  {key}", at)
        terminal.type("x")
        at = terminal.shows("No key: 'x'", at)
        terminal.type("r")
        at = terminal.shows("There is no pipeline yet", at)
        terminal.type("")
        terminal.type("q")
        terminal.shows("Stopped.", at)
        assert terminal.wait() == 0


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the browser writes: the address it is to open, and the status that it gets there."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho $(curl -so /dev/null -w "%{{http_code}}" "$1") "$1" >> {tmp_path}/opened\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    return tmp_path / "opened"


def test_o_opens_the_console_in_the_browser(tmp_path: Path, opened: Path):
    with dev(tmp_path) as (terminal, url):
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        terminal.type("o")
        eventually(lambda: opened.read_text() == f"200 {url}/\n")


def test_open_opens_the_console_once_the_server_listens(tmp_path: Path, opened: Path):
    with started(tmp_path, "dev", "--open", "--root-path", "/ai") as server:
        eventually(lambda: opened.read_text() == f"200 {server.url}/ai/\n")


def test_open_without_a_console_opens_the_api_pages(tmp_path: Path, opened: Path):
    with started(tmp_path, "dev", "--open", CONSOLE="false") as server:
        eventually(lambda: opened.read_text() == f"200 {server.url}/docs\n")


def test_r_loads_again_what_has_not_changed(tmp_path: Path):
    write(tmp_path, "echo")
    with dev(tmp_path) as (terminal, _):
        at = terminal.shows("✓ echo")
        terminal.type("r")  # there is only one
        at = terminal.shows("✓ echo", at)
        write(tmp_path, "other")
        at = terminal.shows("✓ other", at)
        terminal.type("r other")
        at = terminal.shows("✓ other", at)
        terminal.type("r")
        at = terminal.shows("r needs a name; there are: echo, other", at)
        terminal.type("R nothing")
        terminal.shows("There is no pipeline 'nothing'; there are: echo, other", at)


ASKING = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.name = input("who? ")

    def run_api(self, debug: bool = False):
        local = "a value"
        if debug:
            breakpoint()
        return f"{self.name} {input('what? ')} {local}"

    async def run_chat_completion_async(self, model, messages, body):
        local = "another"
        breakpoint()
        return local
"""


def test_input_gets_the_lines_that_it_waits_for(tmp_path: Path):
    write(tmp_path, "ask", ASKING)
    with dev(tmp_path) as (terminal, url), ThreadPoolExecutor(1) as pool:
        at = terminal.shows("who? ")
        terminal.type("q")
        at = terminal.shows("✓ ask", at)
        answer = pool.submit(httpx.post, f"{url}/ask/run", json={}, timeout=30)
        at = terminal.shows("what? ", at)
        terminal.type("h")
        assert answer.result().json() == {"result": "q h a value"}
        terminal.type("h")  # a key again
        terminal.shows("wait for.", at)


def test_breakpoint_in_a_request_works(tmp_path: Path):
    write(tmp_path, "ask", ASKING.replace('input("who? ")', '"I"'))
    with dev(tmp_path) as (terminal, url), ThreadPoolExecutor(1) as pool:
        at = terminal.shows("✓ ask")
        answer = pool.submit(httpx.post, f"{url}/ask/run", json={"debug": True}, timeout=30)
        at = terminal.shows("(Pdb) ", at)
        terminal.type("p local")
        at = terminal.shows("'a value'", at)
        terminal.type("local = 'mine'\nc")  # both at once, as they are pasted
        at = terminal.shows("what? ", at)
        terminal.type("x")
        assert answer.result().json() == {"result": "I x mine"}

        body = {"messages": [{"role": "user", "content": "x"}]}
        answer = pool.submit(httpx.post, f"{url}/ask/chat", json=body, timeout=30)
        at = terminal.shows("(Pdb) ", at)
        time.sleep(0.5)  # for which a debugger holds the event loop: nobody is told of it
        terminal.type("p local")
        at = terminal.shows("'another'", at)
        terminal.type("c")
        assert answer.result().json()["choices"][0]["message"]["content"] == "another"
        assert "event loop" not in terminal.text


def test_ctrl_c_ends_it_while_a_wrapper_waits_for_a_line(tmp_path: Path):
    write(tmp_path, "ask", ASKING)
    with dev(tmp_path, graceful_s=1) as (terminal, _):
        terminal.shows("who? ")
        terminal.type("\x03", end="")
        assert terminal.wait() == 0


def test_getpass_gets_its_line(tmp_path: Path):
    secret = ASKING.replace('input("who? ")', '__import__("getpass").getpass("who? ")')
    write(tmp_path, "ask", secret)
    with dev(tmp_path) as (terminal, _):
        at = terminal.shows("who? ")
        terminal.type("q")
        terminal.shows("✓ ask", at)


def test_without_a_terminal_nothing_is_read(tmp_path: Path):
    write(tmp_path, "echo")
    with started(tmp_path, "dev") as server:
        assert "h + Enter" not in server.output()
        assert server.stop() == 0


def test_t_prints_the_last_traceback(tmp_path: Path):
    with dev(tmp_path) as (terminal, url):
        terminal.type("t")
        at = terminal.shows("No failure yet.")
        write(tmp_path, "broken", ASKING.replace('input("who? ")', "{}['nothing']"))
        at = terminal.shows("full traceback: t + Enter", at)
        terminal.type("t")
        at = terminal.shows("Traceback (most recent call last)", at)
        terminal.shows("KeyError: 'nothing'", at)
        assert httpx.get(f"{url}/status/broken").status_code == 503


def test_a_terminal_that_is_gone_ends_those_who_wait_for_a_line():
    """In a process of its own: standard input is a terminal whose other end is closed."""
    script = (
        "import os, sys, time\n"
        "from hayhooks.cli.keyboard import Keyboard\n"
        "keyboard = Keyboard(print, lambda: False)\n"
        "with keyboard.shared():\n"
        "    os.close(int(sys.argv[1]))\n"
        "    print(repr(keyboard.read_line()))\n"
    )
    master, terminal = pty.openpty()
    command = [sys.executable, "-c", script, str(master)]
    with subprocess.Popen(command, stdin=terminal, stdout=-1, stderr=-1, text=True, pass_fds=[master]) as process:
        os.close(terminal)
        os.close(master)
        assert process.communicate(timeout=60) == ("b''\n", "")
