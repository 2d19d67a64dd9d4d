"""``hayhooks dev --try``: requests that are sent again after each save."""

import httpx
import pytest

import hayhooks.testing as hayhooks_testing
from hayhooks import Settings
from hayhooks.cli.client import Server
from hayhooks.cli.dev_output import DevOutput
from hayhooks.cli.try_requests import TryRequest, parsed, tried
from hayhooks.cli.try_requests import _lines as shown_lines
from hayhooks.http.hooks import Hooks
from hayhooks.kernel.state import Change
from tests.cli.commands import hayhooks
from tests.cli.processes import started
from tests.cli.terminal import in_terminal
from tests.live_server import replace
from tests.network import free_port

ECHO = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, text: str):
        return {"text": text, "first": 1, "second": 2}

    def run_chat_completion(self, model, messages, body):
        return "I heard " + messages[-1]["content"]
"""


def test_the_difference_to_the_last_answer_is_shown_after_each_save(tmp_path):
    file = tmp_path / "pipelines/echo/pipeline_wrapper.py"
    replace(file, ECHO)
    (tmp_path / "requests").write_text('# a chat\n\necho {"messages": [{"role": "user", "content": "you"}]}\n')
    arguments = ["dev", "--port", str(free_port()), "--try", "echo", '{"text": "hi"}', "--try-file", "requests"]
    with in_terminal(*arguments, cwd=tmp_path, columns=120) as terminal:
        seen = terminal.shows('    {\n      "text": "hi",', 0)
        seen = terminal.shows("    I heard you\n", seen)
        replace(file, ECHO.replace('"first": 1', '"first": 3').replace("I heard", "I HEARD"))
        seen = terminal.shows('      "text": "hi",\n  -   "first": 1,\n  +   "first": 3,\n      "second": 2', seen)
        seen = terminal.shows("  - I heard you\n  + I HEARD you\n", seen)
        replace(file, ECHO.replace("return {", "return 1 / 0, {"))
        seen = terminal.shows("ZeroDivisionError", seen)
        replace(file, ECHO)
        seen = terminal.shows('  -   "first": 3,\n  +   "first": 1,', seen)
        replace(file, f"{ECHO}\n# said again")
        terminal.shows("  the same answer\n", seen)


def test_a_name_that_is_not_there_is_told(tmp_path):
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", ECHO)
    requests = ("--try", "ecko", "{}", "--try", "nothing-like-it", "{}")
    with in_terminal("dev", "--port", str(free_port()), *requests, cwd=tmp_path, columns=120) as terminal:
        terminal.shows("--try: there is no pipeline 'ecko' yet; did you mean 'echo'?")
        terminal.shows("--try: there is no pipeline 'nothing-like-it' yet; there are: echo")


def test_its_own_requests_are_not_in_the_log_of_level_debug(tmp_path):
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", ECHO)
    requests = ("--try", "echo", '{"text": "hi"}')
    with in_terminal("dev", "--port", str(free_port()), *requests, cwd=tmp_path, columns=120, LOG="DEBUG") as terminal:
        terminal.shows('"text": "hi"')
        assert "HTTP Request" not in terminal.text


@pytest.mark.parametrize("text", ["hi", "[1]", '{"text": ', ""])
def test_a_request_that_is_no_json_object_is_refused(tmp_path, text):
    done = hayhooks("dev", "--try", "echo", text, cwd=tmp_path)

    assert done.returncode == 2
    assert "expected a name and a JSON object" in done.stderr


def test_a_line_that_is_none_is_named(tmp_path):
    (tmp_path / "requests").write_text('echo {"a": 1}\necho\n')
    done = hayhooks("dev", "--try-file", "requests", cwd=tmp_path)

    assert done.returncode == 2
    assert "requests:2: echo" in done.stderr


def test_a_name_is_quoted_in_its_path():
    (request,) = parsed([("a/b c", "{}")], None)

    assert request.path == "/a%2Fb%20c/run"


@pytest.mark.parametrize("body", [{"choices": ["a"]}, {"choices": [{"message": None}]}, {"result": 1, "other": 2}])
def test_an_answer_of_another_shape_is_shown_as_json(body):
    assert "".join(shown_lines(httpx.Response(200, json=body))).startswith(("{", "null"))


def test_what_cannot_be_sent_is_told_and_the_others_are_tried(tmp_path):
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", ECHO)
    requests = ["--try", "echo", '{"text": NaN}', "--try", "echo", '{"text": "hi"}']
    with in_terminal("dev", "--port", str(free_port()), *requests, cwd=tmp_path, columns=120) as terminal:
        seen = terminal.shows("/echo/run: Out of range float values", 0)
        terminal.shows('"text": "hi"', seen)


def test_what_is_loaded_before_the_server_listens_is_tried_when_it_does(tmp_path):
    file, port, hooks = tmp_path / "pipelines/echo/pipeline_wrapper.py", free_port(), Hooks()
    replace(file, ECHO)
    with hayhooks_testing.client(file.parent) as client:
        deployment = client.app.switch.live.snapshot.deployments["echo"]
    server = Server(Settings(port=port, _env_file=None))
    with tried([TryRequest("echo", {"text": "hi"})], hooks, server, DevOutput()):
        hooks.on_change[0](Change("echo", deployment, deployment))
        with started(tmp_path, "run", port=port) as process:
            process.prints("POST /echo/run 200")
