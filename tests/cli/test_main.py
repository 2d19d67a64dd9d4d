import subprocess
import sys
from pathlib import Path

import pytest

import hayhooks
from tests.cli.commands import hayhooks as run_hayhooks
from tests.fork_server import HAYHOOKS


def test_help_names_the_commands(tmp_path):
    result = run_hayhooks("--help", cwd=tmp_path)

    assert result.returncode == 0
    for command in ("run", "dev", "status"):
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("command", [[HAYHOOKS], [sys.executable, "-m", "hayhooks"]])
def test_the_version_is_the_packages(command):
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)

    assert result.stdout == f"hayhooks, version {hayhooks.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--port", "1"]])
def test_help_and_status_import_neither_haystack_nor_starlette(arguments):
    code = f"""
import sys
sys.argv = ["hayhooks", *{arguments!r}]
from hayhooks.cli import main
try:
    main()
except SystemExit:
    heavy = {{"haystack", "starlette", "uvicorn", "httpx", "watchfiles"}} & set(sys.modules)
    heavy |= {{"asyncio"}} & set(sys.modules) if "--help" in sys.argv else set()
    sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr


def test_h_is_help(tmp_path: Path):
    for arguments in (["run", "-h"], ["run", "-p", "1", "-h", "--reload"], ["pipeline", "new", "-h"], ["-h"]):
        shown = run_hayhooks(*arguments, cwd=tmp_path)
        assert (shown.returncode, shown.stdout[:6]) == (0, "Usage:")


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["run", "--port", "abc"], {}, "'abc' is not a valid integer"),
        (["run", "--port", "99999"], {}, "HAYHOOKS_PORT=99999"),
        (["run"], {"PORT": "many"}, "HAYHOOKS_PORT='many'"),
        (["run"], {"LOG": "loud"}, "HAYHOOKS_LOG='LOUD'"),
        (["run", "--workers", "0"], {}, "HAYHOOKS_WORKERS=0"),
        (["dev", "nowhere"], {}, "'nowhere' does not exist"),
        (["deploy"], {}, "No such command 'deploy'"),
        (["run", "-h", "0.0.0.0"], {}, "for the address write --host 0.0.0.0"),
        (["run", "-p", "1", "-h=localhost"], {}, "for the address write --host localhost"),
        (["status", "-hlocalhost"], {}, "for the address write --host localhost"),
        (["pipeline", "list", "-h", "::1"], {}, "for the address write --host ::1"),
    ],
)
def test_what_is_wrong_with_the_call_is_said_and_ends_it_with_2(tmp_path: Path, arguments, settings, message):
    result = run_hayhooks(*arguments, cwd=tmp_path, **settings)

    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
