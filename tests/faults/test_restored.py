"""A process that starts where a pipeline does not load: the last good revision serves, from the state directory."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from hayhooks import Settings, create_app
from hayhooks.kernel.state import digest_of
from tests.cli.processes import started
from tests.faults.traffic import write
from tests.live_server import LiveServer, again, eventually, serving

SHARED_USER = """
import common
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self) -> int:
        return common.VALUE
"""


def wrapper_of(root: Path) -> Path:
    return root / "app/pipeline_wrapper.py"


def appended(code: str) -> Callable[[Path], object]:
    return lambda root: wrapper_of(root).write_text(wrapper_of(root).read_text() + code)


def with_folder(root: Path) -> None:
    wrapper_of(root).unlink()
    wrapper_of(root).mkdir()


BROKEN: dict[str, Callable[[Path], object]] = {
    "syntax": appended("\nthis is no Python\n"),
    "missing module": lambda root: (root / "app/helper.py").unlink(),
    "raising setup": lambda root: (root / "app/data/prompt.txt").write_text("eleven"),
    "hanging setup": appended("\nimport threading; threading.Event().wait(60)\n"),
    "a folder in its place": with_folder,
}


def is_served(server: LiveServer, name: str = "app", state: str = "serving") -> bool:
    found = server.state(name)
    return bool(found and found["state"] == state and server.client.get("/readyz").status_code == 200)


def answers(server: LiveServer, version: int) -> bool:
    return bool(server.run("app") == [version] * 3)


def serves(server: LiveServer, version: int) -> bool:
    return is_served(server) and answers(server, version)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_start_on_a_broken_folder_serves_the_last_good_revision(root: Path, tmp_path: Path, kind: str):
    write(root / "app", 10)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server))
        revision = server.state("app")["revision"]
    (root / "app/data/prompt.txt").write_text("12")
    BROKEN[kind](root)

    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server, state="stale"))
        assert server.run("app") == [10, 10, 10]
        server.eventually(lambda: server.state("app")["error"] or kind == "hanging setup", "the load to fail")
        assert server.state("app")["revision"] == revision

        for path in (wrapper_of(root),):
            if path.is_dir():
                path.rmdir()
        write(root / "app", 10)  # the same bytes: they serve from their place again
        server.eventually(lambda: is_served(server))
        assert server.run("app") == [10, 10, 10]
        server.eventually(lambda: not list((tmp_path / "state/running").iterdir()), "its files to be removed")


def test_a_shared_module_that_was_deleted_is_that_of_the_revision(root: Path, tmp_path: Path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "common.py").write_text("VALUE = 5\n")
    (root / "app").mkdir()
    wrapper_of(root).write_text(SHARED_USER)
    settings = {"additional_python_path": str(shared)}
    with again(root, tmp_path / "state", **settings) as server:
        server.eventually(lambda: is_served(server))
    (shared / "common.py").unlink()
    with again(root, tmp_path / "state", **settings) as server:
        server.eventually(lambda: is_served(server, state="stale"))
        assert server.run("app") == 5
        assert "common" in server.state("app")["error"]


def test_a_damaged_revision_is_noticed_and_an_older_one_serves(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state") as server:
        for version in (10, 11):
            write(root / "app", version)
            server.eventually(partial(serves, server, version))
    damaged = next(p for p in (tmp_path / "state/blobs").glob("??/*") if p.read_bytes() == b"VERSION = 11\n")
    damaged.write_bytes(b"VERSION = 10\n")
    appended("\n)\n")(root)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server, state="stale"))
        assert server.run("app") == [10, 10, 10]
    shutil.rmtree(tmp_path / "state/blobs")
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served_or_failed(server) == "failed")


@pytest.mark.parametrize("damage", ["a manifest", "no blobs"])
def test_what_serves_is_saved_again_where_it_is_damaged(root: Path, tmp_path: Path, damage: str):
    write(root / "app", 10)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server))
    if damage == "no blobs":
        shutil.rmtree(tmp_path / "state/blobs")
    else:
        for manifest in manifests(tmp_path / "state"):
            manifest.write_bytes(manifest.read_bytes().replace(b"helper.py", b"halper.py"))
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server))
    appended("\n)\n")(root)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server, state="stale"))
        assert server.run("app") == [10, 10, 10]


def is_served_or_failed(server: LiveServer) -> str:
    assert server.client.get("/readyz").status_code == 200
    return str(server.state("app")["state"])


@pytest.mark.parametrize("settings", [{"restore": False}, {"state_dir": ""}])
def test_it_can_be_turned_off(root: Path, tmp_path: Path, settings: dict[str, object]):
    write(root / "app", 10)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server))
    appended("\n)\n")(root)
    values = {"pipelines_dir": root, "state_dir": str(tmp_path / "state"), **settings}
    with serving(root, create_app(Settings(_env_file=None, **values))) as server:
        server.eventually(lambda: is_served_or_failed(server) == "failed")


def test_what_was_removed_is_not_restored(root: Path, tmp_path: Path):
    write(root / "app", 10)
    with again(root, tmp_path / "state", removal_grace_ms=0) as server:
        server.eventually(lambda: is_served(server))
        server.remove("app")
        server.eventually(lambda: server.state("app") is None)
    write(root / "app", 10)
    appended("\n)\n")(root)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served_or_failed(server) == "failed")


def test_a_state_directory_that_cannot_be_written_is_said_once(root: Path, tmp_path: Path, logged: list[str]):
    (tmp_path / "state").write_text("a file")
    with again(root, tmp_path / "state") as server:
        for version in (10, 11):
            write(root / "app", version)
            server.eventually(partial(serves, server, version))
    told = [line for line in logged if "The state directory cannot keep" in line and "WARNING" in line]
    assert len(told) == 1


def test_so_many_revisions_are_kept(root: Path, tmp_path: Path):
    with again(root, tmp_path / "state", revisions_kept=2) as server:
        for version in (10, 11, 12):
            write(root / "app", version)
            server.eventually(partial(serves, server, version))
    manifests = list((tmp_path / "state/names").glob("*/*"))
    assert len(manifests) == 2
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in manifests} == {0}


def test_what_nothing_needs_is_removed(root: Path, tmp_path: Path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    abandoned = tmp_path / f"state/running/{socket.gethostname()}-{dead.pid}-x"
    abandoned.mkdir(parents=True)
    (tmp_path / "state").chmod(0o700)
    unused, young = tmp_path / "state/blobs/ab/abcd", tmp_path / "state/blobs/ab/abce"
    unused.parent.mkdir(parents=True)
    for blob in (unused, young):  # which may belong to a manifest that is being written
        blob.touch()
    os.utime(unused, (0, 0))
    write(root / "app", 10)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server))
        server.eventually(lambda: not abandoned.exists() and not unused.exists())
    assert young.exists()
    appended("\n)\n")(root)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server, state="stale"))


@pytest.mark.slow
def test_the_worker_after_one_that_was_killed_and_all_after_sighup_serve_it(tmp_path: Path):
    root, names = tmp_path / "pipelines", [kind.replace(" ", "-") for kind in BROKEN]
    for name in names:
        write(root / name, 10)
    with started(tmp_path, "run", "--workers", "2", STATE_DIR=str(tmp_path / "state")) as server:

        def pids() -> set[int]:
            with server.client() as client:
                found = client.get("/status").json()["workers"]
                return {worker["pid"] for worker in found if worker["ready"]}

        def answers(times: int = 1) -> set[str]:
            """What the names answer, each request over a connection of its own and so from any worker."""
            return {server.post(f"/{name}/run", {}).text for name in names for _ in range(times)}

        def stale() -> set[str]:
            return {each["name"] for each in server.get("/status").json()["deployments"] if each["state"] == "stale"}

        eventually(lambda: len(pids()) == 2, "two workers", 60)
        for name, spoil in zip(names, BROKEN.values(), strict=True):
            write(tmp_path / name / "app", 10)
            spoil(tmp_path / name)
            (root / name).rename(tmp_path / f"{name}.old")
            (tmp_path / name / "app").rename(root / name)
        eventually(lambda: stale() == {*names} - {"hanging-setup"})
        killed = min(pids())
        os.kill(killed, signal.SIGKILL)
        seen: set[str] = set()

        def ask() -> bool:
            with contextlib.suppress(httpx.TransportError):  # the connection was the killed worker's
                seen.update(answers())
            return True

        eventually(lambda: ask() and len(pids() - {killed}) == 2, "a new worker", 60)
        assert seen == {'{"result":[10,10,10]}'} == answers(8)

        before = pids()
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(pids() - before) == 2 and not pids() & before, "new workers", 60)
        assert answers(8) == seen
        assert server.stop() == 0


def test_a_state_directory_that_others_can_write_to_is_not_used(root: Path, tmp_path: Path, logged: list[str]):
    write(root / "app", 10)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server))
    (tmp_path / "state").chmod(0o777)
    appended("\n)\n")(root)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served_or_failed(server) == "failed")
    assert [line for line in logged if "others can write to it" in line]


def test_two_servers_share_a_state_directory(root: Path, tmp_path: Path):
    state = tmp_path / "state"
    with again(root, state) as one, again(root, state) as other:
        for version in range(10, 14):
            write(root / "app", version)
            for server in (one, other):
                server.eventually(partial(answers, server, version))
    appended("\n)\n")(root)
    with again(root, state) as one, again(root, state) as other:
        for server in (one, other):
            server.eventually(partial(is_served, server, state="stale"))
            assert server.run("app") == [13, 13, 13]
        assert len(list((state / "running").iterdir())) == 2


def test_data_that_is_too_large_is_a_link_to_its_place(root: Path, tmp_path: Path):
    write(root / "app", 10)
    with (root / "app/weights").open("wb") as file:
        file.truncate(17 * 2**20)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server))
    appended("\n)\n")(root)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server, state="stale"))
        link = next((tmp_path / "state/running").glob("*/app/weights"))
        assert link.resolve() == root / "app/weights"


def test_a_disk_that_is_full_costs_the_history_alone(root: Path, tmp_path: Path, logged: list[str]):
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "blobs").symlink_to("/dev/full")  # neither a directory, nor to be written
    with again(root, state) as server:
        for version in (10, 11):
            write(root / "app", version)
            server.eventually(partial(answers, server, version))
    assert len([line for line in logged if "The state directory cannot keep" in line and "WARNING" in line]) == 1


def manifests(state: Path) -> list[Path]:
    return [path for path in state.glob("names/*/*") if not path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["newer", "older"])
def test_a_state_directory_of_another_version_of_hayhooks_is_read(root: Path, tmp_path: Path, kind: str):
    write(root / "app", 10)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server))
        server.eventually(lambda: manifests(tmp_path / "state"))
    (path,) = manifests(tmp_path / "state")
    manifest = json.loads(path.read_bytes().partition(b"\n")[2])
    if kind == "newer":
        manifest["colour"] = "blue"  # what this version does not know
    else:
        del manifest["executable"]  # what the first ones did not write
    text = json.dumps(manifest).encode()
    path.write_bytes(digest_of(text).hex().encode() + b"\n" + text)
    appended("\n)\n")(root)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server, state="stale"))
        assert server.run("app") == [10, 10, 10]


def test_a_program_beside_the_wrapper_can_be_run(root: Path, tmp_path: Path):
    write(root / "app", 10)
    (root / "app/tool.sh").write_text("#!/bin/sh\n")
    (root / "app/tool.sh").chmod(0o755)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server))
        server.eventually(lambda: manifests(tmp_path / "state"))
    appended("\n)\n")(root)
    with again(root, tmp_path / "state") as server:
        server.eventually(lambda: is_served(server, state="stale"))
        (tool,) = (tmp_path / "state/running").glob("*/app/tool.sh")
        assert os.access(tool, os.X_OK)
        assert not os.access(tool.with_name("helper.py"), os.X_OK)
