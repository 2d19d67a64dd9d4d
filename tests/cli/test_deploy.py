import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trustme
import uvicorn
from click.testing import CliRunner
from starlette.responses import JSONResponse

from hayhooks import Settings, create_app
from hayhooks.cli import main as command_line
from hayhooks.cli.deploy import with_description
from hayhooks.cli.staging import PipelinesDirectory
from tests.cli import processes
from tests.cli.commands import hayhooks, pipeline
from tests.cli.killing import contents
from tests.cli.processes import environment, started
from tests.faults.traffic import BYSTANDER, Traffic
from tests.faults.traffic import write as write_version
from tests.fork_server import HAYHOOKS, popen
from tests.live_server import ECHO, eventually, replace, serving

BROKEN = "import nothing_of_this_name\n"

HINT = (
    "install the package that provides `nothing_of_this_name`; "
    "if `nothing_of_this_name` is your own, put it beside the wrapper, "
    "or add its directory to HAYHOOKS_ADDITIONAL_PYTHON_PATH"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return wrapper(tmp_path / "mine/echo", "1")


def wrapper(folder: Path, answer: str, code: str = ECHO) -> Path:
    replace(folder / "pipeline_wrapper.py", f"ANSWER = {answer!r}\n{code}")
    return folder


def in_a_process(*arguments: str | Path, cwd: Path, port: str = "1") -> subprocess.CompletedProcess[str]:
    """``pipeline`` in a process of its own, for what runs beside something else."""
    return processes.hayhooks("pipeline", *map(str, arguments), cwd=cwd, PORT=port)


def listed(root: Path) -> list[str]:
    return sorted(os.listdir(root))


def test_a_folder_is_served_when_the_command_is_done(server, root, port, source, tmp_path):
    done = pipeline("deploy-files", source, cwd=tmp_path, port=port)

    assert done.returncode == 0, done.stderr
    state = server.state("echo")
    assert done.stdout.splitlines() == [
        f"Deployed {root}/echo.",
        f"✓ echo  {state['revision']}  POST /echo/run  POST /echo/chat  POST /echo/responses",
    ]
    assert server.run("echo", text="!") == "1!"
    assert listed(root) == ["echo"]
    assert contents(root / "echo") == contents(source)


def test_without_a_server_it_is_served_at_the_next_start(root, source, tmp_path):
    done = pipeline("deploy-files", source, "-n", "other", cwd=tmp_path)

    assert done.returncode == 0
    assert "No answer from http://127.0.0.1:1/status" in done.stderr
    assert done.stdout.splitlines() == [f"Deployed {root}/other.", "It will be served at the next start."]


def test_a_server_of_another_directory_is_told_and_not_waited_for(server, port, source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    done = pipeline("deploy-files", source, "--pipelines-dir", tmp_path / "elsewhere", cwd=tmp_path, port=port)

    assert done.returncode == 0
    assert f"serves {server.root}, not {tmp_path}/elsewhere" in done.stderr
    assert "next start" in done.stdout


def test_the_same_directory_is_known_by_another_path(server, port, source, tmp_path):
    (tmp_path / "link").symlink_to(server.root)
    done = pipeline("deploy-files", source, "--pipelines-dir", tmp_path / "link", cwd=tmp_path, port=port)

    assert done.returncode == 0
    assert "✓ echo" in done.stdout


def test_overwrite_is_needed_and_equal_files_do_not_reload(server, port, source, tmp_path):
    """An existing name is only replaced when told to and equal files are no reload."""
    pipeline("deploy-files", source, cwd=tmp_path, port=port)
    loaded_at = server.state("echo")["loaded_at"]

    refused = pipeline("deploy-files", source, cwd=tmp_path, port=port)
    same = pipeline("deploy-files", source, "--overwrite", cwd=tmp_path, port=port)
    assert (refused.returncode, same.returncode) == (1, 0)
    assert "echo already exists: use --overwrite" in refused.stderr
    assert server.state("echo")["loaded_at"] == loaded_at

    wrapper(source, "2")
    replaced = pipeline("deploy-files", source, "-o", cwd=tmp_path, port=port)
    assert replaced.returncode == 0
    assert server.run("echo") == "2"
    assert listed(server.root) == ["echo"]


def test_what_does_not_load_is_told_before_anything_is_changed(server, port, source, tmp_path):
    pipeline("deploy-files", source, cwd=tmp_path, port=port)
    before = contents(server.root)
    replace(source / "pipeline_wrapper.py", BROKEN)

    done = pipeline("deploy-files", source, "-o", cwd=tmp_path, port=port)

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "✗ echo",
        "  ModuleNotFoundError: No module named 'nothing_of_this_name'",
        f"  {source}/pipeline_wrapper.py:1: import nothing_of_this_name",
        f"  hint: {HINT}",
        "Nothing was deployed.",
    ]
    assert contents(server.root) == before


def test_failed_deploy_is_rolled_back(server, port, source, tmp_path):
    """What the server cannot serve is told and what was there before put back."""
    pipeline("deploy-files", source, cwd=tmp_path, port=port)
    before, revision = contents(server.root), server.state("echo")["revision"]
    replace(source / "pipeline_wrapper.py", BROKEN)

    done = pipeline("deploy-files", source, "-o", "--no-check", cwd=tmp_path, port=port)

    assert done.returncode == 1
    failed = done.stdout.splitlines()[1].removeprefix("✗ echo  ")
    assert done.stdout.splitlines() == [
        f"Replaced {server.root}/echo.",
        f"✗ echo  {failed}",
        "  ModuleNotFoundError: No module named 'nothing_of_this_name'",
        f"  at {server.root}/echo/pipeline_wrapper.py:1: import nothing_of_this_name",
        f"  hint: {HINT}",
        f"  revision {revision} keeps serving",
        "What was there before has been put back.",
    ]
    assert contents(server.root) == before
    assert server.state("echo")["state"] == "serving"


def test_no_rollback_leaves_the_failure(server, port, source, tmp_path):
    """No rollback leaves what failed and a new name that failed is taken out."""
    pipeline("deploy-files", source, cwd=tmp_path, port=port)
    replace(source / "pipeline_wrapper.py", BROKEN)

    left = pipeline("deploy-files", source, "-o", "--no-check", "--no-rollback", cwd=tmp_path, port=port)
    new = pipeline("deploy-files", source, "-n", "added", "--no-check", cwd=tmp_path, port=port)

    assert (left.returncode, new.returncode) == (1, 1)
    assert server.state("echo")["state"] == "stale"
    assert contents(server.root / "echo") == contents(source)
    assert "removed again" in new.stdout
    assert listed(server.root) == ["echo"]


def test_the_failure_of_what_had_the_same_inode_before_is_not_told(server, port, root, tmp_path):
    """A new file often gets the inode of one that was removed; here it is rewritten in place."""
    server.write("echo", BROKEN)
    server.eventually(lambda: server.state("echo")["state"] == "failed")
    file = root / "echo/pipeline_wrapper.py"
    inode = file.stat().st_ino

    file.write_text(ECHO)
    done = pipeline("deploy-files", root / "echo", cwd=tmp_path, port=port)

    assert file.stat().st_ino == inode
    assert done.returncode == 0
    assert "✓ echo" in done.stdout


def test_a_copy_is_whole_and_the_source_is_not_touched(root, source, tmp_path):
    (source / "model.bin").write_bytes(bytes(range(256)) * 1000)
    replace(source / ".env", "KEY=1")
    replace(source / "deep/er/ü 雪.txt", "x")
    replace(source / "script.sh", "#!/bin/sh")
    (source / "script.sh").chmod(0o755)
    (source / "closed").mkdir()
    replace(source / "closed/file", "x")
    (source / "closed").chmod(0o555)
    (source / "inside").symlink_to("deep/er")
    (source / "dangling").symlink_to("nowhere")
    (source / "loop").symlink_to("loop")
    (source / "absolute").symlink_to(tmp_path)
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(source / "socket"))
    for left_out in ("__pycache__/x.pyc", ".git/config", ".venv/pyvenv.cfg", "env/pyvenv.cfg"):
        replace(source / left_out, "")
    before = contents(source)
    stamps = {path: path.lstat() for path in source.rglob("*")}

    done = pipeline("deploy-files", source, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert {path: path.lstat() for path in source.rglob("*")} == stamps
    copy = contents(root / "echo")
    gone = ("__pycache__", ".git", ".venv", "env", "fifo", "socket")
    assert copy == {path: content for path, content in before.items() if not path.startswith(gone) or path == ".env"}
    assert (root / "echo/script.sh").stat().st_mode & 0o777 == 0o755
    assert (root / "echo/closed").stat().st_mode & 0o777 == 0o755  # who owns it can replace it
    for name in ("fifo", "socket"):
        assert f"{source}/{name} is a special file: it was not copied" in done.stderr


def test_a_link_that_leads_out_of_the_folder_is_warned_of(root, source, tmp_path):
    (source / "out").symlink_to("../other")

    done = pipeline("deploy-files", source, cwd=tmp_path)

    assert f"warning: out is a relative link out of {source}" in done.stderr
    assert os.readlink(root / "echo/out") == "../other"


def test_a_link_saves_no_files_follows_the_folder_and_goes_alone(server, port, source, tmp_path):
    done = pipeline("deploy-files", source, "-s", cwd=tmp_path, port=port)
    assert done.returncode == 0
    assert os.readlink(server.root / "echo") == str(source)

    wrapper(source, "2")
    server.eventually(lambda: server.run("echo") == "2")
    copied = pipeline("deploy-files", source, "-o", cwd=tmp_path, port=port)
    assert copied.returncode == 0
    assert not (server.root / "echo").is_symlink()
    linked = pipeline("deploy-files", source, "-o", "--skip-saving-files", cwd=tmp_path, port=port)
    assert linked.returncode == 0
    assert (server.root / "echo").is_symlink()

    gone = pipeline("undeploy", "echo", cwd=tmp_path, port=port)
    assert gone.returncode == 0
    assert f"{source} is unchanged" in gone.stdout
    assert listed(server.root) == []
    assert listed(source) == ["pipeline_wrapper.py"]


def test_folder_of_the_directory_is_copied_to_another_name(server, port, root, tmp_path):
    """A folder of the directory is copied to another name and not to its own."""
    server.serve("echo", answer="1")
    inode = (root / "echo").stat().st_ino

    copied = pipeline("deploy-files", root / "echo", "-n", "copy", cwd=tmp_path, port=port)
    (tmp_path / "link").symlink_to(root / "echo")
    itself = pipeline("deploy-files", root / "echo", "-o", cwd=tmp_path, port=port)
    by_link = pipeline("deploy-files", tmp_path / "link", "-n", "echo", "-o", cwd=tmp_path, port=port)
    from_inside = pipeline("deploy-files", ".", cwd=root / "echo", port=port, PIPELINES_DIR=str(root))

    assert [done.returncode for done in (copied, itself, by_link, from_inside)] == [0, 0, 0, 0]
    for done in (itself, by_link, from_inside):
        assert "nothing was copied" in done.stdout
        assert "✓ echo" in done.stdout
    assert (root / "echo").stat().st_ino == inode
    assert listed(root) == ["copy", "echo"]
    assert contents(root / "copy") == contents(root / "echo")


@pytest.mark.parametrize("option", [[], ["-s"]])
def test_a_folder_is_not_put_into_itself_nor_in_place_of_what_it_lies_in(root, tmp_path, option):
    wrapper(tmp_path, "outer")
    inner = wrapper(wrapper(root / "echo", "1") / "inner", "2")
    before = contents(root)

    around = pipeline("deploy-files", tmp_path, "-n", "around", *option, cwd=tmp_path)
    within = pipeline("deploy-files", inner, "-n", "echo", "-o", *option, cwd=tmp_path)

    assert (around.returncode, within.returncode) == (2, 2)
    assert "contains the pipelines directory" in around.stderr
    assert "is inside" in within.stderr
    assert contents(root) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("..", "not a valid name"),
        (".", "not a valid name"),
        ("", "not a valid name"),
        ("a/b", "not a valid name"),
        ("/etc", "not a valid name"),
        (".hidden", "not a valid name"),
        ("_private", "server ignores"),
        ("echo~", "server ignores"),
        ("status", "belongs to a route"),
        ("docs", "belongs to a route"),
        ("v1", "belongs to a route"),
        ("my echo", "cannot be a part of a URL"),
        ("what?", "cannot be a part of a URL"),
        ("echo.yml", "has the suffix of a file"),
    ],
)
@pytest.mark.parametrize("command", ["deploy-files", "new"])
def test_a_name_that_cannot_be_is_refused_with_2(root, source, tmp_path, monkeypatch, command, name, message):
    monkeypatch.chdir(tmp_path)
    arguments = ["deploy-files", str(source), "-n", name] if command == "deploy-files" else ["new", name]
    done = CliRunner().invoke(command_line, ["pipeline", *arguments])  # in this process: 28 of its own would take long

    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert isinstance(done.exception, SystemExit)
    assert listed(root) == []


def test_names_of_every_script_are_good(server, port, source, tmp_path):
    done = pipeline("deploy-files", source, "-n", "写-é.1", cwd=tmp_path, port=port)

    assert done.returncode == 0, done.stderr
    assert server.run("写-é.1") == "1"
    assert pipeline("undeploy", "写-é.1", cwd=tmp_path, port=port).returncode == 0


def test_a_folder_that_is_none_or_no_wrapper_is_refused(root, tmp_path):
    (tmp_path / "empty").mkdir()
    missing = pipeline("deploy-files", "nowhere", cwd=tmp_path)
    empty = pipeline("deploy-files", "empty", cwd=tmp_path)

    assert (missing.returncode, empty.returncode) == (2, 1)
    assert "'nowhere' does not exist" in missing.stderr
    assert "has no pipeline_wrapper.py" in empty.stderr
    assert listed(root) == []


def test_the_directory_is_made_where_only_it_is_missing(source, tmp_path):
    made = pipeline("deploy-files", source, cwd=tmp_path)
    far = pipeline("deploy-files", source, cwd=tmp_path, PIPELINES_DIR="not/there")

    assert (made.returncode, far.returncode) == (0, 1)
    assert listed(tmp_path / "pipelines") == ["echo"]
    assert f"{tmp_path}/not/there does not exist" in far.stderr


def test_a_directory_that_cannot_be_written_to_is_left_as_it_is_and_told(root, source, tmp_path):
    wrapper(root / "echo", "0")
    before = contents(root)
    with unwritable(root) as run_as:
        commands = (
            ("deploy-files", str(source), "-o", "--no-check"),
            ("undeploy", "echo"),
            ("undeploy", "echo", "--purge"),
            ("new", "other"),
        )
        results = [run_as(*command, cwd=tmp_path) for command in commands]

    for done in results:
        assert done.returncode == 1, done.stdout
        assert len(done.stderr.splitlines()) == 1
        assert "denied" in done.stderr or "Read-only" in done.stderr
    assert contents(root) == before


@contextmanager
def unwritable(root: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Take the right to write to *root* away; gives what runs a command under that rule, also for who is root."""
    mode = root.stat().st_mode
    root.chmod(0o555)

    def obey() -> None:
        if os.geteuid() == 0:
            ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # drop CAP_DAC_OVERRIDE for good, by which root passes over modes

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [HAYHOOKS, "pipeline", *arguments],
            cwd=cwd,
            env=environment(PORT="1"),
            preexec_fn=obey,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    try:
        yield run
    finally:
        root.chmod(mode)


def test_a_full_disk_leaves_everything_as_it_was(root, source, tmp_path):
    (source / "large.bin").write_bytes(b"x" * 3_000_000)
    wrapper(root / "echo", "0")
    before = contents(root)

    done = subprocess.run(
        [HAYHOOKS, "pipeline", "deploy-files", str(source), "-o", "--no-check"],
        cwd=tmp_path,
        env=environment(PORT="1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert contents(root) == before


def test_two_at_once_do_not_hurt_each_other(server, port, root, tmp_path):
    sources = [wrapper(tmp_path / f"mine/{number}", str(number)) for number in range(4)]
    with ThreadPoolExecutor() as pool:
        results = list(
            pool.map(
                lambda source: in_a_process(
                    "deploy-files", source, "-n", "echo", "-o", "--no-check", cwd=tmp_path, port=port
                ),
                sources,
            )
        )

    last = int((root / "echo/pipeline_wrapper.py").read_text()[10])
    assert results[last].returncode == 0  # nobody has replaced this one
    for done in results:
        assert (done.returncode, "replaced by another process" in done.stderr) in {(0, False), (1, True)}, done.stderr
    assert listed(root) == ["echo"]
    assert contents(root / "echo") == contents(sources[last])
    assert server.eventually(lambda: server.run("echo")) == (root / "echo/pipeline_wrapper.py").read_text()[10]


def test_two_new_ones_at_once_make_one(root, tmp_path):
    sources = [wrapper(tmp_path / f"mine/{number}", str(number)) for number in range(4)]
    with ThreadPoolExecutor() as pool:
        results = list(
            pool.map(
                lambda source: in_a_process("deploy-files", source, "-n", "echo", "--no-check", cwd=tmp_path), sources
            )
        )

    assert sorted(done.returncode for done in results) == [0, 1, 1, 1]
    assert contents(root / "echo") == contents(sources[[done.returncode for done in results].index(0)])


def test_no_request_is_lost_while_it_is_replaced_and_rolled_back(server, port, tmp_path):
    server.serve("bystander", BYSTANDER)
    source = write_version(tmp_path / "mine", 1)
    pipeline("deploy-files", source, "-n", "app", "--no-check", cwd=tmp_path, port=port)
    with Traffic(server).flowing() as traffic:
        for version in range(2, 6):
            write_version(source, version)
            done = pipeline("deploy-files", source, "-n", "app", "-o", "--no-check", cwd=tmp_path, port=port)
            assert done.returncode == 0, done.stderr
            traffic.serves(version)
        replace(source / "pipeline_wrapper.py", BROKEN)
        failed = pipeline("deploy-files", source, "-n", "app", "-o", "--no-check", cwd=tmp_path, port=port)
        assert failed.returncode == 1
        traffic.serves(5)


WAITS = ECHO.replace("pass", "import os, time\n        while not os.path.exists(GATE):\n            time.sleep(0.01)")


def test_a_load_that_takes_too_long_is_told_and_stays(server, port, source, tmp_path):
    gate = tmp_path / "gate"
    wrapper(source, "1", WAITS.replace("GATE", repr(str(gate))))

    done = pipeline("deploy-files", source, "--no-check", "--timeout", "0.5", cwd=tmp_path, port=port)
    gate.touch()
    server.eventually(lambda: server.state("echo")["state"] == "serving")

    assert done.returncode == 1
    assert "has not loaded echo after 0.5 s" in done.stderr


def test_several_workers_are_all_waited_for(source, tmp_path):
    with started(tmp_path, "run", "--workers", "2") as server:
        done = pipeline("deploy-files", source, cwd=tmp_path, port=str(server.port))
        assert done.returncode == 0, done.stderr
        answers = {httpx.post(server.url + "/echo/run", json={}).status_code for _ in range(10)}
        assert answers == {200}

        replace(source / "pipeline_wrapper.py", BROKEN)
        failed = pipeline("deploy-files", source, "-o", "--no-check", cwd=tmp_path, port=str(server.port))
        assert failed.returncode == 1
        assert "put back" in failed.stdout

        gone = pipeline("undeploy", "echo", cwd=tmp_path, port=str(server.port))
        assert gone.returncode == 0
        assert {httpx.post(server.url + "/echo/run", json={}).status_code for _ in range(10)} == {404}


def test_undeploy_moves_to_a_trash_folder_beside_the_directory(server, port, root, tmp_path):
    for _ in range(2):
        server.serve("echo", answer="1", files={"model.bin": "x"})
        before = contents(root / "echo")
        done = pipeline("undeploy", "echo", cwd=tmp_path, port=port)

        assert done.returncode == 0
        moved, gone = done.stdout.splitlines()
        assert gone == "echo is no longer served."
        place = Path(moved.rpartition(" to ")[2].removesuffix("."))
        assert place.parent == tmp_path / ".pipelines-trash"
        assert contents(place) == before
        assert server.client.post("/echo/run", json={}).status_code == 404
    assert listed(root) == []
    assert len(listed(tmp_path / ".pipelines-trash")) == 2


def test_undeploy_purge_deletes(server, port, root, tmp_path):
    server.serve("echo", answer="1")
    (root / "echo/closed").mkdir(mode=0o500)

    done = pipeline("undeploy", "echo", "--purge", cwd=tmp_path, port=port)

    assert done.returncode == 0
    assert listed(root) == []
    assert not (tmp_path / ".pipelines-trash").exists()


def test_undeploy_waits_for_what_is_still_answered(server, port, tmp_path):
    gate = tmp_path / "gate"
    server.serve("slow", SLOW, gate=str(gate))
    with server.in_background("/slow/run", {}) as request:
        eventually(lambda: (tmp_path / "gate.began").exists())
        with ThreadPoolExecutor(1) as pool:
            undeploying = pool.submit(in_a_process, "undeploy", "slow", cwd=tmp_path, port=port)
            server.eventually(lambda: not server.status()["pipelines"])
            assert not undeploying.done()
            gate.touch()
            done = undeploying.result()
        assert request.result().json() == {"result": "answered"}
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "slow is no longer served."


def test_undeploy_says_what_goes_on_when_that_takes_too_long(server, port, tmp_path):
    gate = tmp_path / "gate"
    server.serve("slow", SLOW, gate=str(gate))
    with server.in_background("/slow/run", {}) as request:
        eventually(lambda: (tmp_path / "gate.began").exists())
        done = pipeline("undeploy", "slow", "--timeout", "2", cwd=tmp_path, port=port)
        gate.touch()
        assert request.result().json() == {"result": "answered"}
    assert done.returncode == 0
    assert "requests still in progress: " in done.stdout
    assert "run_api in 1 thread" in done.stdout


SLOW = """
import time
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self):
        Path(GATE + ".began").touch()
        while not Path(GATE).exists():
            time.sleep(0.01)
        return "answered"
"""


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("nothing", 1, "There is no 'nothing'"),
        ("data", 1, "not a deployment"),
        ("both", 1, "both have the name 'both'"),
        ("..", 2, "not a valid name"),
        ("a/../echo", 2, "not a valid name"),
        (".env", 2, "not a valid name"),
    ],
)
def test_undeploy_takes_nothing_but_one_deployment(root, tmp_path, name, status, message):
    wrapper(root / "echo", "1")
    wrapper(root / "both", "1")
    replace(root / "both.yml", "")
    replace(root / "data/file", "")
    replace(root / ".env", "")
    before = contents(root)

    done = pipeline("undeploy", name, cwd=tmp_path)

    assert done.returncode == status
    assert message in " ".join(done.stderr.split())
    assert contents(root) == before


def test_yaml_file_is_deployed_and_undeployed(root, tmp_path):
    """A yaml file is deployed under its name or another and taken out again."""
    text = "# mine\ncomponents: {}  # none yet\n"
    replace(tmp_path / "mine/text.yml", text)

    first = pipeline("deploy", "mine/text.yml", "--no-check", cwd=tmp_path)
    other = pipeline("deploy-yaml", "mine/text.yml", "-n", "other", "--no-check", cwd=tmp_path)
    refused = pipeline("deploy", "mine/text.yml", "--no-check", cwd=tmp_path)
    again = pipeline("deploy", "mine/text.yml", "-o", "--no-check", "--description", 'Says "é".', cwd=tmp_path)
    gone = pipeline("undeploy", "other", cwd=tmp_path)

    assert [done.returncode for done in (first, other, refused, again, gone)] == [0, 0, 1, 0, 0]
    assert contents(root) == {"text.yml": f'description: "Says \\"é\\"."\n{text}'.encode().decode("latin-1")}
    assert (tmp_path / "mine/text.yml").read_text() == text


def test_folder_and_yaml_share_no_name(root, source, tmp_path):
    """A folder does not take the name of a yaml file nor the other way round."""
    replace(root / "echo.yaml", "components: {}\n")
    wrapper(root / "text", "1")
    replace(tmp_path / "text.yml", "components: {}\n")
    before = contents(root)

    folder = pipeline("deploy-files", source, "-o", "--no-check", cwd=tmp_path)
    file = pipeline("deploy", "text.yml", "-o", "--no-check", cwd=tmp_path)
    no_yaml = pipeline("deploy", source / "pipeline_wrapper.py", cwd=tmp_path)

    assert (folder.returncode, file.returncode, no_yaml.returncode) == (1, 1, 2)
    assert "`hayhooks pipeline undeploy echo` first" in folder.stderr
    assert contents(root) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\n", 'description: "D"\na: 1\n'),
        ("description: old # said\na: 1\n", 'description: "D"\na: 1\n'),
        ("a: 1\ndescription: |\n  two\n\n  lines\n# kept\nb: 2\n", 'a: 1\ndescription: "D"\n# kept\nb: 2\n'),
        ("a:\n  description: inner\n", 'description: "D"\na:\n  description: inner\n'),
        ("# head\n---\na: 1\n", '# head\n---\ndescription: "D"\na: 1\n'),
        ("'description': >-\n  x\na: 1", 'description: "D"\na: 1'),
        ("a: 1\r\n", 'description: "D"\na: 1\r\n'),
    ],
)
def test_a_description_is_written_into_the_yaml_and_the_rest_stays(text, expected):
    assert with_description(text.encode(), "D").decode() == expected


@pytest.mark.parametrize("text", ["- a\n", "", "{a: 1}\n", "a: [\n", "\xff"])
def test_what_no_description_can_be_put_into_is_refused(root, tmp_path, text):
    (tmp_path / "text.yml").write_bytes(text.encode("latin-1"))

    done = pipeline("deploy", "text.yml", "--no-check", "--description", "D", cwd=tmp_path)

    assert done.returncode == 1
    assert "description" in done.stderr
    assert "Traceback" not in done.stderr
    assert listed(root) == []


def test_leftovers_of_killed_commands_are_cleared(root, source, tmp_path):
    """What a killed command has left is cleared away by the next but not what a living one works on."""
    (root / ".hayhooks-dead/new").mkdir(parents=True)
    with PipelinesDirectory(root).staging():
        alive = [name for name in listed(root) if name != ".hayhooks-dead"]
        replace(root / ".hayhooks-dead2/new/file", "")
        done = pipeline("deploy-files", source, "--no-check", cwd=tmp_path)
        assert done.returncode == 0
        assert listed(root) == sorted([*alive, "echo"])
    assert listed(root) == ["echo"]


def test_a_server_that_wants_a_key_gets_it_and_says_so_where_there_is_none(root, source, tmp_path):
    app = create_app(Settings(pipelines_dir=root, _env_file=None))

    @app.middleware("http")
    async def locked(request, call_next):
        if request.headers.get("authorization") != "Bearer secret":
            return JSONResponse({"detail": "no"}, status_code=401)
        return await call_next(request)

    with serving(root, app) as server:
        _ask_with_and_without_a_key(str(server.port), source, tmp_path)


@pytest.mark.parametrize("allowed", ["www.example.com", "*.example.com,a.example"])
def test_a_server_that_wants_to_be_called_by_a_name_is(root, source, tmp_path, allowed):
    with serving(root, allowed_hosts=allowed.split(",")) as server:
        port = str(server.port)
        unnamed = pipeline("deploy-files", source, cwd=tmp_path, port=port)
        named = pipeline("deploy-files", "-o", source, cwd=tmp_path, port=port, ALLOWED_HOSTS=allowed)
        called = pipeline("run", "echo", cwd=tmp_path, port=port, ALLOWED_HOSTS=allowed)

    assert (unnamed.returncode, named.returncode, called.returncode) == (0, 0, 0)
    assert "set HAYHOOKS_ALLOWED_HOSTS to the server's value" in unnamed.stderr
    assert "next start" not in unnamed.stdout
    assert "POST /echo/run" in named.stdout


def _serving_echo(tmp_path: Path, port: str) -> subprocess.CompletedProcess[str]:
    asked = hayhooks("status", "--json", cwd=tmp_path, PORT=port, API_KEYS="secret,other")
    assert json.loads(asked.stdout)["pipelines"] == ["echo"]
    return asked


def _ask_with_and_without_a_key(port: str, source: Path, tmp_path: Path) -> None:
    refused = hayhooks("status", cwd=tmp_path, PORT=port)
    deployed = pipeline("deploy-files", source, cwd=tmp_path, port=port)
    asked = eventually(lambda: _serving_echo(tmp_path, port), "the server to load it")
    called = pipeline("run", "echo", cwd=tmp_path, port=port, API_KEYS="secret")

    assert (refused.returncode, deployed.returncode, asked.returncode, called.returncode) == (1, 0, 0, 0)
    assert refused.stderr.endswith("requires an API key: set HAYHOOKS_API_KEYS to one of the server's keys\n")
    assert "requires an API key: set HAYHOOKS_API_KEYS" in deployed.stderr
    assert "The server could not be asked for the result." in deployed.stdout
    assert "next start" not in deployed.stdout
    assert "secret" not in refused.stderr + asked.stderr


def test_nobody_at_the_port_is_told_in_a_line(tmp_path, source, root):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()

        def babble() -> None:
            connection, _ = mute.accept()
            connection.sendall(b"SSH-2.0-none\r\n\r\n")
            connection.close()

        threading.Thread(target=babble, daemon=True).start()
        done = pipeline("list", cwd=tmp_path, port=str(mute.getsockname()[1]))
    assert done.returncode == 0
    assert "No answer from" in done.stderr


def test_interrupted_wait_leaves_nothing_else(server, port, root, source, tmp_path):
    """An interrupt while it waits says what stays and leaves nothing else."""
    gate = tmp_path / "gate"
    wrapper(source, "1", WAITS.replace("GATE", repr(str(gate))))

    done = interrupted(
        "deploy-files",
        source,
        "--no-check",
        cwd=tmp_path,
        port=port,
        when=lambda process: process.stdout and process.stdout.readline(),
    )
    gate.touch()
    server.eventually(lambda: server.state("echo")["state"] == "serving")

    assert done.returncode == 1
    assert "echo stays deployed; `hayhooks status` shows the result\n" in done.stderr
    assert done.stderr.splitlines()[-1] == "Aborted!"
    assert listed(root) == ["echo"]


def test_interrupted_check_changes_nothing(root, source, tmp_path):
    """An interrupt while it checks changes nothing and ends what it has started."""
    pid = tmp_path / "pid"
    code = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    replace(source / "pipeline_wrapper.py", code)

    done = interrupted("deploy-files", source, cwd=tmp_path, port="1", when=lambda _: pid.read_text())

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Aborted!"
    assert listed(root) == []
    assert not Path(f"/proc/{pid.read_text()}").exists()


def interrupted(
    *arguments: str | Path, cwd: Path, port: str, when: Callable[["subprocess.Popen[str]"], object]
) -> subprocess.CompletedProcess[str]:
    """A command that gets a Ctrl+C as soon as *when* gives something true."""
    command = [HAYHOOKS, "pipeline", *map(str, arguments)]
    with popen(
        command, cwd=cwd, env=environment(PORT=port), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        eventually(lambda: when(process), "the moment to interrupt", 60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_only_the_servers_own_certificate_is_trusted(root, source, tmp_path):
    """A server with a certificate of its own is asked by https and no other is trusted."""
    authority = trustme.CA()
    for name in ("ours", "theirs"):
        certificate = authority.issue_cert("example.com")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    app = create_app(Settings(pipelines_dir=root, _env_file=None))
    files = {"ssl_certfile": str(tmp_path / "ours.pem"), "ssl_keyfile": str(tmp_path / "ours.key")}
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1, **files))  # type: ignore[arg-type]
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    eventually(lambda: running.started)
    port = str(running.servers[0].sockets[0].getsockname()[1])

    served = pipeline("deploy-files", source, cwd=tmp_path, port=port, SSL_CERTFILE="ours.pem")
    called = pipeline("run", "echo", cwd=tmp_path, port=port, SSL_CERTFILE="ours.pem")
    others = hayhooks("status", cwd=tmp_path, PORT=port, SSL_CERTFILE="theirs.pem")
    unknown = hayhooks("status", cwd=tmp_path, PORT=port, USE_HTTPS="true")
    unverified = hayhooks("status", cwd=tmp_path, PORT=port, USE_HTTPS="true", DISABLE_SSL="true")
    missing = hayhooks("status", cwd=tmp_path, PORT=port, SSL_CERTFILE="nowhere.pem")
    running.should_exit = True
    thread.join(60)

    assert "✓ echo" in served.stdout, served.stderr
    results = (served, called, unverified, others, unknown, missing)
    assert [done.returncode for done in results] == [0, 0, 0, 1, 1, 1]
    assert "certificate verify failed" in others.stderr
    assert "certificate verify failed" in unknown.stderr
    assert "HAYHOOKS_SSL_CERTFILE=nowhere.pem: cannot be used" in missing.stderr
