"""kill -9 at any step of a command leaves the directory old or new, and nothing in the way of the next one."""

from pathlib import Path

import pytest

from tests.cli.killing import Spec, contents, killed
from tests.live_server import ECHO, LiveServer, replace
from tests.network import free_port

YAML = "components: {}\n"


def folder(path: Path, answer: str) -> Path:
    replace(path / "pipeline_wrapper.py", f"ANSWER = {answer!r}\n" + ECHO)
    replace(path / "data/prompt.txt", answer)
    (path / "link").symlink_to("data/prompt.txt")
    return path


@pytest.fixture
def before(tmp_path: Path) -> Path:
    folder(tmp_path / "before/app", "old")
    folder(tmp_path / "before/other", "other")
    replace(tmp_path / "before/text.yml", YAML)
    return tmp_path / "before"


def visible(left: dict[str, str]) -> dict[str, str]:
    return {path: content for path, content in left.items() if not path.startswith(".")}


RENAMING = [  # by a call that not every file system has
    ["deploy-files", "SOURCE", "-n", "added", "--no-check"],
    ["deploy-files", "SOURCE", "-n", "app", "-o", "--no-check"],
    ["deploy-files", "SOURCE", "-n", "app", "-o", "-s", "--no-check"],
    ["deploy", "SOURCE.yml", "-n", "text", "-o", "--no-check", "--description", "New."],
]
OTHERS = [
    ["undeploy", "app"],
    ["undeploy", "app", "--purge"],
    ["new", "added", "-t", "rag"],
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "without_exchange"),
    [*((command, False) for command in RENAMING + OTHERS), *((command, True) for command in RENAMING)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "without exchange" if value else "",
)
def test_at_every_step_the_directory_is_old_or_new(tmp_path, before, command, without_exchange):
    """Whatever the step, the next command finds nothing in its way."""
    source = folder(tmp_path / "source", "new")
    replace(tmp_path / "source.yml", "# mine\n" + YAML)
    command = ["pipeline", *(part.replace("SOURCE", str(source)) for part in command)]
    settings = {"PORT": str(free_port())}
    spec = Spec(command, str(tmp_path / "pipelines"), str(before), settings=settings, without_exchange=without_exchange)

    *kills, whole = killed(spec, tmp_path)

    assert whole["status"] == 0
    old, new = contents(before), whole["left"]
    assert old != new == visible(new)
    assert len(kills) > 5
    moments = [kill for kill in kills if visible(kill["left"]) not in (old, new)]
    assert not moments or without_exchange  # there both names are free for a moment, until the next command
    assert all(kill["next"] in (old, new) for kill in kills)
    assert contents(source) == contents(folder(tmp_path / "as_it_was", "new"))


@pytest.mark.slow
def test_at_every_step_of_a_rollback_too(server: LiveServer, root: Path, tmp_path, before):
    source = folder(tmp_path / "source", "new")
    replace(source / "pipeline_wrapper.py", "import nothing_of_this_name\n")
    command = ["pipeline", "deploy-files", str(source), "-n", "app", "-o", "--no-check"]
    settings = {"PORT": str(server.port)}
    spec = Spec(command, str(root), str(before), in_place=True, settings=settings, functions=["undo"])

    *kills, whole = killed(spec, tmp_path)

    assert whole["status"] == 1
    old = contents(before)
    new = {**{path: content for path, content in old.items() if not path.startswith("app")}}
    new |= {f"app/{path}": content for path, content in contents(source).items()} | {"app": "folder"}
    assert whole["left"] == old
    assert len(kills) > 5
    assert all(visible(kill["left"]) in (old, new) for kill in kills)
    assert all(kill["next"] in (old, new) for kill in kills)
