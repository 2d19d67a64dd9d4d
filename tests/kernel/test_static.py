"""Pipelines given in code: served beside the directory's, with the same life cycle."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from hayhooks import BasePipelineWrapper, Settings, YAMLPipelineWrapper, create_app, run_app
from hayhooks.errors import StartError
from tests.cli.processes import environment
from tests.live_server import DEADLINE_S, ECHO, LiveServer, eventually, replace, serving
from tests.network import free_port
from tests.pipelines import ASK, CHAT


class Given(BasePipelineWrapper):
    """Answers what it was made with."""

    def __init__(self, answer: str = "given") -> None:
        self.answer = answer
        self.done: list[str] = []

    def setup(self) -> None:
        self.done.append("setup")

    def check(self) -> None:
        self.done.append("check")

    def teardown(self) -> None:
        self.done.append("teardown")

    def run_api(self, text: str = "") -> str:
        return self.answer + text

    def run_chat_completion(self, model, messages, body) -> str:
        return self.answer


class Broken(Given):
    def setup(self) -> None:
        raise ValueError("no model here")


class Unwilling(Given):
    def check(self) -> None:
        raise ValueError("not good enough")


def app_of(root: Path, pipelines, **settings):
    return create_app(Settings(pipelines_dir=root, _env_file=None, **settings), pipelines=pipelines)


def wrapper_of(server: LiveServer, name: str):
    return server.app.switch.live.snapshot.deployments[name].wrapper


def test_they_are_served_beside_those_of_the_directory(root: Path):
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo'\n" + ECHO)
    with serving(root, app_of(root, {"one": Given, "two": partial(Given, "two")})) as server:
        eventually(lambda: server.client.get("/readyz").status_code == 200)

        assert server.status()["pipelines"] == ["echo", "one", "two"]
        assert [server.run(name, text="!") for name in ("echo", "one", "two")] == ["echo!", "given!", "two!"]
        assert server.state("one")["description"] == "Answers what it was made with."
        assert len(server.state("one")["revision"]) == 12
        body = {"model": "two", "messages": [{"role": "user", "content": "x"}]}
        answer = server.client.post("/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["message"]["content"] == "two"


def test_they_live_as_long_as_the_application(root: Path):
    app = app_of(root, {"one": Given})
    for _ in range(2):  # it can be started again
        with serving(root, app) as server:
            assert server.run("one") == "given"
            wrapper = wrapper_of(server, "one")
            assert wrapper.done == ["setup", "check"]
        assert wrapper.done == ["setup", "check", "teardown"]


def test_there_need_not_be_a_directory(tmp_path: Path):
    root = tmp_path / "nowhere/at/all"
    with serving(root, app_of(root, {"one": Given})) as server:
        assert server.run("one") == "given"
        eventually(lambda: server.client.get("/readyz").status_code == 200)
        assert server.status()["error"] is None


def test_a_directory_that_comes_later_is_served_too(tmp_path: Path):
    root = tmp_path / "later"
    with serving(root, app_of(root, {"one": Given})) as server:
        assert server.run("one") == "given"
        replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo'\n" + ECHO)
        eventually(lambda: server.run("echo") == "echo")
        assert server.run("one") == "given"


@pytest.mark.parametrize(("given", "reason"), [(Broken, "no model here"), (Unwilling, "not good enough")])
def test_one_that_fails_is_a_failure_and_the_others_serve(root: Path, given, reason: str):
    with serving(root, app_of(root, {"bad": given, "one": Given})) as server:
        assert server.run("one") == "given"
        error = eventually(lambda: server.state("bad")["error"])
        assert reason in error.partition("\n")[0]
        assert f"at {__file__}:" in error
        assert server.client.get("/status/bad").status_code == 503
        assert server.client.get("/readyz").status_code == 200


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_claims_the_name_later_is_a_failure_and_takes_nothing_away(root: Path, kind: str):
    path = root / ("one/pipeline_wrapper.py" if kind == "folder" else "one.yml")
    with serving(root, app_of(root, {"one": Given})) as server:
        assert server.run("one") == "given"
        replace(path, "ANSWER = 'folder'\n" + ECHO if kind == "folder" else ASK)
        error = eventually(lambda: server.state("one")["error"])
        assert error.endswith("the name 'one' is taken by a pipeline given in code: rename this one")
        assert server.state("one")["state"] == "stale"
        assert server.run("one") == "given"
        path.unlink()
        eventually(lambda: server.state("one")["state"] == "serving")
        assert server.run("one") == "given"


def test_what_claims_the_name_while_it_is_loaded_does_not_take_its_place(root: Path, tmp_path: Path):
    began, gate = tmp_path / "began", tmp_path / "gate"

    class Slow(Given):
        def setup(self) -> None:
            began.touch()
            eventually(gate.exists)

    with serving(root, app_of(root, {"one": Slow})) as server:
        eventually(began.exists)
        replace(root / "one/pipeline_wrapper.py", "ANSWER = 'folder'\n" + ECHO)
        replace(root / "other/pipeline_wrapper.py", "ANSWER = 'other'\n" + ECHO)
        eventually(lambda: server.run("other") == "other")
        gate.touch()
        eventually(lambda: server.run("one") == "given")
        eventually(lambda: "is taken by a pipeline given in code" in server.state("one")["error"])


def test_a_pipeline_in_yaml_can_be_given(root: Path, tmp_path: Path):
    replace(tmp_path / "ask.yml", ASK)
    pipelines = {
        "file": partial(YAMLPipelineWrapper.from_file, tmp_path / "ask.yml"),
        "text": partial(YAMLPipelineWrapper.from_yaml, ASK, description="Asks."),
        "wrong": partial(YAMLPipelineWrapper.from_yaml, CHAT.replace("parts.Talk", "strangers.Talk")),
    }
    with serving(root, app_of(root, pipelines)) as server:
        for name in ("file", "text"):
            replies = server.run(name, question="x")["llm"]["replies"]
            assert replies[0]["content"] == [{"text": "Q: x"}]
        assert server.state("text")["description"] == "Asks."
        reason = "YAML:3: component 'talk' has the type strangers.Talk, whose module is not trusted"
        assert reason in server.state("wrong")["error"]


@pytest.mark.parametrize(
    ("pipelines", "message"),
    [
        ({"status": Given}, "the name 'status' belongs to a route of the server"),
        ({"a/b": Given}, "the name 'a/b' cannot be a part of a URL"),
        ({"": Given}, "needs a name"),
        ({7: Given}, "needs a name"),
        ({"one": int}, "int does not derive from BasePipelineWrapper"),
        ({"one": Given()}, "is a Given object: give a class"),
        ({"one": "Given"}, "is a str object: give a class"),
    ],
)
def test_what_cannot_be_served_is_told_at_once(root: Path, pipelines, message: str):
    with pytest.raises(StartError, match=message):
        app_of(root, pipelines)


def test_a_class_that_is_in_no_file_can_be_given(root: Path):
    namespace = {"Given": Given, "__name__": "typed_in"}
    exec("class Typed(Given): ...", namespace)
    with serving(root, app_of(root, {"one": namespace["Typed"]})) as server:
        assert server.run("one") == "given"


def test_what_makes_no_wrapper_is_a_failure(root: Path):
    with serving(root, app_of(root, {"one": lambda: 7, "two": Given})) as server:
        assert server.run("two") == "given"
        error = eventually(lambda: server.state("one")["error"])
        assert error.startswith("the pipeline given in code made an object of int, not of BasePipelineWrapper")


def test_an_application_has_its_pipelines_already(root: Path):
    with pytest.raises(TypeError, match="give them to create_app"):
        run_app(app_of(root, {}), pipelines={"one": Given})


SCRIPT = """
from hayhooks import BasePipelineWrapper, run_app

class Given(BasePipelineWrapper):
    def setup(self): print("setup", flush=True)
    def run_api(self) -> str: return "given"
    def teardown(self): print("teardown", flush=True)

run_app(pipelines={"one": Given}, port=PORT)
"""


@pytest.mark.parametrize("claim", ["one/pipeline_wrapper.py", "one.yml", "one.yaml"])
def test_a_name_that_the_directory_has_too_stops_the_start_in_one_line(tmp_path: Path, claim: str):
    replace(tmp_path / "pipelines" / claim, "ANSWER = ''\n" + ECHO if claim.endswith(".py") else ASK)
    (tmp_path / "script.py").write_text(SCRIPT.replace("PORT", str(free_port())))
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    path = tmp_path / "pipelines" / claim.partition("/")[0]

    assert done.returncode != 0
    assert f"{path} and a pipeline given in code both claim the name 'one': rename one of them\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert "setup" not in done.stdout
