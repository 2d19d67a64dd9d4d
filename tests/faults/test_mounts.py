"""The pipelines directory itself: links that are flipped, roots that go and come back, changes that tell nobody."""

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.cli.processes import started
from tests.faults.traffic import BYSTANDER, Traffic, write
from tests.fork_server import HAYHOOKS
from tests.live_server import LiveServer, eventually, replace, serving


def test_a_root_that_is_a_link_which_git_sync_flips(tmp_path: Path):
    """As git-sync does: a work tree for each commit, a link that is replaced, the old tree removed."""
    link = tmp_path / "current"
    write(tmp_path / "rev-10/app", 10)
    os.symlink("rev-10", link)
    with serving(link) as server:
        server.eventually(lambda: server.run("app") == [10, 10, 10])
        for version in (11, 12, 13):
            write(tmp_path / f"rev-{version}/app", version)
            os.symlink(f"rev-{version}", tmp_path / "next")
            os.replace(tmp_path / "next", link)
            server.eventually(partial(_runs, server, version))
            shutil.rmtree(tmp_path / f"rev-{version - 1}")
        write(tmp_path / "rev-13/app", 14)
        server.eventually(lambda: server.run("app") == [14, 14, 14])


def _runs(server: LiveServer, version: int) -> bool:
    return bool(server.run("app") == [version] * 3)


def test_a_root_that_is_removed_and_made_again_loses_nothing(traffic: Traffic, tmp_path: Path):
    root = traffic.server.root
    shutil.rmtree(root)
    traffic.server.eventually(lambda: traffic.server.client.get("/readyz").status_code == 503)

    shutil.copytree(_like(tmp_path, 11), root)

    traffic.serves(11)
    traffic.server.eventually(lambda: traffic.server.client.get("/readyz").status_code == 200)
    write(root / "app", 12)
    traffic.serves(12)


def test_a_root_that_is_replaced_by_mv(traffic: Traffic, tmp_path: Path):
    root = traffic.server.root
    for version in (11, 13):
        new = _like(tmp_path, version)
        os.rename(root, tmp_path / f"old-{version}")
        os.rename(new, root)
        traffic.serves(version)
        write(root / "app", version + 1)
        traffic.serves(version + 1)


def _like(tmp_path: Path, version: int) -> Path:
    """A directory with version *version* of ``app``, and the bystander."""
    new = tmp_path / f"new-{version}"
    write(new / "app", version)
    replace(new / "bystander/pipeline_wrapper.py", BYSTANDER)
    return new


def test_a_root_that_is_missing_at_the_start_is_served_when_it_comes(tmp_path: Path):
    root = tmp_path / "a/b/pipelines"
    with serving(root) as server:
        assert server.client.get("/readyz").status_code == 503
        assert "cannot be read" in server.status()["error"]
        write(root / "app", 10)
        server.eventually(lambda: server.run("app") == [10, 10, 10])
        assert server.client.get("/readyz").status_code == 200


# Even root obeys modes without these.
WITHOUT_OVERRIDE = ("--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv here")
def test_what_cannot_be_read_keeps_what_serves_and_is_read_when_it_can_be(tmp_path: Path):
    root = tmp_path / "pipelines"
    write(root / "app", 10)
    with started(tmp_path, *WITHOUT_OVERRIDE, HAYHOOKS, "run", executable="setpriv") as server:
        assert server.post("/app/run", {}).json() == {"result": [10, 10, 10]}
        (root / "app/helper.py").chmod(0)
        eventually(lambda: "cannot be read" in server.get("/status/app").json()["error"])
        assert server.post("/app/run", {}).json() == {"result": [10, 10, 10]}
        (root / "app/helper.py").chmod(0o644)
        eventually(lambda: server.get("/status/app").json()["error"] is None)

        root.chmod(0)
        eventually(lambda: server.get("/readyz").status_code == 503)
        assert server.post("/app/run", {}).json() == {"result": [10, 10, 10]}
        root.chmod(0o555)  # readable, and nothing more
        eventually(lambda: server.get("/readyz").status_code == 200)
        replace(root / "app/helper.py", "VERSION = 77\n")
        (root / "app/helper.py").chmod(0o644)
        eventually(lambda: server.post("/app/run", {}).json() == {"result": [10, 77, 10]})
        assert server.stop() == 0


def test_a_folder_that_is_linked_in_while_it_runs_is_watched_where_it_lies(server: LiveServer, tmp_path: Path):
    write(tmp_path / "elsewhere", 10)
    os.symlink(tmp_path / "elsewhere", server.root / "app")
    server.eventually(lambda: server.run("app") == [10, 10, 10])

    write(tmp_path / "elsewhere", 11)
    server.eventually(lambda: server.run("app") == [11, 11, 11])


def test_a_file_that_is_a_link_counts_as_what_it_leads_to(server: LiveServer, tmp_path: Path):
    write(server.root / "app", 10)
    os.unlink(server.root / "app/data/prompt.txt")
    (tmp_path / "prompt.txt").write_text("10")
    os.symlink(tmp_path / "prompt.txt", server.root / "app/data/prompt.txt")
    server.eventually(lambda: server.run("app") == [10, 10, 10])

    (tmp_path / "prompt.txt").write_text("99")

    server.eventually(lambda: server.run("app") == [10, 10, 99])


def test_an_edit_that_a_full_queue_swallows_is_noticed(server: LiveServer):
    """12,001 files at once are more than inotify's queue holds; the last one is the edit."""
    write(server.root / "app", 10)
    server.eventually(lambda: server.run("app") == [10, 10, 10])
    subprocess.run(
        ["sh", "-ec", 'cd "$1" && mkdir -p junk && cd junk && seq 1 12000 | xargs touch', "sh", server.root], check=True
    )
    write(server.root / "app", 11)

    server.eventually(lambda: server.run("app") == [11, 11, 11])
