"""A short run of ``scripts/soak``."""

import subprocess
import sys
from pathlib import Path

import pytest

import hayhooks

SOAK = Path(hayhooks.__file__).parent.parent / "scripts/soak.py"


@pytest.mark.slow
def test_random_operations_under_load_leave_what_a_fresh_server_serves():
    command = [sys.executable, str(SOAK), "--minutes", "0.15", "--writers", "2", "--clients", "2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)

    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("all well\n")
