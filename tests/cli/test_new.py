"""`hayhooks pipeline new`: what it creates, tests, serves and says."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionStreamOptionsParam

import hayhooks.testing
from hayhooks.cli.new import TEMPLATES
from hayhooks.cli.pipeline import _TEMPLATES
from tests.cli.commands import hayhooks as command
from tests.cli.commands import pipeline
from tests.cli.test_deploy import wrapper
from tests.live_server import replace

FOLDERS = [name for name in _TEMPLATES if name != "yaml"]
CHATS = {  # a question, and a part of the answer
    "chat": ("Who are you?", "You asked: Who are you?"),
    "rag": ("Are dogs welcome?", "Dogs are welcome on the ground floor. (house_rules.md)"),
    "agent": ("What is 17 * 3?", "That makes 51."),
    "upload": ("Are dogs welcome?", "Dogs are welcome on the ground floor. (example.md)"),
    "yaml": ("Who are you?", "You asked: Who are you?"),
    "memory": ("I like tea.", "You said 'I like tea.'."),
}

# A model of the OpenAI API: it calls the first tool it is given, and tells what it was asked.
MODEL = """
from haystack.dataclasses import StreamingChunk, ToolCallDelta
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): ...

    def run_chat_completion(self, model, messages, body):
        last = messages[-1]
        if body.get("tools") and last["role"] == "user":
            name = body["tools"][0]["function"]["name"]
            yield StreamingChunk("", index=0, tool_calls=[ToolCallDelta(0, name, '{"first": 6, "second": 7}', id="1")])
        else:
            yield f"{last['content']} | {len(messages)} | {messages[0]['content']} | {body.get('temperature')}"
        yield StreamingChunk("", meta={"usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}})
"""


def new(name: str, template: str, cwd: Path, **settings: Any) -> str:
    done = pipeline("new", name, "-t", template, cwd=cwd, **settings)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_template_passes_its_own_tests(tmp_path: Path):
    for template in FOLDERS:
        assert f"Test it: pytest pipelines/my-{template}\n" in new(f"my-{template}", template, tmp_path)
        assert (tmp_path / f"pipelines/my-{template}/test_my_{template}.py").is_file()

    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-W", "error"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert not [path for path in tmp_path.rglob(".memory*") if path.is_file()]


@pytest.mark.parametrize("template", _TEMPLATES)
def test_every_template_is_served_at_once_and_answers_as_it_says(server, root, port, tmp_path, template):
    lines = new("mine", template, tmp_path, port=port).splitlines()

    target = "mine.yml" if template == "yaml" else "mine"
    assert lines[0].startswith(f"Created {root}/{target}")
    assert "✓ mine" in lines[1]
    tried = next(line for line in lines if line.startswith("Try it: ")).removeprefix("Try it: ")
    shell = tried.replace("hayhooks", f"echo 'Hello!' | HAYHOOKS_PORT={port} {sys.executable} -m hayhooks", 1)
    done = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if template in CHATS:
        question, answer = CHATS[template]
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question}]
        with OpenAI(base_url=f"{server.url}/v1", api_key="-") as client:
            whole = client.chat.completions.create(model="mine", messages=messages)
            with_usage: ChatCompletionStreamOptionsParam = {"include_usage": True}
            stream = client.chat.completions.create(
                model="mine", messages=messages, stream=True, stream_options=with_usage
            )
            chunks = list(stream)
            text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
            assert answer in text
            assert text == whole.choices[0].message.content
            if template != "yaml":  # Haystack's own stand-in counts nothing in a stream
                assert [chunk.usage.total_tokens > 0 for chunk in chunks if chunk.usage] == [True]
                assert whole.usage is not None
                assert whole.usage.total_tokens > 0
            assert answer in client.responses.create(model="mine", input=question).output_text


@pytest.mark.parametrize("template", [name for name in CHATS if name != "yaml"])
def test_a_real_generator_takes_the_place_of_the_stand_in_by_one_line(root, tmp_path, template):
    replace(tmp_path / "model/pipeline_wrapper.py", MODEL)
    new("mine", template, tmp_path)
    source = (root / "mine/pipeline_wrapper.py").read_text()
    assert source.count("StandInChatGenerator(reply)") == 1
    assert source.count('OpenAIChatGenerator(model="...")') == 1
    with hayhooks.testing.client(tmp_path / "model") as model:
        real = f'OpenAIChatGenerator(model="model", api_key=Secret.from_token("-"), api_base_url="{model.url}/v1")'
        imports = (
            "from haystack.components.generators.chat import OpenAIChatGenerator\nfrom haystack.utils import Secret\n"
        )
        replace(root / "mine/pipeline_wrapper.py", imports + source.replace("StandInChatGenerator(reply)", real))
        with hayhooks.testing.client(root / "mine") as client:
            conversation = [
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "two"},
                {"role": "user", "content": "3"},
            ]
            answers = [client.chat(conversation, stream=stream, temperature=0.5) for stream in (True, False)]

    for answer in answers:
        last, count, _, temperature = answer.text.split(" | ")
        assert (last, count) == (("42", "6") if template == "agent" else ("3", "4"))
        assert temperature == "0.5"
        assert answer.usage is not None
        assert answer.usage["total_tokens"] == (14 if template == "agent" else 7)


def test_a_prompt_or_document_that_is_saved_takes_effect(server, root, port, tmp_path):
    new("mine", "rag", tmp_path, port=port)
    replace(root / "mine/docs/cats.md", "# Cats\n\nCats sleep in the attic.\n")

    server.eventually(lambda: "attic" in server.run("mine", question="Where do cats sleep?")["answer"])


def test_what_is_uploaded_stays_when_the_wrapper_is_saved(server, root, port, tmp_path):
    new("mine", "upload", tmp_path, port=port)
    upload = {"files": ("a.txt", b"The key is with the neighbours.")}
    assert server.client.post("/mine/run", files=upload).json() == {"result": {"a.txt": 1}}
    before = server.state("mine")["revision"]
    with (root / "mine/pipeline_wrapper.py").open("a") as file:
        file.write("# saved\n")
    server.eventually(lambda: server.state("mine")["revision"] != before)

    body = {"model": "mine", "messages": [{"role": "user", "content": "Where is the key?"}]}
    assert "neighbours" in server.client.post("/v1/chat/completions", json=body).text


def test_what_is_remembered_reloads_nothing(server, root, port, tmp_path):
    new("mine", "memory", tmp_path, port=port)
    before = server.status()["generation"]
    for _ in range(3):
        server.run("mine", session="me", message="I like tea.")
    new("other", "echo", tmp_path, port=port)  # so that the server has looked at the directory since

    assert (root / "mine/.memory.sqlite").is_file()
    assert server.status()["generation"] == before + 1
    assert server.run("mine", session="me", message="And?")["messages"] == 8


def test_the_templates_are_those_that_there_are_and_all_are_listed(tmp_path: Path):
    there = {path.stem for path in TEMPLATES.iterdir() if path.stem != "__pycache__"}
    listed = pipeline("new", "--list", cwd=tmp_path).stdout
    page = (Path(hayhooks.__file__).parent.parent / "docs/commands.md").read_text()

    assert there == set(_TEMPLATES)
    assert [line.split()[0] for line in listed.splitlines()] == list(_TEMPLATES)
    help_text = pipeline("new", "--help", cwd=tmp_path).stdout
    for name, about in _TEMPLATES.items():
        assert f"    {name:<8} {about}\n" in help_text
        assert f"| `{name}` | {about} |" in page


@pytest.mark.parametrize(("wrong", "meant"), [("agnt", "agent"), ("RAG", "rag"), ("rags", "rag"), ("ymal", "yaml")])
def test_a_wrong_template_is_told_what_it_may_mean(tmp_path: Path, wrong: str, meant: str):
    done = pipeline("new", "mine", "-t", wrong, cwd=tmp_path)

    assert done.returncode == 2
    assert f"there is no template {wrong!r}; did you mean {meant!r}?" in done.stderr
    assert all(f"\n{name} " in done.stderr for name in _TEMPLATES)
    assert not (tmp_path / "pipelines/mine").exists()


def test_before_a_server_runs_it_says_what_to_do_next(tmp_path: Path):
    (tmp_path / "my pipelines").mkdir()
    done = pipeline("new", "mine", cwd=tmp_path)
    asked = ("--port", "1", "--pipelines-dir", "my pipelines")
    other = pipeline("new", "other", *asked, cwd=tmp_path)
    yaml = pipeline("new", "third", "-t", "yaml", *asked, cwd=tmp_path)

    assert {(run.returncode, run.stderr) for run in (done, other, yaml)} == {(0, "")}
    assert done.stdout.splitlines()[0] == (
        f"Created {tmp_path}/pipelines/mine from echo; edit {tmp_path}/pipelines/mine/pipeline_wrapper.py."
    )
    assert done.stdout.splitlines()[1:] == [
        "Serve it: hayhooks dev",
        "Try it: hayhooks pipeline run mine -p text=hello",
        "Test it: pytest pipelines/mine",
    ]
    assert other.stdout.splitlines()[1:] == [
        "Serve it: hayhooks dev 'my pipelines' --port 1",
        "Try it: hayhooks pipeline run other -p text=hello --port 1",
        "Test it: pytest 'my pipelines/other'",
    ]
    assert yaml.stdout.splitlines()[1:] == [
        "Serve it: hayhooks dev 'my pipelines' --port 1",
        "Try it: hayhooks pipeline run third -p question='Who are you?' --stream --port 1",
    ]


def test_the_name_of_a_template_as_the_name_alone_is_told_apart(tmp_path: Path):
    done = pipeline("new", "rag", cwd=tmp_path)
    same = pipeline("new", "agent", "-t", "agent", cwd=tmp_path)

    assert (done.returncode, same.returncode) == (0, 0)
    assert "pipelines/rag from echo" in done.stdout
    assert "use --template rag" in done.stdout
    assert "another" not in same.stdout


def test_it_repeats_the_address_in_what_it_says(server, root, tmp_path):
    options = ("--host", "127.0.0.1", "--port", str(server.port), "--pipelines-dir", root)
    done = pipeline("new", "mine", *options, cwd=tmp_path)

    tried = next(line for line in done.stdout.splitlines() if line.startswith("Try it: hayhooks "))
    arguments = tried.removeprefix("Try it: hayhooks ").split()
    assert command(*arguments, cwd=tmp_path, PORT="1").stdout == "You said: hello\n"


def test_yaml_is_a_file_that_names_what_it_takes_and_gives(root, tmp_path):
    new("mine", "yaml", tmp_path)

    text = (root / "mine.yml").read_text()
    assert "\ninputs:\n" in text
    assert "\noutputs:\n" in text


def test_an_empty_folder_is_filled(root, tmp_path):
    (root / "mine").mkdir()
    (root / "other").mkdir()
    new("mine", "echo", tmp_path)
    new("other", "yaml", tmp_path)

    assert sorted(path.name for path in root.iterdir()) == ["mine", "other.yml"]
    assert (root / "mine/pipeline_wrapper.py").is_file()


def test_it_does_not_overwrite(root, tmp_path):
    replace(root / "mine.yaml", "x")
    wrapper(root / "other", "1")
    replace(root / "data/file", "x")

    results = [pipeline("new", name, cwd=tmp_path) for name in ("mine", "other", "data")]

    assert [done.returncode for done in results] == [1, 1, 1]
    assert (root / "mine.yaml").read_text() == "x"
    assert all("already exists" in done.stderr for done in results)
    assert sorted(path.name for path in root.iterdir()) == ["data", "mine.yaml", "other"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("status", "belongs to a route of the server (/status): rename it\n"),
        (
            "Mein Bot?",
            "cannot be a part of a URL, because of ' ' '?': use letters, digits, '-', '_' and '.', such as 'Mein-Bot'",
        ),
        ("a/b", "is not a valid name"),
        ("..", "is not a valid name"),
        ("", "is not a valid name"),
        ("_mine", "The server ignores the name '_mine'"),
        ("mine.py", "has the suffix of a file: leave it out"),
        ("x" * 300, "use one of at most 255"),
    ],
)
def test_a_bad_name_is_refused_and_creates_nothing(root, tmp_path, name, why):
    done = pipeline("new", name, "-t", "rag", cwd=tmp_path)

    assert done.returncode in (1, 2)
    assert why in done.stderr
    assert list(root.iterdir()) == []


def test_names_that_are_no_python_have_tests_that_pytest_finds(tmp_path):
    for name in ("v1.2", "été", "a-b"):
        new(name, "echo", tmp_path)
        test = next((tmp_path / "pipelines" / name).glob("test_*.py"))
        assert test.stem.isidentifier()
        assert test.stem.isascii()
