"""Names at the edge of what a file system takes work with every command, or are refused in one line."""

import json
import os

import pytest

from hayhooks.cli.new import TEMPLATES
from tests.cli.commands import hayhooks, pipeline
from tests.live_server import ECHO, LiveServer, replace

YAML = TEMPLATES.joinpath("yaml.yml").read_text()


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127 + "n"], ids=["ASCII", "UTF-8"])
def test_names_of_255_bytes_work_with_every_command(server: LiveServer, port, tmp_path, name):
    replace(tmp_path / "mine/pipeline_wrapper.py", "ANSWER = ''\n" + ECHO)
    commands: list[tuple[str, ...]] = [
        ("deploy-files", "mine", "-n", name),
        ("deploy-files", "mine", "-n", name, "-o", "-s", "--no-check"),
        ("list", "--json"),
        ("run", name, "-p", "text=hi"),
        ("undeploy", name),
        ("new", name),
        ("undeploy", name, "--purge"),
        ("new", name),
        ("undeploy", name),  # into the trash, where its name is longer
    ]

    results = [pipeline(*command, cwd=tmp_path, port=port) for command in commands]

    assert [done.returncode for done in results] == [0] * len(commands), [done.stderr for done in results]
    assert json.loads(results[2].stdout)["pipelines"][0]["name"] == name
    (trashed,) = os.listdir(tmp_path / ".pipelines-trash")
    assert trashed.startswith(name[:100])
    assert os.listdir(server.root) == []


def test_yaml_files_of_255_bytes_work_with_every_command(server: LiveServer, port, tmp_path):
    name = "n" * 251
    replace(tmp_path / "mine.yml", YAML)

    results = [
        pipeline("deploy", "mine.yml", "-n", name, cwd=tmp_path, port=port),
        pipeline("run", name, "-p", "question=hi", cwd=tmp_path, port=port),
        pipeline("undeploy", name, cwd=tmp_path, port=port),
        pipeline("new", name, "-t", "yaml", cwd=tmp_path, port=port),
        pipeline("undeploy", f"{name}.yml", cwd=tmp_path, port=port),
    ]

    assert [done.returncode for done in results] == [0] * 5, [done.stdout + done.stderr for done in results]


@pytest.mark.parametrize("name", ["n" * 256, "é" * 128, "n" * 5_000], ids=["ASCII", "UTF-8", "long"])
def test_longer_names_are_refused_in_one_line_by_every_command(root, tmp_path, name):
    replace(tmp_path / "mine/pipeline_wrapper.py", "ANSWER = ''\n" + ECHO)
    replace(tmp_path / "mine.yml", YAML)
    size = len(os.fsencode(name))
    commands = {
        ("deploy-files", "mine", "-n", name): 255,
        ("deploy-files", "mine", "-n", name, "-s", "-o", "--no-check"): 255,
        ("deploy", "mine.yml", "-n", name): 251,
        ("deploy", "mine.yml", "-n", name[: 252 if name.isascii() else 126]): 251,
        ("undeploy", name): 255,
        ("undeploy", name, "--purge"): 255,
        ("new", name): 255,
        ("new", name, "-t", "yaml"): 251,
        ("check", "mine", "-n", name): 255,
        ("run", name): 255,
    }

    for command, limit in commands.items():
        done = pipeline(*command, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        given = 252 if "mine.yml" in command and command[-1] != name else size
        assert done.stderr == f"Error: The name {name[:20]!r}... has {given} bytes: use one of at most {limit}\n"
    assert os.listdir(root) == []


def test_names_that_are_no_text_are_shown_and_refused(server: LiveServer, root, port, tmp_path):
    replace(root / os.fsdecode(b"b\xffd") / "pipeline_wrapper.py", ECHO)
    server.eventually(lambda: server.status()["deployments"])

    for command in (("status",), ("status", "--json"), ("pipeline", "list"), ("pipeline", "list", "--json")):
        done = hayhooks(*command, cwd=tmp_path, PORT=port)
        assert done.returncode in (0, 2)
        assert "Traceback" not in done.stderr
    done = pipeline("deploy-files", root / os.fsdecode(b"b\xffd"), cwd=tmp_path, port=port)
    assert done.returncode in (1, 2)
