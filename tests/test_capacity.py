"""scripts/capacity works, and docs/scaling.md shows what it prints. How fast anything is, no test asks."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hayhooks

ROOT = Path(hayhooks.__file__).parent.parent
SCRIPT = ROOT / "scripts/capacity.py"
COSTS = ROOT / "docs/capacity.json"


def capacity(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def tables(text: str) -> list[str]:
    return re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_it_measures_and_simulates_small_numbers(tmp_path: Path):
    done = capacity("--check", "--json", tmp_path / "costs.json")

    assert done.returncode == 0, done.stderr
    assert len(tables(done.stdout)) == 6
    again = capacity("--check", "--costs", tmp_path / "costs.json")
    assert again.stdout == done.stdout  # the simulation depends on nothing else


@pytest.mark.slow
def test_the_tables_of_the_page_are_what_it_prints_of_the_costs_that_are_kept():
    done = capacity("--costs", COSTS)
    assert done.returncode == 0, done.stderr

    section = (ROOT / "docs/scaling.md").read_text().split("\n## Capacity\n")[1].split("\n## ")[0]
    told = tables(done.stdout)
    assert len(told) == 6
    assert [table.strip() for table in tables(section)] == [table.strip() for table in told]
