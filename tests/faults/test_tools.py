"""Whatever tool writes a new version: it is served whole, no request fails, and the next edit is served as well."""

import ctypes
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.traffic import Traffic, files, write
from tests.live_server import replace

Tool = Callable[[Path, Path, int], None]  # the deployed folder, a place beside the directory, the version to write


def sh(command: str, *arguments: Path | str) -> None:
    subprocess.run(["sh", "-ec", command, "sh", *map(str, arguments)], check=True, capture_output=True)


def copy_over(app: Path, beside: Path, version: int) -> None:
    """The wrapper is the last to be new: its old form works with neither of the others."""
    write(beside / "new", version)
    sh('cp -r "$1/data" "$2/" && cp "$1/helper.py" "$1/pipeline_wrapper.py" "$2/"', beside / "new", app)


def remove_and_copy(app: Path, beside: Path, version: int) -> None:
    write(beside / "new", version)
    sh('rm -r "$2" && cp -r "$1" "$2"', beside / "new", app)


def move_out_and_in(app: Path, beside: Path, version: int) -> None:
    write(beside / "new", version)
    os.rename(app, beside / "old")
    os.rename(beside / "new", app)
    shutil.rmtree(beside / "old")


def record(app: Path, beside: Path, version: int) -> None:
    write(beside / "new", version)
    at_cwd, exchange_flag = -100, 2
    result = ctypes.CDLL(None, use_errno=True).renameat2(
        at_cwd, os.fsencode(beside / "new"), at_cwd, os.fsencode(app), exchange_flag
    )
    if result != 0:
        pytest.skip(f"renameat2: {os.strerror(ctypes.get_errno())}")
    shutil.rmtree(beside / "new")


def rsync(app: Path, beside: Path, version: int) -> None:
    write(beside / "new", version)
    sh('rsync -aI --delete "$1/" "$2/"', beside / "new", app)


def rsync_in_place(app: Path, beside: Path, version: int) -> None:
    write(beside / "new", version)
    sh('rsync -aI --inplace --delete "$1/" "$2/"', beside / "new", app)


def tar_with_old_times(app: Path, beside: Path, version: int) -> None:
    with tarfile.open(beside / "new.tar", "w") as archive:
        for path in files(version):
            write(beside / "new", version)
            os.utime(beside / "new" / path, (1, 1))
            archive.add(beside / "new" / path, path)
    sh('tar -xf "$1" -C "$2"', beside / "new.tar", app)


def sed(app: Path, beside: Path, version: int) -> None:
    sh(r'cd "$1" && sed -i "s/[0-9][0-9]/$2/" data/prompt.txt helper.py pipeline_wrapper.py', app, str(version))


def link_flip(app: Path, beside: Path, version: int) -> None:
    """The folder itself is a link, to another place with each version."""
    write(beside / f"release-{version}", version)
    os.symlink(beside / f"release-{version}", beside / "link")
    if app.is_symlink():
        os.replace(beside / "link", app)
    else:
        os.rename(app, beside / "first")
        os.rename(beside / "link", app)


def config_map(app: Path, beside: Path, version: int) -> None:
    """As the kubelet mounts a ConfigMap: files are links through ``..data``, a link that is replaced."""
    release = app / f"..{version}"
    write(release, version)
    os.symlink(release.name, app / "..data_tmp")
    os.rename(app / "..data_tmp", app / "..data")
    for path in ("data", "helper.py", "pipeline_wrapper.py"):
        if not (app / path).is_symlink():
            shutil.rmtree(app / path) if (app / path).is_dir() else (app / path).unlink()
            os.symlink(f"..data/{path}", app / path)


TOOLS: list[Tool] = [
    copy_over,
    remove_and_copy,
    move_out_and_in,
    record,
    rsync,
    rsync_in_place,
    tar_with_old_times,
    sed,
    link_flip,
    config_map,
]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_a_new_version_is_served_whole_and_so_is_the_next_edit(traffic: Traffic, tmp_path: Path, tool: Tool):
    app, beside = traffic.server.root / "app", tmp_path / "beside"
    for version in (11, 13, 15):
        beside.mkdir(exist_ok=True)
        tool(app, beside, version)
        traffic.serves(version)

        write(app, version + 1)
        traffic.serves(version + 1)


def test_git_checkout_between_branches_ten_times(traffic: Traffic):
    root = traffic.server.root
    git = "git -c user.name=x -c user.email=x@example.org -c commit.gpgsign=false"
    sh(f'cd "$1" && git init -q -b even . && {git} add -A && {git} commit -qm even', root)
    write(root / "app", 11)
    sh(f'cd "$1" && git checkout -q -b odd && {git} commit -qam odd', root)
    traffic.serves(11)

    for _ in range(5):
        for branch, version in (("even", 10), ("odd", 11)):
            sh('cd "$1" && git checkout -q "$2"', root, branch)
            traffic.serves_again(version)


# How editors save; each gets the file and its new content.


def in_place(file: Path, content: str) -> None:
    with file.open("r+") as stream:
        stream.write(content)
        stream.truncate()


def by_rename(file: Path, content: str) -> None:
    replace(file, content)


def vim(file: Path, content: str) -> None:
    """A probe called 4913, the old file renamed to a backup, a new one written, the backup removed."""
    probe, backup = file.with_name("4913"), file.with_name(file.name + "~")
    probe.touch()
    probe.unlink()
    os.rename(file, backup)
    file.write_text(content)
    backup.unlink()


def emacs(file: Path, content: str) -> None:
    """A lock that is a dangling link, an autosave file, and a backup that is a copy."""
    lock, autosave = file.with_name(f".#{file.name}"), file.with_name(f"#{file.name}#")
    os.symlink("user@host.1", lock)
    autosave.write_text(content)
    shutil.copy2(file, file.with_name(file.name + "~"))
    in_place(file, content)
    autosave.unlink()
    lock.unlink()


def jetbrains(file: Path, content: str) -> None:
    """The new content beside it, the old file moved away, the new one moved in."""
    new, old = file.with_name(file.name + "___jb_tmp___"), file.with_name(file.name + "___jb_old___")
    new.write_text(content)
    os.rename(file, old)
    os.rename(new, file)
    old.unlink()


def alone(version: int) -> str:
    """A wrapper that is *version* by itself, whatever lies beside it."""
    text = files(version)["pipeline_wrapper.py"]
    return text.replace("helper.VERSION", "VERSION").replace("self.prompt]", "VERSION]")


@pytest.mark.parametrize("save", [in_place, by_rename, vim, emacs, jetbrains], ids=lambda save: save.__name__)
def test_every_save_of_an_editor_is_served(traffic: Traffic, save: Callable[[Path, str], None]):
    for version in (11, 12, 13):
        save(traffic.server.root / "app/pipeline_wrapper.py", alone(version))
        traffic.serves(version)


def test_vim_itself(traffic: Traffic):
    if shutil.which("vim") is None:
        pytest.skip("no vim here")
    file = traffic.server.root / "app/pipeline_wrapper.py"
    replace(file, alone(11))
    for version in (12, 13):
        substitute = rf"%s/VERSION = \d\d/VERSION = {version}/"
        subprocess.run(["vim", "-es", "-u", "NONE", "-c", substitute, "-c", "wq", file], check=True)
        traffic.serves(version)


def test_ten_edits_of_one_size_in_a_second_are_each_answered_by_their_own(traffic: Traffic):
    app = traffic.server.root / "app"
    for version in range(11, 21):
        write(app, version)
        traffic.serves(version)


def test_the_last_of_two_hundred_edits_in_a_second_is_served(traffic: Traffic):
    file = traffic.server.root / "app/pipeline_wrapper.py"
    for version in range(100, 300):
        replace(file, alone(version))

    traffic.serves(299)
