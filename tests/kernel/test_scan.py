import os
import time
from pathlib import Path

import pytest

from hayhooks.kernel.discovery import misnamed_wrapper
from hayhooks.kernel.scan import EVERYTHING, Scanner, ScanScope
from hayhooks.kernel.state import RevisionKind
from tests.live_server import eventually, replace

WRAPPER = "class PipelineWrapper: ..."


class Looker:
    """A scanner with a clock of its own: every look is a second after the one before."""

    def __init__(self, root: Path, **options) -> None:
        self.root = root
        self.scanner = Scanner(root, reserved={"status"}, debounce_s=0.5, removal_grace_s=1.5, **options)
        self.now = 100.0

    def look(self, names=None):
        self.now += 1
        return self.scanner.scan(self.now, EVERYTHING if names is None else ScanScope(frozenset(names)))

    def settled(self):
        """What is there, once it has kept still."""
        self.look()
        return self.look().revisions

    def write(self, path: str, content: str = WRAPPER) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file


@pytest.fixture
def looker(root):
    return Looker(root)


def test_a_folder_is_read_after_the_debounce_time(looker):
    looker.write("chat/pipeline_wrapper.py")

    first = looker.look()
    assert (dict(first.revisions), first.pending) == ({}, True)
    second = looker.look()
    assert (list(second.revisions), second.pending) == (["chat"], False)


def test_a_changing_folder_keeps_its_last_revision(looker):
    looker.write("chat/pipeline_wrapper.py")
    before = looker.settled()["chat"]

    for number in range(3):
        looker.write("chat/part.py", f"{number}")
        assert looker.look().revisions["chat"] is before
    after = looker.look().revisions["chat"]
    assert after.changed_since(before) == ("part.py",)


def test_the_fingerprint_is_of_paths_and_bytes(looker):
    wrapper = looker.write("chat/pipeline_wrapper.py")
    before = looker.settled()["chat"].fingerprint

    os.utime(wrapper, (1, 1))
    wrapper.chmod(0o600)
    assert looker.settled()["chat"].fingerprint == before
    looker.write("chat/pipeline_wrapper.py")
    assert looker.settled()["chat"].fingerprint == before
    looker.write("chat/data.txt")
    with_data = looker.settled()["chat"].fingerprint
    assert with_data != before
    (looker.root / "chat/data.txt").rename(looker.root / "chat/more.txt")
    assert looker.settled()["chat"].fingerprint not in (before, with_data)


def test_same_size_and_same_mtime_is_a_change(looker):
    wrapper = looker.write("chat/pipeline_wrapper.py", "a = 1")
    os.utime(wrapper, (1, 1))
    before = looker.settled()["chat"].fingerprint
    looker.write("chat/pipeline_wrapper.py", "a = 2")
    os.utime(wrapper, (1, 1))

    assert looker.settled()["chat"].fingerprint != before


@pytest.mark.parametrize(
    "leaving",
    [".git/HEAD", "__pycache__/x.cpython-311.pyc", ".pipeline_wrapper.py.swp", "4913", "x.py~", ".#x.py", "x.tmp"],
)
def test_what_tools_leave_behind_is_no_change(looker, leaving):
    looker.write("chat/pipeline_wrapper.py")
    before = looker.settled()["chat"]
    looker.write(f"chat/{leaving}")

    assert looker.settled()["chat"] is before


@pytest.mark.parametrize("name", [".hidden", "_private", "__pycache__", "notes~"])
def test_such_folders_are_no_deployments(looker, name):
    looker.write(f"{name}/pipeline_wrapper.py")

    assert looker.settled() == {}


def test_a_folder_without_a_wrapper_is_none_until_it_has_one(looker):
    looker.write("chat/readme.md")
    look = looker.look()
    assert not look.pending
    assert str(looker.root.resolve() / "chat") in look.directories  # watched all the same

    looker.write("chat/pipeline_wrapper.py")
    looker.look({"chat"})
    assert list(looker.look({"chat"}).revisions) == ["chat"]


def test_a_name_is_gone_after_the_removal_grace(looker):
    wrapper = looker.write("chat/pipeline_wrapper.py")
    looker.settled()
    wrapper.unlink()

    assert "chat" in looker.look().revisions
    looker.write("chat/pipeline_wrapper.py")
    assert "chat" in looker.settled()
    wrapper.unlink()
    looker.look()
    looker.look()
    assert looker.look().revisions == {}


def test_a_scan_of_some_names_finds_new_ones_too(looker):
    for name in ("one", "two"):
        looker.write(f"{name}/pipeline_wrapper.py")
    before = looker.settled()
    for name in ("one", "two", "new"):
        looker.write(f"{name}/pipeline_wrapper.py", "changed")
    looker.look({"one"})
    after = looker.look({"one"}).revisions

    assert after["one"] != before["one"]
    assert after["two"] is before["two"]
    assert "new" in after


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("status", "belongs to a route"),
        ("my chat", "cannot be a part of a URL, because of ' '"),
        ("what?", "because of '?'"),
        ("50%", "because of '%'"),
    ],
)
def test_an_unusable_name_is_a_problem_with_advice(looker, name, problem):
    looker.write(f"{name}/pipeline_wrapper.py")

    assert problem in looker.settled()[name].problem


@pytest.mark.parametrize("name", ["chat", "chat-2", "chat_2", "v1.2", "größe", "対話"])
def test_usable_names(looker, name):
    looker.write(f"{name}/pipeline_wrapper.py")

    assert looker.settled()[name].problem == ""


@pytest.mark.parametrize(
    ("path", "name", "problem"),
    [
        ("chat", "chat", "a file where a folder should be"),
        ("pipeline_wrapper.py", "pipeline_wrapper", "move it to pipeline_wrapper/pipeline_wrapper.py"),
        ("chat/pipeline_wrapper.py/x", "chat", "is a folder"),
    ],
)
def test_a_misplaced_file_is_a_problem_with_advice(looker, path, name, problem):
    looker.write(path, "class PipelineWrapper(BasePipelineWrapper): ...")

    assert problem in looker.settled()[name].problem


@pytest.mark.parametrize("path", ["README.md", "LICENSE", "shared.py", "data.json"])
def test_other_files_are_ignored(looker, path):
    looker.write(path, "text")

    assert looker.settled() == {}


def test_a_folder_and_a_yaml_file_of_one_name_clash(looker):
    looker.write("chat/pipeline_wrapper.py")
    looker.write("chat.yaml", "components: {}")

    assert "chat/ and chat.yaml both claim the name 'chat'" in looker.settled()["chat"].problem


def test_a_flipped_link_is_a_change(looker, tmp_path):
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "pipeline_wrapper.py").write_text(version)
    link = looker.root / "chat"
    link.symlink_to(tmp_path / "v1")
    before = looker.settled()["chat"]
    link.unlink()
    link.symlink_to(tmp_path / "v2")

    after = looker.settled()["chat"]
    assert after.changed_since(before) == ("pipeline_wrapper.py",)
    assert after.path == link


def test_odd_files_neither_block_nor_count(looker):
    looker.write("chat/pipeline_wrapper.py")
    folder = looker.root / "chat"
    before = looker.settled()["chat"].fingerprint
    os.mkfifo(folder / "fifo")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    (looker.root / "gone").symlink_to("nowhere")

    assert looker.settled()["chat"].fingerprint == before


def test_names_that_are_not_utf8_are_read(looker):
    looker.write("chat/pipeline_wrapper.py")
    before = looker.settled()["chat"].fingerprint
    (Path(os.fsdecode(os.fsencode(looker.root / "chat") + b"/\xff.txt"))).write_text("x")

    assert looker.settled()["chat"].fingerprint != before


def test_a_missing_root_keeps_everything(looker, tmp_path):
    looker.write("chat/pipeline_wrapper.py")
    before = looker.settled()["chat"]
    looker.root.rename(tmp_path / "away")
    for _ in range(3):
        look = looker.look()
    assert look.revisions["chat"] is before
    assert str(looker.root) in look.problem

    (tmp_path / "away").rename(looker.root)
    assert looker.look().problem == ""


def test_a_root_that_is_a_file_cannot_be_read(tmp_path):
    (tmp_path / "file").touch()

    assert "cannot be read: Not a directory" in Looker(tmp_path / "file").look().problem


def test_only_one_name_can_be_asked_for(root):
    looker = Looker(root, only="one")
    for name in ("one", "two"):
        looker.write(f"{name}/pipeline_wrapper.py")

    assert list(looker.settled()) == ["one"]


def test_a_yaml_is_a_revision_of_its_own_bytes(looker):
    file = looker.write("chat.yml", "components: {}")
    before = looker.settled()["chat"]

    assert (before.kind, before.path, before.problem) == (RevisionKind.YAML, file, "")
    assert {path: found.source for path, found in before.files.items()} == {"chat.yml": b"components: {}"}
    looker.write("chat.yml", "components: {a: b}")
    assert looker.look().revisions["chat"] is before
    assert looker.look().revisions["chat"].changed_since(before) == ("chat.yml",)


def test_a_large_yaml_is_read_whole(looker):
    looker.write("chat.yml", "components:\n" + "#" * (17 * 2**20))

    assert len(looker.settled()["chat"].files["chat.yml"].source) > 17 * 2**20


def test_a_fifo_or_a_folder_called_like_a_yaml_is_none(looker):
    os.mkfifo(looker.root / "chat.yml")
    (looker.root / "more.yml").mkdir()

    assert looker.settled() == {}


def test_names_given_in_code_are_taken_and_need_no_directory(root):
    looker = Looker(root, taken=["chat"])
    looker.write("chat.yml", "components:\n")
    assert "is taken by a pipeline given in code" in looker.settled()["chat"].problem

    nowhere = Looker(root / "nowhere", taken=["chat"])
    assert nowhere.look().problem == ""
    assert "cannot be read" in Looker(root / "nowhere").look().problem


def test_old_folders_are_read_at_once_at_the_start(looker):
    wrapper = looker.write("chat/pipeline_wrapper.py")
    eventually(lambda: time.time() - wrapper.stat().st_ctime > 2)

    assert list(looker.look().revisions) == ["chat"]

    looker.write("other/pipeline_wrapper.py").touch()
    assert list(looker.look().revisions) == ["chat"]


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("pipeline_wraper.py", "no pipeline_wrapper.py: rename pipeline_wraper.py to"),
        ("pipeline-wrapper.py", "no pipeline_wrapper.py: rename pipeline-wrapper.py to"),
        ("Pipeline_Wrapper.PY", "no pipeline_wrapper.py: rename Pipeline_Wrapper.PY to"),
        ("wrapper.py", "no pipeline_wrapper.py: rename wrapper.py to"),
        ("pipelinewrapper.py", "no pipeline_wrapper.py: rename pipelinewrapper.py to"),
        ("src/pipeline_wrapper.py", "(did you mean src/pipeline_wrapper.py?)"),
        ("main.py", "but no pipeline_wrapper.py: it is not deployed"),
        ("notes.md", ""),
        ("__init__.py", ""),
    ],
)
def test_a_folder_with_python_files_but_no_wrapper_is_told_once(root: Path, logged: list[str], file: str, told: str):
    replace(root / "chat" / file, "")
    scanner = Scanner(root, debounce_s=0, removal_grace_s=0)
    for now in range(10):
        scanner.scan(float(now), EVERYTHING)

    assert [entry for entry in logged if "chat" in entry] == [entry for entry in logged if told and told in entry]
    assert len(logged) == bool(told)


def test_a_wrapper_under_another_name_is_told_after_the_debounce_time(root: Path, logged: list[str]):
    scanner = Scanner(root, debounce_s=0.05, removal_grace_s=0)
    scanner.scan(0.0, EVERYTHING)
    replace(root / "chat/main.py", WRAPPER)
    assert scanner.scan(1.0, EVERYTHING).pending
    assert logged == []
    assert not scanner.scan(1.06, EVERYTHING).pending

    problem = f"{root}/chat is not deployed, it has no pipeline_wrapper.py: rename main.py to pipeline_wrapper.py"
    assert logged == [f"WARNING {problem}"]
    replace(root / "chat/pipeline_wrapper.py", WRAPPER)
    scanner.scan(2.0, EVERYTHING)
    assert list(scanner.scan(3.0, EVERYTHING).revisions) == ["chat"]


def test_scripts_that_cannot_be_read_hide_no_wrapper_under_another_name(root: Path):
    replace(root / "chat/main.py", WRAPPER)
    (root / "chat/folder.py").mkdir()
    (root / "chat/broken.py").symlink_to("nothing")
    os.mkfifo(root / "chat/a_pipe.py")

    assert misnamed_wrapper(root / "chat") == "main.py"


def test_a_wrapper_under_another_name_that_was_there_before_is_told_at_once(root: Path, logged: list[str]):
    replace(root / "chat/wrapper.py", "")
    os.utime(root / "chat", (1, 1))
    Scanner(root, debounce_s=0.05, removal_grace_s=0).scan(0.0, EVERYTHING)

    assert len(logged) == 1
