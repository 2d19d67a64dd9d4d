"""What `hayhooks pipeline` does beside deploying: list, check, run, new; and completion."""

import json
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from tests.cli.commands import hayhooks, pipeline
from tests.cli.processes import environment
from tests.cli.test_deploy import wrapper
from tests.fork_server import HAYHOOKS, popen
from tests.live_server import ECHO, eventually, replace, serving

MANY = """
import warnings
from pathlib import Path
from hayhooks import BasePipelineWrapper, log
from starlette.responses import Response


class PipelineWrapper(BasePipelineWrapper):
    \"\"\"Does much.

    And more.
    \"\"\"

    def setup(self):
        log.warning("Something\\n is odd")
        print("printed")

    def run_api(self, times: int = 1, text: str = "", data: dict | None = None):
        return {"times": times, "text": text, "data": data}

    def run_chat_completion(self, model, messages, body):
        return ""
"""


def test_list_shows_what_lies_there_and_what_the_server_makes_of_it(server, root, port, tmp_path):
    server.serve("echo", answer="1")
    server.write("broken", "import nothing_of_this_name")
    wrapper(tmp_path / "mine", "1")
    (root / "linked").symlink_to(tmp_path / "mine")
    replace(root / "data/file", "")
    server.eventually(lambda: server.state("linked")["state"] == "serving" and server.state("broken")["error"])

    table = pipeline("list", cwd=tmp_path, port=port)
    told = json.loads(pipeline("list", "--json", cwd=tmp_path, port=port).stdout)

    lines = table.stdout.splitlines()
    assert lines[0].split() == ["name", "kind", "state", "revision", "endpoints", "error"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["broken", "folder", "failed"],
        ["echo", "folder", "serving"],
        ["linked", "link", "serving"],
    ]
    assert lines[1].endswith("ModuleNotFoundError: No module named 'nothing_of_this_name'")
    assert told["directory"] == str(root)
    assert told["server"] == server.url
    assert [row["name"] for row in told["pipelines"]] == ["broken", "echo", "linked"]
    assert told["pipelines"][1]["endpoints"] == ["/echo/run", "/echo/chat", "/echo/responses"]


def test_list_without_a_server_shows_what_lies_there(root, tmp_path):
    empty = pipeline("list", cwd=tmp_path)
    wrapper(root / "echo", "1")
    replace(root / "text.yml", "")
    replace(root / ".hayhooks-x/new/echo/pipeline_wrapper.py", "")
    told = pipeline("list", "--json", cwd=tmp_path)
    missing = pipeline("list", cwd=tmp_path, PIPELINES_DIR="nowhere")

    assert empty.stdout.startswith(f"Nothing is deployed in {root}. `hayhooks pipeline new NAME` ")
    body = json.loads(told.stdout)
    assert [(row["name"], row["kind"], row["state"]) for row in body["pipelines"]] == [
        ("echo", "folder", None),
        ("text", "yaml", None),
    ]
    assert body["server"] is None
    assert missing.returncode == 1
    assert "does not exist" in missing.stderr


@pytest.mark.parametrize(
    "arguments", [["pipeline", "--help"], ["pipeline", "list"], ["pipeline", "list", "--json"], ["status"], ["config"]]
)
def test_commands_that_only_tell_import_nothing_that_takes_long(root, tmp_path, arguments):
    code = f"""
import sys
sys.argv = ["hayhooks", *{arguments!r}]
from hayhooks.cli import main
try:
    main()
except SystemExit:
    heavy = {{"haystack", "starlette", "uvicorn", "httpx", "watchfiles", "rich", "loguru"}} & set(sys.modules)
    heavy |= {{"pydantic", "pydantic_settings"}} & set(sys.modules) if "--help" in sys.argv else set()
    sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment(PORT="1"), capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr


def test_check_tells_what_would_be_served(tmp_path):
    warns = 'warnings.warn("old", DeprecationWarning)'  # which the tests' own server makes an error of
    replace(tmp_path / "mine/pipeline_wrapper.py", MANY.replace("print(", f"{warns}\n        print("))

    shown = pipeline("check", "mine", cwd=tmp_path)
    told = pipeline("check", "mine", "--name", "other", "--json", cwd=tmp_path)

    assert (shown.returncode, told.returncode) == (0, 0)
    first, *rest = shown.stdout.splitlines()
    assert first.startswith("✓ mine  ")
    assert rest == [
        "  description Does much.",
        "  operations  run_api, run_chat_completion",
        "  endpoints   /mine/run, /mine/chat, /mine/responses",
        "  models      mine",
        "  warning: Something is odd",
        rest[-1],
    ]
    assert "DeprecationWarning: old" in rest[-1]
    finding = json.loads(told.stdout)  # what the wrapper prints is not in it
    assert (finding["ok"], finding["name"], finding["models"]) == (True, "other", ["other"])
    assert "printed" in told.stderr


def test_check_has_the_shared_modules_the_variables_and_the_check_of_the_wrapper(tmp_path):
    replace(tmp_path / "common/shared_by_all.py", "ANSWER = ''\n")
    (tmp_path / ".env").write_text("SECRET_OF_MINE=1\n")
    needs = "import os\nfrom shared_by_all import ANSWER\nos.environ['SECRET_OF_MINE']\n"
    replace(tmp_path / "mine/pipeline_wrapper.py", needs + ECHO)
    good = pipeline("check", "mine", cwd=tmp_path, ADDITIONAL_PYTHON_PATH="common")
    replace(
        tmp_path / "mine/pipeline_wrapper.py",
        ECHO + "\n    async def check(self):\n        assert 1 == 2, 'wrong answer'\n",
    )
    bad = pipeline("check", "mine", cwd=tmp_path)

    assert good.returncode == 0, good.stdout + good.stderr
    assert bad.returncode == 1
    assert "AssertionError: wrong answer" in bad.stdout


def test_check_and_deploy_use_the_shared_modules_of_the_server(root, tmp_path):
    replace(tmp_path / "common/shared_by_all.py", "ANSWER = 'theirs '\n")
    replace(tmp_path / "ours/shared_by_all.py", "1 / 0\n")
    replace(tmp_path / "mine/pipeline_wrapper.py", "from shared_by_all import ANSWER\n" + ECHO)
    with serving(root, additional_python_path=str(tmp_path / "common")) as server:
        port = str(server.port)
        checked = pipeline("check", "mine", cwd=tmp_path, port=port, ADDITIONAL_PYTHON_PATH="ours")
        given = pipeline("check", "mine", "--additional-python-path", "ours", cwd=tmp_path, port=port)
        elsewhere = pipeline("check", "mine", "--pipelines-dir", ".", cwd=tmp_path, port=port)
        deployed = pipeline("deploy-files", "mine", cwd=tmp_path, port=port)
        assert server.run("mine", text="!") == "theirs !"
    alone = pipeline("deploy-files", "mine", "-o", "--additional-python-path", "common", cwd=tmp_path)

    assert [done.returncode for done in (checked, deployed, alone)] == [0, 0, 0]
    assert (given.returncode, elsewhere.returncode) == (1, 1)
    assert "ZeroDivisionError" in given.stdout
    assert "shared_by_all" in elsewhere.stdout


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os._exit(3)", "the loading process ended with exit status 3"),
        ("import ctypes; ctypes.string_at(0)", "the loading process ended by SIGSEGV"),
        ("import time; time.sleep(600)", "the load was not complete after 1 s (--timeout)"),
        ("import subprocess; subprocess.Popen(['sleep', '600']); import os; os._exit(0)", "exit status 0"),
        ("raise SystemExit(5)", "SystemExit: 5"),
        ("x = (", "SyntaxError: '(' was never closed"),
        ("", "has no class PipelineWrapper"),
    ],
)
def test_check_survives_whatever_the_wrapper_does_and_says_it(tmp_path, code, reason):
    replace(tmp_path / "mine/pipeline_wrapper.py", code)
    began = time.monotonic()
    timeout = "1" if "sleep(600)" in code else "60"

    done = pipeline("check", "mine", "--json", "--timeout", timeout, cwd=tmp_path)

    assert done.returncode == 1
    finding = json.loads(done.stdout)
    assert not finding["ok"]
    assert reason in finding["reason"]
    assert time.monotonic() - began < 300  # of 600 s that the wrapper and its child sleep


def test_check_names_the_frame(tmp_path):
    replace(tmp_path / "mine/helper.py", "\n1 / 0\n")
    replace(tmp_path / "mine/pipeline_wrapper.py", "import helper\n" + ECHO)

    done = pipeline("check", "mine", "--json", cwd=tmp_path)

    place = json.loads(done.stdout)["place"]
    assert place == {"file": f"{tmp_path}/mine/helper.py", "line": 2, "source": "1 / 0"}


def test_check_ends_when_the_command_is_killed(tmp_path):
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    replace(tmp_path / "mine/pipeline_wrapper.py", code)
    with popen([HAYHOOKS, "pipeline", "check", "mine"], cwd=tmp_path, env=environment()) as process:
        loading = int(eventually(lambda: pid.read_text(), "the wrapper to be loaded", 60))
        process.kill()
    eventually(lambda: not is_alive(loading), "the loading process to end")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(tmp_path, shell):
    done = hayhooks("completion", shell, cwd=tmp_path)

    assert done.returncode == 0
    assert f"_HAYHOOKS_COMPLETE={shell}_complete" in done.stdout
    assert hayhooks("completion", "tcsh", cwd=tmp_path).returncode == 2


def test_the_help_of_completion_has_a_line_for_each_shell(tmp_path):
    lines = hayhooks("completion", "--help", cwd=tmp_path).stdout.splitlines()

    assert [line.split(":")[0] for line in lines if "hayhooks completion " in line and ">" in line] == [
        "  bash",
        "  zsh",
        "  fish",
    ]


@pytest.mark.parametrize("command", ["run", "undeploy"])
def test_names_of_deployments_complete(root, tmp_path, command):
    wrapper(root / "echo", "1")
    replace(root / "else.yml", "")
    replace(root / "data/file", "")

    words = {"COMP_WORDS": f"hayhooks pipeline {command} e", "COMP_CWORD": "3", "_HAYHOOKS_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [HAYHOOKS], cwd=tmp_path, env={**environment(), **words}, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["plain,echo", "plain,else"]


def test_every_command_has_help_that_is_not_cut(tmp_path):
    from hayhooks.cli import main  # noqa: PLC0415

    group = main.commands["pipeline"]
    assert isinstance(group, click.Group)
    help_text = hayhooks("pipeline", "--help", cwd=tmp_path).stdout
    for text in (help_text, hayhooks("--help", cwd=tmp_path).stdout):
        assert "..." not in text.partition("Commands:")[2]
    for name in group.commands:
        assert f"\n  {name} " in help_text
        assert hayhooks("pipeline", name, "--help", cwd=tmp_path).returncode == 0
