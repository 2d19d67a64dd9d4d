"""The commands on pipelines in YAML, with a server that serves those."""

from pathlib import Path

import pytest

from tests.cli.commands import pipeline
from tests.cli.test_deploy import listed

TEXT = """# mine
components:
  prompt:
    type: haystack.components.builders.prompt_builder.PromptBuilder
    init_parameters: {template: "You said: {{ text }}", required_variables: [text]}
inputs:
  text: prompt.text
outputs:
  answer: prompt.prompt
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yml"
    path.write_text(TEXT)
    return path


def test_a_yaml_file_is_served_when_the_command_is_done(server, port, source, tmp_path):
    done = pipeline("deploy", source, "--description", "Says it.", cwd=tmp_path, port=port)
    again = pipeline("deploy-yaml", source, "-o", cwd=tmp_path, port=port)

    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    assert "✓ mine" in done.stdout
    assert "POST /mine/run" in again.stdout
    assert server.run("mine", text="hi") == {"prompt": {"prompt": "You said: hi"}}


def test_its_description_is_what_the_server_tells(server, port, source, tmp_path):
    pipeline("deploy", source, "--description", "Says it.", cwd=tmp_path, port=port)

    assert server.state("mine")["description"] == "Says it."


def test_a_wrong_one_is_told_with_its_line_before_anything_is_changed(server, port, source, tmp_path):
    source.write_text(TEXT.replace("prompt.text", "prompt.nothing"))

    done = pipeline("deploy", source, cwd=tmp_path, port=port)

    assert done.returncode == 1
    assert f"{source}:7: text: prompt.nothing" in done.stdout
    assert listed(server.root) == []


def test_what_the_server_cannot_serve_is_taken_back(server, port, source, tmp_path):
    pipeline("deploy", source, cwd=tmp_path, port=port)
    source.write_text(TEXT.replace("prompt.text", "prompt.nothing"))

    done = pipeline("deploy", source, "-o", "--no-check", cwd=tmp_path, port=port)

    assert done.returncode == 1
    assert "put back" in done.stdout
    assert (server.root / "mine.yml").read_text() == TEXT
    assert server.run("mine", text="hi") == {"prompt": {"prompt": "You said: hi"}}


def test_it_is_undeployed_by_its_name(server, port, source, tmp_path):
    pipeline("deploy", source, cwd=tmp_path, port=port)

    done = pipeline("undeploy", "mine", cwd=tmp_path, port=port)

    assert done.returncode == 0
    assert listed(server.root) == []
    assert server.client.post("/mine/run", json={"text": "hi"}).status_code == 404


def test_the_template_is_served_at_once_and_answers(server, port, tmp_path):
    done = pipeline("new", "mine", "-t", "yaml", cwd=tmp_path, port=port)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "You asked: hello" in pipeline("run", "mine", "-p", "question=hello", cwd=tmp_path, port=port).stdout


def test_check_tells_what_it_would_serve(source, tmp_path):
    done = pipeline("check", source, cwd=tmp_path)

    assert done.returncode == 0, done.stdout
    assert "/mine/run" in done.stdout
