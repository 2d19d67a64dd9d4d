"""Writers that take their time, stop half-way, or change nothing."""

import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

from tests.faults.traffic import Traffic, files, write
from tests.live_server import LiveServer, replace


def test_a_slow_copy_serves_the_old_revision_until_the_whole_is_there(traffic: Traffic):
    """The wrapper comes first and needs a name that only the new helper has, which comes a second later."""
    app = traffic.server.root / "app"
    replace(app / "pipeline_wrapper.py", "from helper import NEW\n" + files(11)["pipeline_wrapper.py"])
    replace(app / "data/prompt.txt", "11")
    traffic.server.eventually(lambda: _is_stale(traffic.server))
    time.sleep(1)  # the writer's pace, not a wait for the server
    replace(app / "helper.py", "NEW = 11\nVERSION = 11\n")

    traffic.serves(11)


def _is_stale(server: LiveServer) -> bool:
    return bool(server.state("app")["state"] == "stale")


def test_half_written_file_fails_until_whole(traffic: Traffic):
    """A file that stays half written is a failure and the whole one is served."""
    app = traffic.server.root / "app"
    whole = files(11)["pipeline_wrapper.py"]
    (app / "pipeline_wrapper.py").write_text(whole[: whole.index("self.prompt]")])
    traffic.server.eventually(lambda: _is_stale(traffic.server))
    assert "SyntaxError" in traffic.server.state("app")["error"]

    write(app, 11)
    traffic.serves(11)
    assert traffic.server.state("app")["error"] is None


def test_a_disk_that_is_full_in_the_middle_of_a_copy(traffic: Traffic, tmp_path: Path):
    write(tmp_path / "new", 11)
    with (tmp_path / "new/pipeline_wrapper.py").open("a") as file:
        file.write("# " + "x" * 100_000)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    app = traffic.server.root / "app"
    copy = ["cp", str(tmp_path / "new/pipeline_wrapper.py"), str(app)]
    assert subprocess.run(copy, preexec_fn=limit, capture_output=True, check=False).returncode != 0
    traffic.server.eventually(lambda: _is_stale(traffic.server))

    shutil.copytree(tmp_path / "new", app, dirs_exist_ok=True)
    traffic.serves(11)


def test_what_changes_nothing_reloads_nothing(traffic: Traffic):
    app = traffic.server.root / "app"
    before = traffic.server.state("app")["loaded_at"]
    for path, content in files(10).items():
        (app / path).touch()
        (app / path).chmod(0o600)
        os.utime(app / path, (1, 1))
        replace(app / path, content)
    write(traffic.server.root / "sign", 1)
    traffic.server.eventually(lambda: traffic.server.run("sign") == [1, 1, 1])

    assert traffic.server.state("app")["loaded_at"] == before


def test_same_size_and_same_mtime_is_a_change(traffic: Traffic):
    app = traffic.server.root / "app"
    for version in (11, 12, 13):
        stats = {path: os.stat(app / path) for path in files(version)}
        for path, content in files(version).items():
            with (app / path).open("r+") as file:
                file.write(content)
            os.utime(app / path, ns=(stats[path].st_atime_ns, stats[path].st_mtime_ns))
            assert os.stat(app / path).st_size == stats[path].st_size
        traffic.serves(version)


def test_every_file_of_the_folder_counts(traffic: Traffic):
    """A new helper, a sub-package, its data: each edit alone is served."""
    app = traffic.server.root / "app"
    replace(app / "parts/deep/__init__.py", "")
    replace(app / "parts/deep/more.py", "from .most import VERSION")
    replace(app / "parts/deep/most.py", "VERSION = 11")
    replace(app / "helper.py", "from parts.deep.more import VERSION\n")
    replace(app / "data/prompt.txt", "11")
    replace(app / "pipeline_wrapper.py", files(11)["pipeline_wrapper.py"].replace("= 11", "= helper.VERSION"))
    traffic.serves(11)

    traffic.between = "[12,12,11]"
    replace(app / "parts/deep/most.py", "VERSION = 12")
    traffic.server.eventually(lambda: traffic.server.run("app") == [12, 12, 11])
    replace(app / "data/prompt.txt", "12")
    traffic.server.eventually(lambda: traffic.server.run("app") == [12, 12, 12])


def test_going_back_ends_the_failure_without_reload(traffic: Traffic):
    """Going back to the very bytes of before ends the failure without a reload."""
    app, server = traffic.server.root / "app", traffic.server
    before = server.state("app")["loaded_at"]
    replace(app / "helper.py", "VERSION = \n")
    server.eventually(lambda: _is_stale(server))

    write(app, 10)

    server.eventually(lambda: server.state("app")["state"] == "serving")
    assert server.state("app")["loaded_at"] == before
