"""``hayhooks.testing.client``: what the test of a wrapper uses."""

import asyncio
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionUserMessageParam

import hayhooks.testing
from hayhooks import create_app
from hayhooks.errors import LoadError
from hayhooks.wrapper import BasePipelineWrapper
from tests.live_server import replace
from tests.logs import log_to_stderr

HEAD = """
import os
from collections.abc import Iterator
from hayhooks import BasePipelineWrapper
from hayhooks.events import create_status_event
from hayhooks.open_webui import create_source_event
from starlette.datastructures import UploadFile
"""
ANSWERS = (
    HEAD
    + """
from .table import ANSWER


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        import table

        assert table.ANSWER is ANSWER
        self.closed = False

    def run_api(self, text: str, times: int = 1) -> str:
        if text == "raise":
            return self.look_up({}, text)
        return ANSWER + text * times

    def look_up(self, table, key):
        return table[key]

    def run_chat_completion(self, model, messages, body):
        yield create_status_event("Searching")
        yield "Hello "
        if messages[-1]["content"] == "raise":
            self.look_up({}, "late")
        yield create_source_event({"document": ["a"]})
        yield body.get("name", "you")
"""
)


def write_it(root: Path, wrapper: str) -> None:
    """Write the folder ``it`` with the text of a wrapper, whose imports it gets."""
    replace(root / "it/pipeline_wrapper.py", HEAD + wrapper)


@pytest.fixture
def answers(root: Path) -> Path:
    replace(root / "answers/table.py", "ANSWER = '42 '")
    replace(root / "answers/pipeline_wrapper.py", ANSWERS)
    return root / "answers"


def test_a_folder_is_served_in_this_process(answers: Path):
    with hayhooks.testing.client(answers) as client:
        assert client.name == "answers"
        assert client.run(text="x", times=2) == "42 xx"
        assert client.post("/answers/run", json={"text": "y"}).json() == {"result": "42 y"}
        assert client.get("/status").json()["pipelines"] == ["answers"]
        assert client.wrapper().closed is False
        url = client.url

    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/status")


def test_a_chat_is_the_same_streamed_and_whole(answers: Path):
    with hayhooks.testing.client(str(answers)) as client:
        whole = client.chat("Who?", name="Anna")
        streamed = client.chat([{"role": "user", "content": "Who?"}], stream=True, name="Anna")

    assert (whole.text, str(streamed)) == ("Hello Anna", "Hello Anna")
    assert (whole.finish_reason, streamed.finish_reason) == ("stop", "stop")
    assert [event["type"] for event in streamed.events] == ["status", "source"]
    assert streamed.sources == [{"document": ["a"]}]
    assert streamed.usage is not None
    assert (whole.chunks, len(streamed.chunks) > 3) == ([], True)


def test_tool_calls_are_the_same_streamed_and_whole(root: Path):
    write_it(
        root,
        """
from haystack.dataclasses import StreamingChunk, ToolCallDelta


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): ...

    def run_chat_completion(self, model, messages, body):
        for index, name in enumerate(["left", "right"]):
            yield StreamingChunk("", index=index, tool_calls=[ToolCallDelta(index, name, '{"a"', id=f"call_{index}")])
            yield StreamingChunk("", index=index, tool_calls=[ToolCallDelta(index, None, ": 1}")])
""",
    )
    with hayhooks.testing.client(root / "it") as client:
        whole, streamed = client.chat("x"), client.chat("x", stream=True)

    assert [call["function"] for call in whole.tool_calls] == [
        {"name": "left", "arguments": '{"a": 1}'},
        {"name": "right", "arguments": '{"a": 1}'},
    ]
    assert streamed.tool_calls == whole.tool_calls
    deltas = [choice["delta"] for chunk in streamed.chunks for choice in chunk["choices"]]
    parts = [part for delta in deltas for part in delta.get("tool_calls") or ()]
    assert {part["index"] for part in parts} == {0, 1}
    assert "".join(part["function"]["arguments"] for part in parts) == '{"a": 1}' * 2
    assert (streamed.finish_reason, whole.finish_reason) == ("tool_calls", "tool_calls")


def test_what_a_wrapper_raises_is_the_cause(answers: Path):
    with hayhooks.testing.client(answers) as client:
        for ask in (
            lambda: client.run(text="raise"),
            lambda: client.chat("raise"),
            lambda: client.chat("raise", stream=True),
        ):
            with pytest.raises(httpx.HTTPStatusError, match="KeyError: '") as raised:
                ask()
            cause = raised.value.__cause__
            assert isinstance(cause, KeyError)
            assert cause.__traceback__ is not None
            assert cause.__traceback__.tb_frame.f_code.co_filename == str(answers / "pipeline_wrapper.py")


def test_a_refused_request_says_why(answers: Path):
    with hayhooks.testing.client(answers) as client:
        with pytest.raises(httpx.HTTPStatusError, match=r"POST /answers/run: 422: .*'times'.*valid integer") as raised:
            client.run(text="x", times="many")
        with pytest.raises(httpx.HTTPStatusError, match=r"404: .*'other'"):
            client.chat("x", model="other", stream=True)

    assert raised.value.response.status_code == 422
    assert raised.value.__cause__ is None


def test_uploads_are_paths_files_and_pairs(root: Path, tmp_path: Path):
    write_it(
        root,
        """
class PipelineWrapper(BasePipelineWrapper):
    def setup(self): ...

    async def run_api_async(self, files: list[UploadFile], meta: dict, title: str) -> dict:
        return {"meta": meta, "title": title} | {file.filename: (await file.read()).decode() for file in files}
""",
    )
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    with hayhooks.testing.client(root / "it") as client, (tmp_path / "b.txt").open("rb") as opened:
        answer = client.run(files=[tmp_path / "a.txt", opened, ("c.txt", b"three")], meta={"x": [1]}, title="2")

    assert answer == {"meta": {"x": [1]}, "title": "2", "a.txt": "one", "b.txt": "two", "c.txt": "three"}


def test_a_response_of_the_wrappers_own_is_returned_as_json_or_text(root: Path):
    write_it(
        root,
        """
from starlette.responses import JSONResponse, PlainTextResponse


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): ...

    def run_api(self, content: list | str):
        return JSONResponse(content) if isinstance(content, list) else PlainTextResponse(content)
""",
    )
    with hayhooks.testing.client(root / "it") as client:
        assert (client.run(content=[1]), client.run(content="x")) == ([1], "x")


def test_the_text_of_a_stream_is_returned(root: Path):
    write_it(
        root,
        """
class PipelineWrapper(BasePipelineWrapper):
    def setup(self): ...

    def run_api(self) -> Iterator[str]:
        yield from "abc"
""",
    )
    with hayhooks.testing.client(root / "it") as client:
        assert client.run() == "abc"


def test_a_stream_arrives_while_it_is_made_and_ends_with_its_client(root: Path):
    write_it(
        root,
        """
import asyncio


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.is_closed = False

    async def run_api_async(self):
        try:
            yield "first"
            await asyncio.sleep(600)
        finally:
            self.is_closed = True
""",
    )
    with hayhooks.testing.client(root / "it") as client:
        wrapper = client.wrapper()
        with client.stream("POST", "/it/run", json={}) as response:
            assert next(response.iter_text()) == "first"
    assert wrapper.is_closed


def test_a_yaml_pipeline_is_served(root: Path):
    replace(
        root / "say.yml",
        """
components:
  prompt:
    type: haystack.components.builders.prompt_builder.PromptBuilder
    init_parameters: {template: "Say {{ text }}", required_variables: [text]}
connections: []
inputs: {text: prompt.text}
outputs: {answer: prompt.prompt}
""",
    )
    with hayhooks.testing.client(root / "say.yml") as client:
        assert client.run(text="it")["prompt"]["prompt"] == "Say it"


def test_a_directory_is_served_whole(answers: Path, root: Path):
    replace(root / "other/pipeline_wrapper.py", ANSWERS)
    replace(root / "other/table.py", "ANSWER = '43 '")
    with hayhooks.testing.client(root) as client:
        assert client.name == ""
        assert client.run("answers", text="x") == "42 x"
        assert client.run("other", text="x") == "43 x"
        assert client.chat("x", model="other").text == "Hello you"
        assert client.wrapper("other") is not client.wrapper("answers")
        with pytest.raises(ValueError, match="say which pipeline is meant: answers, other"):
            client.run(text="x")


def test_an_application_is_served(root: Path):
    class Wrapper(BasePipelineWrapper):
        def setup(self) -> None: ...

        def run_api(self, text: str) -> str:
            return text

    app = create_app(hayhooks.Settings(pipelines_dir=root, _env_file=None), pipelines={"given": Wrapper})

    @app.get("/ping")
    def ping() -> str:
        return "pong"

    with hayhooks.testing.client(app) as client:
        assert client.run(text="x") == "x"
        assert "pong" in client.get("/ping").text


def test_two_clients_serve_at_a_time(answers: Path, tmp_path: Path):
    replace(tmp_path / "more/answers/pipeline_wrapper.py", ANSWERS)
    replace(tmp_path / "more/answers/table.py", "ANSWER = '43 '")
    with (
        hayhooks.testing.client(answers) as one,
        hayhooks.testing.client(tmp_path / "more/answers") as other,
    ):
        assert (one.run(text="x"), other.run(text="x")) == ("42 x", "43 x")
    with hayhooks.testing.client(answers) as again:
        assert again.run(text="x") == "42 x"


def test_every_client_of_openai_can_ask(answers: Path):
    async def ask() -> str:
        async with AsyncOpenAI(base_url=f"{client.url}/v1", api_key="-") as asking:
            stream = await asking.chat.completions.create(model="answers", messages=[question], stream=True)
            return "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])

    question: ChatCompletionUserMessageParam = {"role": "user", "content": "Who?"}
    with hayhooks.testing.client(answers) as client:
        answer = client.openai.chat.completions.create(model=client.name, messages=[question])
        assert answer.choices[0].message.content == "Hello you"
        assert asyncio.run(ask()) == "Hello you"
        assert [model.id for model in client.openai.models.list()] == ["answers"]


def test_a_load_that_fails_raises_with_reason_file_line_and_hint(answers: Path, root: Path):
    path = answers / "table.py"
    replace(path, "import trafilatura")
    with pytest.raises(LoadError, match=r"answers does not load: ModuleNotFoundError.*trafilatura") as raised:
        hayhooks.testing.client(answers).__enter__()

    assert raised.value.place is not None
    assert (raised.value.place.file, raised.value.place.line) == (str(path), 1)
    assert raised.value.__notes__ == [f"at {path}:1: import trafilatura", "hint: pip install trafilatura"]
    assert not [thread for thread in threading.enumerate() if thread.name == "hayhooks testing"]

    replace(root / "other/pipeline_wrapper.py", "1 / 0")
    with (
        pytest.raises(ExceptionGroup, match="2 of 2 pipelines do not load") as several,
        hayhooks.testing.client(root),
    ):
        pass
    assert [str(error).partition(" ")[0] for error in several.value.exceptions] == ["answers", "other"]


def test_pytest_shows_what_is_wrong_and_nothing_of_ours(answers: Path, tmp_path: Path):
    replace(answers / "test_answers.py", TESTS)
    replace(tmp_path / "broken/pipeline_wrapper.py", "import trafilatura")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(answers)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    assert "4 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith(("E  ", ">  "))]
    assert [line.strip("E> ") for line in shown if line.strip("E> ")] == [
        "client.run(text='x', times='many')",
        "httpx.HTTPStatusError: POST /answers/run: 422: [{'type': 'int_parsing', 'loc': ['body', 'times'], 'msg': "
        "'Input should be a valid integer, unable to parse string as an integer', 'input': 'many'}]",
        "return self.look_up({}, text)",
        "return table[key]",
        "KeyError: 'raise'",
        "client.run(text='raise')",
        "httpx.HTTPStatusError: POST /answers/run: 500: Pipeline execution failed: KeyError: 'raise'",
        "with hayhooks.testing.client('broken'):",
        "hayhooks.errors.LoadError: broken does not load: ModuleNotFoundError: No module named 'trafilatura'",
        f"at {tmp_path}/broken/pipeline_wrapper.py:1: import trafilatura",
        "hint: pip install trafilatura",
        "assert client.chat('Who?').text == 'Hello'",
        "AssertionError: assert 'Hello you' == 'Hello'",
        "- Hello",
        "+ Hello you",
    ]


def test_failures_are_shown_in_few_lines_with_the_users_own_first(root: Path):
    replace(root / "joins/pipeline_wrapper.py", STREAMS.replace("BROKEN", "'-'.join(5)"))
    replace(root / "raises/pipeline_wrapper.py", STREAMS.replace("BROKEN", "look_up()"))
    replace(root / "agent/pipeline_wrapper.py", AGENT)
    replace(root / "test_all.py", TESTS_OF_STREAMS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "."]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)

    assert "3 failed" in done.stdout, done.stdout + done.stderr
    assert "site-packages" not in done.stdout
    _, joins, raises, agent = re.split(r"^___.*test_chat\[.*___$", done.stdout, flags=re.MULTILINE)
    for shown, message in ((joins, "TypeError: can only join an iterable"), (raises, "ValueError: no such thing")):
        assert len(shown.splitlines()) < 65, shown
        assert f" httpx.HTTPStatusError: POST /v1/chat/completions: the stream failed: {message}" in shown
        first_place = next(line for line in shown.splitlines() if ".py:" in line)
        assert re.match(r"(joins|raises)/pipeline_wrapper\.py:", first_place)
        logged = shown.partition("Captured stderr call")[2]
        assert f": the answer failed in mid-stream: {message}, in MockChatGenerator of component 'llm'" in logged
        assert "a word of the wrapper's own" in logged
    logged = agent.partition("Captured stderr call")[2]
    assert "NameError: name 'nothing' is not defined" in logged
    assert "agent/pipeline_wrapper.py:12: return nothing" in logged


AGENT = """
from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import tool
from hayhooks import BasePipelineWrapper
from hayhooks.testing.components import StandInChatGenerator


@tool
def search(text: str) -> str:
    \"\"\"Search.\"\"\"
    return nothing


def reply(messages):
    call = ChatMessage.from_assistant(tool_calls=[ToolCall("search", {"text": "x"})])
    return "done" if messages[-1].tool_call_result else call


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.agent = Agent(chat_generator=StandInChatGenerator(reply), tools=[search])

    def run_chat_completion(self, model, messages, body):
        return self.agent.run(messages=[ChatMessage.from_user("x")])["last_message"].text
"""

STREAMS = """
from haystack import Pipeline
from hayhooks import BasePipelineWrapper, async_streaming_generator, chat_messages_from_openai, log
from hayhooks.testing.components import StandInChatGenerator


def look_up():
    try:
        {}["nothing"]
    except KeyError as error:
        raise ValueError("no such thing") from error


def reply(messages):
    log.info("a word of the wrapper's own")
    return BROKEN


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("llm", StandInChatGenerator(reply))

    async def run_chat_completion_async(self, model, messages, body):
        yield "first"
        arguments = {"llm": {"messages": chat_messages_from_openai(messages)}}
        async for chunk in async_streaming_generator(self.pipeline, pipeline_run_args=arguments):
            yield chunk
"""

TESTS_OF_STREAMS = """
import hayhooks.testing
import pytest

@pytest.mark.parametrize("name", ["joins", "raises", "agent"])
def test_chat(name):
    with hayhooks.testing.client(name) as client:
        assert client.chat("Who?", stream=True) == 1
"""

TESTS = """
from pathlib import Path

import hayhooks.testing
import pytest


@pytest.fixture(scope="module")
def client():
    with hayhooks.testing.client(Path(__file__).parent) as client:
        yield client

def test_it_answers(client):
    assert client.run(text="x") == "42 x"

def test_422(client):
    client.run(text='x', times='many')

def test_500(client):
    client.run(text='raise')

def test_load():
    with hayhooks.testing.client('broken'):
        pass

def test_chat(client):
    assert client.chat('Who?').text == 'Hello'
"""


@pytest.mark.parametrize(
    ("files", "target", "message"),
    [
        ({}, "missing", "missing does not exist"),
        ({"it/notes.md": ""}, "it", r"it has no wrapper \(NAME/pipeline_wrapper.py\) and no YAML pipeline"),
        ({"it/pipeline_wraper.py": ""}, "it", "rename pipeline_wraper.py to pipeline_wrapper.py"),
        ({"notes.md": ""}, "notes.md", "neither a directory nor a YAML pipeline"),
    ],
)
def test_a_wrong_path_says_what_is_accepted(root: Path, files: dict[str, str], target: str, message: str):
    for name, content in files.items():
        replace(root / name, content)
    if target == "it":
        (root / "it/data").mkdir()
    with pytest.raises(FileNotFoundError, match=message), hayhooks.testing.client(root / target):
        pass


def test_a_load_that_does_not_end_says_where_it_is(root: Path):
    write_it(
        root,
        """
import threading

waits = threading.Event()


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        waits.wait(60)
""",
    )
    with (
        pytest.raises(TimeoutError, match=r"not loaded after 0.5 s: it .*setup\(\).*pipeline_wrapper.py:\d+"),
        hayhooks.testing.client(root / "it", timeout_s=0.5, graceful_shutdown_timeout=0),
    ):
        pass


def test_a_client_must_be_entered(answers: Path):
    with pytest.raises(RuntimeError, match="nothing is served yet"):
        hayhooks.testing.client(answers).get("/status")


def test_settings_of_the_environment_hold_but_those_of_the_address(
    answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    replace(tmp_path / ".env", "HAYHOOKS_ADDITIONAL_PYTHON_PATH=shared\nHAYHOOKS_API_KEYS=secret\nCITY=Ghent\n")
    replace(tmp_path / "shared/common_words.py", "import os\nANSWER = os.environ['CITY']\n")
    replace(answers / "table.py", "from common_words import ANSWER")
    with hayhooks.testing.client(answers) as client:
        assert client.run(text="!") == "Ghent!"
    assert "CITY" not in os.environ
    with hayhooks.testing.client(answers, api_keys=["k"]) as client:
        assert client.get("/models").status_code == 401
        assert client.get("/models", headers={"Authorization": "Bearer k"}).status_code == 200


def test_a_setting_that_there_is_not_is_refused(answers: Path):
    with pytest.raises(TypeError, match="concurency"):
        hayhooks.testing.client(answers, concurency=1)


def test_what_a_wrapper_imports_can_be_replaced_before_it_is_loaded(root: Path, monkeypatch: pytest.MonkeyPatch):
    replace(
        root / "talk/pipeline_wrapper.py",
        """
from haystack import Pipeline
from haystack.components.generators.chat import OpenAIChatGenerator
from hayhooks import BasePipelineWrapper, chat_messages_from_openai, streaming_generator


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("llm", OpenAIChatGenerator(model="large"))

    def run_chat_completion(self, model, messages, body):
        llm = {"messages": chat_messages_from_openai(messages)}
        return streaming_generator(self.pipeline, pipeline_run_args={"llm": llm})
""",
    )
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(LoadError, match="OPENAI_API_KEY"), hayhooks.testing.client(root / "talk"):
        pass
    page = (Path(hayhooks.__file__).parent.parent / "docs/testing.md").read_text()
    test = next(block for block in page.split("```python\n") if "stand_in" in block).partition("```")[0]
    test += "\n\ndef test_it(client):\n    assert client.chat('x').text == 'You said: x'\n"
    replace(root / "talk/test_talk.py", test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(root / "talk")]
    done = subprocess.run(command, cwd=root.parent, capture_output=True, text=True, check=False, timeout=60)

    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_folder_that_the_test_is_in_is_served(answers: Path, monkeypatch: pytest.MonkeyPatch):
    (answers / "tests").mkdir()
    for directory, path in ((answers, "."), (answers / "tests", "..")):
        monkeypatch.chdir(directory)
        with hayhooks.testing.client(path) as client:
            assert client.name == "answers"


def test_a_wrapper_that_removes_the_sinks_of_the_log_is_served(root: Path):
    source = """
class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        log.remove()

    def run_api(self):
        return {}["key"]
"""
    replace(root / "it/pipeline_wrapper.py", f"{HEAD}from hayhooks import log\n{source}")
    try:
        with hayhooks.testing.client(root / "it") as client, pytest.raises(httpx.HTTPStatusError, match="KeyError"):
            client.run()
    finally:
        log_to_stderr()


def test_what_the_test_raises_is_raised(answers: Path):
    for error in (ValueError, KeyError, OSError):
        with pytest.raises(error), hayhooks.testing.client(answers):
            raise error
