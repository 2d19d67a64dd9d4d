"""What is broken in ways that are hard to tell of: it is told all the same, and what served goes on serving."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.faults.traffic import Traffic
from tests.live_server import ECHO, LiveServer, eventually, replace, serving

IN_SETUP = """
import asyncio
from hayhooks import BasePipelineWrapper


class Untellable(Exception):
    def __str__(self):
        raise SystemExit("not even this")


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        {statement}

    def run_api(self):
        return 1
"""


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


def fails_in_setup(statement: str) -> str:
    return IN_SETUP.format(statement=statement)


# By kind: the source, and what the first line of the report says.
ODDLY_BROKEN = {
    "a group": (fails_in_setup("raise BaseExceptionGroup('many', [SystemExit(1), ValueError(2)])"), "many"),
    "a circle of causes": (fails_in_setup("a, b = KeyError(1), ValueError(2); b.__cause__ = a; raise a from b"), "1"),
    "recursion": (fails_in_setup("f = lambda: f(); f()"), "RecursionError"),
    "recursion at import": ("def f(): f()\nf()\n", "RecursionError"),
    "deep nesting": (f"x = {'(' * 300}{')' * 300}\n", "SyntaxError"),
    "deep expression": (f"x = {'-' * 20_000}1\n", "Error"),
    "StopIteration": (fails_in_setup("raise StopIteration"), "StopIteration"),
    "GeneratorExit": (fails_in_setup("raise GeneratorExit"), "GeneratorExit"),
    "CancelledError": (fails_in_setup("raise asyncio.CancelledError"), "CancelledError"),
    "a thread's exit": (fails_in_setup("import _thread; _thread.exit()"), "SystemExit"),
    "attributes that raise": (
        ECHO.replace("    def setup", "    def __getattribute__(*_): 1 / 0\n\n    def setup"),
        "Zero",
    ),
    "no instance": (ECHO.replace("    def setup", "    def __new__(cls): return 5\n\n    def setup"), "'int' object"),
    "arguments wanted": (ECHO.replace("    def setup", "    def __init__(self, x): ...\n\n    def setup"), "__init__"),
    "a module that is none": ("import sys\nsys.modules[__name__] = 5\n", "TypeError"),
    "a module that is gone": ("import sys\ndel sys.modules[__name__]\n", "KeyError"),
    "no method but None": (ECHO.replace("def run_api(", "run_api = None\n    def other("), "None"),
    "null bytes": ("x = '\0'\n", "null bytes"),
    "another encoding": ("# coding: utf-7\n# coding: nothing\nx = 1 +", "Error"),
    "str that raises": (fails_in_setup("raise Untellable"), "Untellable"),
    "a syntax error of numbers": (fails_in_setup("raise SyntaxError('odd', (5, 'abc', None, 7))"), "SyntaxError"),
    "a module name of numbers": (fails_in_setup("raise ModuleNotFoundError('odd', name=7)"), "ModuleNotFoundError"),
    "half a character": (fails_in_setup("raise ValueError('odd \\ud800')"), "ValueError: odd"),
}


def reported(server: LiveServer, name: str = "app") -> Any:
    """The state of *name*, once its newest revision has failed."""
    return server.eventually(lambda: (state := server.state(name))["state"] == "stale" and state, "the failure")


@pytest.mark.parametrize("kind", ODDLY_BROKEN)
def test_whatever_is_raised_is_reported_and_the_repair_is_served(server: LiveServer, kind: str):
    source, told = ODDLY_BROKEN[kind]
    server.serve("app", answer="good")
    replace(server.root / "app/pipeline_wrapper.py", source)

    state = reported(server)

    assert told in state["error"].partition("\n")[0]
    assert server.client.get("/status/app").status_code == 200
    assert server.run("app") == "good"
    server.serve("app", answer="mended")
    assert (server.run("app"), server.state("app")["error"]) == ("mended", None)


def test_a_message_without_end_is_told_in_short(server: LiveServer):
    server.serve("app", answer="good")
    server.write("app", fails_in_setup("raise ValueError('x' * 5_000_000)"))

    reported(server)

    assert len(server.client.get("/status").content) < 500_000


def test_a_folder_whose_name_is_not_utf8_is_told(traffic: Traffic):
    """Its name can be no part of a URL; all that asks for the list must still get one."""
    server = traffic.server
    folder = Path(os.fsdecode(os.fsencode(server.root) + b"/odd\xff"))
    folder.mkdir()
    (folder / "pipeline_wrapper.py").write_text("ANSWER = ''\n" + ECHO)

    server.eventually(
        lambda: [
            entry
            for entry in server.status()["deployments"]
            if entry["name"].startswith("odd") and "cannot be a part of a URL" in entry["error"]
        ]
    )
    shutil.rmtree(folder)
    server.eventually(lambda: not any(entry["name"].startswith("odd") for entry in server.status()["deployments"]))


def test_a_file_whose_name_is_not_utf8_may_be_the_one_that_fails(server: LiveServer):
    server.serve("app", answer="good")
    (server.root / os.fsdecode(b"app/odd\xff.py")).write_text("1 / 0")
    runs = (
        "from pathlib import Path; p = next(Path(__file__).parent.glob('odd*')); exec(compile('1 / 0', str(p), 'exec'))"
    )
    server.write("app", fails_in_setup(runs))

    state = reported(server)

    assert "ZeroDivisionError" in state["error"]
    assert server.run("app") == "good"


READS_DATA = """
import time
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        Path(BEGAN).touch()
        while not Path(GATE).exists():
            time.sleep(0.005)
        self.prompt = (Path(__file__).parent / "prompt.txt").read_text()
        Path(READ).touch()
        if not self.prompt:
            raise ValueError("half a file")

    def run_api(self):
        return self.prompt
"""


@pytest.mark.parametrize("meanwhile", ["", "other"], ids=["half written", "another version"])
def test_data_that_was_another_only_while_setup_read_it_is_read_again(root: Path, tmp_path: Path, meanwhile: str):
    """Between two looks the bytes change and change back: the fingerprint alone does not tell."""
    began, gate, read = tmp_path / "began", tmp_path / "gate", tmp_path / "read"
    with serving(root, debounce_ms=600, poll_interval_ms=50) as server:
        files = {"prompt.txt": "the prompt"}
        server.write("app", READS_DATA, files, began=str(began), gate=str(gate), read=str(read))
        eventually(began.exists)
        replace(root / "app/prompt.txt", meanwhile)
        gate.touch()
        eventually(read.exists)
        replace(root / "app/prompt.txt", "the prompt")

        server.eventually(lambda: server.run("app") == "the prompt")
