"""scripts/bench works, and never tells the speed of wrong answers. How fast anything is, no test asks."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hayhooks
from tests.live_server import LiveServer

SCRIPT = Path(hayhooks.__file__).parent.parent / "scripts/bench.py"

SHOUTS = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    answers = 0

    def setup(self):
        pass

    def run_api(self, text: str, times: int = 1) -> str:
        self.answers += 1
        return text.upper() + "!" * times if self.answers <= RIGHT else "wrong"
"""


def bench(*arguments: Any) -> subprocess.CompletedProcess[str]:
    sizes = ("--rounds", "1", "--seconds", "0.05", "--deployments", "3")
    command = [sys.executable, str(SCRIPT), *sizes, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def figures(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """By row and server."""
    return {(figure["row"], figure["label"]): figure for figure in json.loads(file.read_text())["figures"]}


@pytest.mark.slow
def test_it_tells_figures_of_limit_and_hayhooks_as_a_table_and_as_json(tmp_path: Path):
    done = bench("--rows", "run-async,chat-sync,run-many", "--json", tmp_path / "figures.json")

    assert done.returncode == 0, done.stderr
    told = figures(tmp_path / "figures.json")
    for row in ("run-async", "chat-sync"):
        assert told[row, "limit"]["value"] > 0
        assert told[row, "hayhooks"]["value"] > 0
        assert told[row, "hayhooks"]["of_limit"] > 0
        assert told[row, "hayhooks"]["cpu_us_each"] > 0
    assert told["chat-sync", "hayhooks"]["unit"] == "chunks/s"
    assert told["run-many", "hayhooks, 3"]["base"] == "hayhooks"
    assert told["run-many", "hayhooks, 3"]["of_limit"] > 0
    head, _, *lines = done.stdout.split("\n\n")[0].splitlines()
    assert len(lines) == len(told)
    assert {line.count("|") for line in (head, *lines)} == {8}


@pytest.mark.slow
@pytest.mark.parametrize("right", [0, 3])
def test_wrong_answers_give_no_figure(server: LiveServer, tmp_path: Path, right: int):
    """There is no figure of a server whose answers are wrong at once or later."""
    server.serve("run_async", SHOUTS, right=right)

    done = bench("--rows", "run-async", "--vs", server.url, "--json", tmp_path / "figures.json")

    assert done.returncode == 1
    told = figures(tmp_path / "figures.json")
    assert told["run-async", server.url]["value"] is None
    assert told["run-async", server.url]["wrong"] > 0
    assert told["run-async", "hayhooks"]["value"] > 0
    assert f"| {server.url} | WRONG" in done.stdout
    assert '"wrong"' in done.stderr


@pytest.mark.slow
def test_another_server_is_measured_beside(server: LiveServer, tmp_path: Path):
    """Another server is measured beside with the wrappers that it writes."""
    assert bench("--write", server.root).returncode == 0
    server.eventually(lambda: server.state("run_async")["state"] == "serving")

    done = bench("--rows", "run-async", "--vs", server.url, "--json", tmp_path / "figures.json")

    assert done.returncode == 0, done.stderr
    assert figures(tmp_path / "figures.json")["run-async", server.url]["of_limit"] > 0


@pytest.mark.slow
def test_a_row_that_does_not_exist_is_refused():
    assert "there is no row run-fast" in bench("--rows", "run-async,run-fast").stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on this machine")
def test_the_console_is_measured_in_a_browser(tmp_path: Path):
    done = bench("--rows", "console", "--json", tmp_path / "figures.json")

    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [figure["label"] for figure in told][1:3] == ["hayhooks, `/events` is read", "hayhooks, the console is open"]
    assert all(figure["value"] > 0 for figure in told)
    assert len(told[-1]["rounds"]) == 5
