"""The mistakes of every day, as `hayhooks dev` shows them in a terminal of 80 columns: never more than 15 lines."""

import itertools
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.cli.terminal import Terminal, in_terminal
from tests.live_server import eventually, replace
from tests.network import free_port

COLUMNS = 80

WRAPPER = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, text: str = "") -> str:
        return text
"""
PIPELINE = '''
from haystack import Pipeline, component
from haystack.components.builders import PromptBuilder

from hayhooks import BasePipelineWrapper

TEMPLATE = """Answer:
{{ question.text }}
"""


@component
class Model:
    @component.output_types(reply=str)
    def run(self, prompt: str):
        try:
            return {"reply": {}["choices"]}
        except KeyError as error:
            raise ValueError("the model has not answered") from error


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("prompt", PromptBuilder(TEMPLATE))
        self.pipeline.add_component("llm", Model())
        self.pipeline.connect("prompt", "llm.prompt")

    def run_api(self, text: str):
        return self.pipeline.run({"prompt": {"question": {"text": text}}})

    def run_chat_completion(self, model, messages, body):
        yield "Well"
        raise RuntimeError("the connection to the model is lost")
'''
YAML = """components:
  prompt:
    type: haystack.components.builders.prompt_builder.PromptBuilder
    init_parameters:
      template: |
        Answer:
        {{ question.text.first.second }}
connections: []
inputs:
  question: prompt.question
outputs:
  prompt: prompt.prompt
"""


class Dev:
    """A running ``hayhooks dev``: what it shows after each step."""

    def __init__(self, terminal: Terminal, root: Path, url: str) -> None:
        self.terminal = terminal
        self.root = root
        self.url = url
        self._steps = itertools.count()
        self._at = 0

    def write(self, name: str, wrapper: str = WRAPPER) -> Path:
        path = self.root / name / "pipeline_wrapper.py"
        replace(path, wrapper)
        return path

    def run(self, name: str, **arguments: object) -> httpx.Response:
        return httpx.post(f"{self.url}/{name}/run", json=arguments, timeout=30)

    def forget(self, names: Iterable[str]) -> None:
        """Wait until *names* are removed."""
        for name in names:
            self.terminal.shows(f"- {name}  removed", self._at)
        self.shows("", most=1_000)

    def shows(self, text: str, most: int = 15) -> list[str]:
        """Wait for *text*; return all lines of the screen since the last step, *most* of them."""
        self.terminal.shows(text, self._at)
        path = f"/step-{next(self._steps)}"
        httpx.post(self.url + path, timeout=30)
        begin, self._at = self._at, self.terminal.shows(f"→ POST {path}  404", self._at)
        eventually(lambda: "\n" in self.terminal.text[self._at :])
        self._at = self.terminal.text.index("\n", self._at) + 1
        shown = self.terminal.text[begin : self._at].partition(f"→ POST {path}")[0].splitlines()
        lines = [line[at : at + COLUMNS] for line in shown for at in range(0, max(len(line), 1), COLUMNS)]
        assert len(lines) <= most, "\n".join(lines)
        return lines


@pytest.fixture(scope="module")
def dev_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    tmp_path, port = tmp_path_factory.mktemp("dev"), free_port()
    (tmp_path / "pipelines").mkdir()
    with in_terminal("dev", cwd=tmp_path, columns=COLUMNS, PORT=str(port), REMOVAL_GRACE_MS="20") as terminal:
        terminal.shows("h + Enter")
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200, "the server to be ready", 30)
        running = Dev(terminal, tmp_path / "pipelines", url)
        running.shows("", most=10_000)
        yield running


@pytest.fixture
def dev(dev_of_all: Dev) -> Iterator[Dev]:
    yield dev_of_all
    before = httpx.get(f"{dev_of_all.url}/status").json()["deployments"]
    for path in dev_of_all.root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    dev_of_all.forget(each["name"] for each in before if each["state"] != "loading")


LOADS = {  # the wrapper, a line of it, and what is shown
    "typo in an import": (
        WRAPPER.replace("import Base", "import Bas"),
        "from hayhooks import",
        ["hint: did you mean `from hayhooks import BasePipelineWrapper`?"],
    ),
    "typo in a module": (
        "from haystack.components.buildrs import PromptBuilder\n" + WRAPPER,
        "buildrs",
        ["ModuleNotFoundError: No module named 'haystack.components.buildrs'", "hint: did you mean `builders`?"],
    ),
    "missing package": (
        "import nothing_of_this_name\n" + WRAPPER,
        "import nothing_of_this_name",
        ["hint: install the package that provides `nothing_of_this_name`; if"],
    ),
    "wrong annotation": (
        WRAPPER.replace("text: str", "text: Strr"),
        "def run_api",
        ["NameError: name 'Strr' is not defined", "hint: did you mean str?"],
    ),
    "typo in a name": (
        WRAPPER.replace("pass", "pipeline = 1; pipelin"),
        "pipelin",
        ["NameError: name 'pipelin' is not defined", "hint: did you mean pipeline?"],
    ),
    "wrong socket": (
        PIPELINE.replace("llm.prompt", "llm.promt"),
        "self.pipeline.connect",
        [
            "PipelineConnectError: 'llm.promt does not exist. Input connections of llm are: prompt (type str)",
            "hint: did you mean 'llm.prompt'?",
        ],
    ),
    "wrong socket of a sender": (
        PIPELINE.replace('connect("prompt"', 'connect("prompt.promt"'),
        "self.pipeline.connect",
        ["hint: did you mean 'prompt.prompt'?"],
    ),
    "wrong name of setup": (
        WRAPPER.replace("def setup", "def setpu"),
        "def setpu",
        ["PipelineWrapper has no setup()", "hint: did you mean setup() instead of setpu()?"],
    ),
    "no setup": (
        WRAPPER.replace("def setup", "def prepare"),
        "class PipelineWrapper",
        ["PipelineWrapper has no setup()"],
    ),
    "type of JSON Schema": (
        WRAPPER.replace("text: str", "text: list['string']"),
        "def run_api",
        [
            "run_api(): the annotation of parameter 'text', list['string'], cannot be resolved",
            "hint: did you mean str?",
        ],
    ),
    "self is forgotten": (
        WRAPPER.replace("self, text", "text"),
        "def run_api",
        ["run_api() lacks self: write `def run_api(self, text)`"],
    ),
    "self is forgotten in setup": (
        WRAPPER.replace("def setup(self)", "def setup()"),
        "def setup",
        ["setup() lacks self: write `def setup(self)`"],
    ),
    "wrong template": (
        PIPELINE.replace("{{ question.text }}", "{{ question.text }"),
        "{{ question.text }",
        ["TemplateSyntaxError: unexpected '}', in line 2 of the template"],
    ),
}


@pytest.mark.parametrize("mistake", LOADS)
def test_mistakes_that_a_load_shows(dev: Dev, mistake: str):
    wrapper, source, told = LOADS[mistake]
    path = dev.write("mine", wrapper)
    lines = dev.shows("✗ mine")

    assert_shown(lines, path, source, *told)
    if "Error: " in told[0]:
        assert "full traceback: t + Enter" in joined(lines)


PROMPT = """Answer.
{% for document in documents %}
- {{ document.content }}
{% endfor %}
{{ question | upper }}
"""
WITH_PROMPT = """
from pathlib import Path

from haystack import Pipeline
from haystack.components.builders import PromptBuilder

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        text = Path(__file__).with_name("prompt.jinja").read_text()
        self.pipeline.add_component("prompt", PromptBuilder(text))

    def run_api(self, text: str):
        return self.pipeline.run({"prompt": {"documents": [], "question": text}})
"""
PROMPTS = {  # what is wrong in the file, and what is shown
    "filter": ("upper", "uper", "No filter named 'uper', in line 5 of the template", "did you mean upper?"),
    "tag": ("{% endfor %}", "{% endfr %}", "unknown tag 'endfr'", "did you mean endfor?"),
    "open block": (
        "{% endfor %}\n{{ question | upper }}",
        "{{ question | upper }}",
        "needs to be closed is 'for'",
        "hint: {% for %} of line 2 has no {% endfor %}",
    ),
    "variable": (
        "document.content",
        "documnt.content",
        "Missing mandatory input 'documnt'",
        "did you mean 'document'?",
    ),
}


@pytest.mark.parametrize("mistake", PROMPTS)
def test_mistakes_in_a_prompt_file(dev: Dev, mistake: str):
    right, wrong, *told = PROMPTS[mistake]
    prompt = dev.root / "mine/prompt.jinja"
    replace(prompt, PROMPT.replace(right, wrong))
    dev.write("mine", WITH_PROMPT)
    dev.shows("mine")
    if mistake == "variable":
        dev.run("mine", text="x")
        lines = dev.shows("→ POST /mine/run  500")
    else:
        dev.write("mine", WITH_PROMPT + "\n")
        lines = dev.shows("✗ mine")

    assert_shown(lines, prompt, wrong, *told)


def test_a_wrong_name_of_the_wrapper_file(dev: Dev):
    replace(dev.root / "mine/wrapper.py", WRAPPER)

    assert "rename wrapper.py to pipeline_wrapper.py" in joined(dev.shows("is not deployed"))


BAD_YAML = {
    "syntax": ("connections: []", "connections: [", "question: prompt.question", "ask.yml:10: invalid YAML: while"),
    "key": ("components:", ".component:", ".component:", "did you mean 'components' instead of '.component'?"),
    "type": (
        "PromptBuilder",
        "PromtBuilder",
        "type:",
        "did you mean haystack.components.builders.prompt_builder.Promp",
    ),
    "template": ("{{ question.text.first.second }}", "{% if x %}", "{% if x %}", "ask.yml:7: component 'prompt' (Prom"),
    "filter": ("first.second", "first | uper", "uper", "hint: did you mean upper?"),
    "socket": ("prompt.question", "prompt.qestion", "question:", "no input 'qestion'; did you mean 'question'?"),
}


@pytest.mark.parametrize("mistake", BAD_YAML)
def test_bad_yaml(dev: Dev, mistake: str):
    right, wrong, source, told = BAD_YAML[mistake]
    replace(dev.root / "ask.yml", YAML.replace(right, wrong, 1))
    lines = dev.shows("✗ ask")

    assert_shown(lines, dev.root / "ask.yml", source, told)


REQUESTS = {  # the wrapper, a line of it, and what is shown
    "exception in a component": (
        PIPELINE,
        "raise ValueError(",
        [
            "✗ /mine/run failed: ValueError: the model has not answered, in component 'llm' (Model)",
            "caused by KeyError: 'choices' (pipeline_wrapper.py:17)",
        ],
    ),
    "error in a template": (
        PIPELINE.replace("question.text", "question.text.first.second"),
        "question.text.first.second",
        ["UndefinedError: 'str object' has no attribute 'first', in line 2 of the template of component 'prompt'"],
    ),
    "typo in a socket": (
        PIPELINE.replace('"question": {"text"', '"qestion": {"text"'),
        "return self.pipeline.run",
        ["ValueError: Input 'qestion' not found in component 'prompt'", "hint: did you mean 'question'?"],
    ),
    "typo in a name": (
        WRAPPER.replace("return text", "return txet"),
        "return txet",
        ["NameError: name 'txet' is not defined", "hint: did you mean text?"],
    ),
    "typo in an attribute": (
        WRAPPER.replace("return text", "return text.uper()"),
        "return text.uper",
        ["AttributeError: 'str' object has no attribute 'uper'", "hint: did you mean upper?"],
    ),
    "forgotten await": (
        WRAPPER.replace("-> str", "").replace("return text", "return {'sources': [{'score': self.score()}]}")
        + "\n    async def score(self):\n        return 1\n",
        "return {'sources'",
        ["cannot be encoded as JSON: result.sources[0].score: a coroutine (forgot await?)"],
    ),
    "not serialisable": (
        "class Score: pass\n" + WRAPPER.replace("-> str", "").replace("return text", "return {'score': Score()}"),
        "return {'score'",
        ["cannot be encoded as JSON: result.score: a pipeline_wrapper.Score (it has no to_dict)"],
    ),
    "bytes": (
        WRAPPER.replace("return text", "return b'\\xff'"),
        "return b",
        ["cannot be encoded as JSON: result: bytes that are no UTF-8"],
    ),
    "wrong result": (
        WRAPPER.replace("-> str", "-> dict[str, int]").replace("return text", "return {'a': 'many'}"),
        "return {'a'",
        ["annotation `-> dict[str, int]` does not allow: result.a: Input should be a valid integer"],
    ),
    "forgotten return": (
        WRAPPER.replace("return text", "text.upper()"),
        "def run_api",
        ["run_api() returned None (forgot return?), which its annotation `-> str` does not allow"],
    ),
    "forgotten await of a result": (
        WRAPPER.replace("return text", "return self.answer()['text']")
        + "\n    async def answer(self):\n        return {'text': 1}\n",
        "return self.answer()",
        [
            "TypeError: 'coroutine' object is not subscriptable",
            "hint: a coroutine is no result yet: await it, in `async def run_api_async`",
        ],
    ),
    "missing package": (
        WRAPPER.replace("return text", "import nothing_of_this_name"),
        "import nothing_of_this_name",
        ["hint: install the package that provides `nothing_of_this_name`; if"],
    ),
    "several at once": (
        WRAPPER.replace("return text", "raise ExceptionGroup('all', [KeyError('a'), OSError('b')])"),
        "raise ExceptionGroup",
        ["1 of 2 KeyError: 'a'", "2 of 2 OSError: b"],
    ),
    "error while another is handled": (
        WRAPPER.replace("return text", "try: {}['a']\n        except KeyError: return 1 / 0"),
        "return 1 / 0",
        ["ZeroDivisionError: division by zero", "while handling KeyError: 'a'"],
    ),
    "many causes and a long text": (
        WRAPPER.replace("return text", "self.fail(9)")
        + "\n    def fail(self, left):"
        + "\n        try:\n            self.fail(left - 1) if left else {}['a']"
        + "\n        except Exception as error:\n            raise ValueError(f'no {left} ' * 300) from error\n",
        "raise ValueError",
        ["... 8 more ...", "caused by KeyError: 'a'"],
    ),
}


@pytest.mark.parametrize("mistake", REQUESTS)
def test_mistakes_that_a_request_shows(dev: Dev, mistake: str):
    wrapper, source, told = REQUESTS[mistake]
    path = dev.write("mine", wrapper)
    dev.shows("✓ mine")
    answer = dev.run("mine", text="x")
    lines = dev.shows("→ POST /mine/run  500")

    assert answer.status_code == 500
    assert_shown(lines, path, source, *told)
    if "full traceback" in joined(lines):
        dev.terminal.type("t")
        assert "_hayhooks_" not in joined(dev.shows("Traceback (most recent call last):", most=1_000))


AGENT = """
from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import tool

from hayhooks import BasePipelineWrapper
from hayhooks.testing.components import StandInChatGenerator

PRICES = {"tea": 3}


@tool
def price_of(article: str) -> int:
    'Price of an article.'
    return PRICES[article]


def reply(messages):
    if messages[-1].tool_call_results:
        return "Sorry."
    return ChatMessage.from_assistant(tool_calls=[ToolCall("price_of", {"article": "coffee"})])


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.agent = Agent(chat_generator=StandInChatGenerator(reply), tools=[price_of])

    def run_api(self, text: str = ""):
        return self.agent.run(messages=[ChatMessage.from_user(text)])["last_message"].text
"""
ASYNC_AGENT = AGENT.replace("def run_api", "async def run_api_async").replace(
    'self.agent.run(messages=[ChatMessage.from_user(text)])["',
    '(await self.agent.run_async(messages=[ChatMessage.from_user(text)]))["',
)


@pytest.mark.parametrize("wrapper", [AGENT, ASYNC_AGENT], ids=["sync", "async"])
def test_a_tool_that_fails_while_its_agent_goes_on(dev: Dev, wrapper: str):
    path = dev.write("mine", wrapper)
    dev.shows("✓ mine")
    answer = dev.run("mine")
    lines = dev.shows("→ POST /mine/run  200")

    assert answer.json() == {"result": "Sorry."}
    assert lines[0] == "✗ mine: KeyError: 'coffee', in tool 'price_of'"
    assert_shown(lines, path, "return PRICES", "full traceback: t + Enter", "the Agent goes on: its model is told")
    dev.terminal.type("t")
    shown = dev.shows("ToolInvocationError: Failed to invoke", most=1_000)
    number = wrapper.splitlines().index("    return PRICES[article]") + 1
    assert "".join(shown).replace(" ", "").endswith(f"yourcode:{path}:{number}:returnPRICES[article]")
    assert re.match(rf"mine, request {answer.headers['x-request-id']}, at \d\d:\d\d:\d\d$", shown[1])
    assert "hayhooks/kernel" not in joined(shown)


CHAT = """
from haystack import Pipeline
from haystack.components.agents import Agent
from haystack.components.builders import ChatPromptBuilder
from haystack.dataclasses import ChatMessage

from hayhooks import BasePipelineWrapper, async_streaming_generator, streaming_generator
from hayhooks.testing.components import StandInChatGenerator


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.agent = Agent(chat_generator=StandInChatGenerator(lambda _: "Well"))
        self.pipeline = Pipeline()
        self.pipeline.add_component("prompt", ChatPromptBuilder([ChatMessage.from_user("{{ question }}")]))
        self.pipeline.add_component("llm", StandInChatGenerator(lambda _: "Well"))
        self.pipeline.connect("prompt", "llm.messages")

    def run_chat_completion(self, model, messages, body):
        return streaming_generator(
            self.pipeline,
            pipeline_run_args={"prompt": {"question": "x"}},
        )
"""
ASYNC_CHAT = CHAT.replace("def run_chat_completion", "async def run_chat_completion_async").replace(
    "return streaming", "return async_streaming"
)


def test_a_fault_behind_the_edge_of_the_terminal_is_shown(dev: Dev):
    prompt = dev.root / "mine/prompt.jinja"
    replace(prompt, "x " * 60 + "{{ question | uper }} {{ documents }}" + " y" * 60)
    dev.write("mine", WITH_PROMPT)
    lines = dev.shows("✗ mine")

    assert_shown(lines, prompt, "uper", "did you mean upper?")
    (marked,) = [line for line in lines if line.startswith("  >    1 │ …")]
    assert "{{ question | uper }}" in marked


def test_a_callback_that_fails_is_told_once_with_its_name(dev: Dev):
    path = dev.write(
        "mine", CHAT.replace("        )", "            on_pipeline_end=lambda result: result['x'],\n        )")
    )
    dev.shows("✓ mine")
    httpx.post(f"{dev.url}/mine/chat", json={"messages": [{"role": "user", "content": "x"}]}, timeout=30)
    lines = dev.shows("→ POST /mine/chat  200")

    assert_shown(lines, path, "on_pipeline_end", "✗ mine: on_pipeline_end failed: KeyError: 'x'")
    assert joined(lines).count("KeyError") == 1


def test_a_tool_that_is_called_with_wrong_arguments(dev: Dev):
    path = dev.write("mine", AGENT.replace('{"article": "coffee"}', '{"artcle": "coffee"}'))
    dev.shows("✓ mine")
    dev.run("mine")
    told = "got an unexpected keyword argument 'artcle', in tool 'price_of'"

    assert_shown(dev.shows("→ POST /mine/run  200"), path, "def price_of", told)


DROPPED = """
from hayhooks import BasePipelineWrapper


async def answer(text="x"):
    return text


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self):
        CODE
        return 1
"""
UNAWAITED = {  # the wrapper, and the line that is to be shown
    "at once": (DROPPED.replace("CODE", "answer()"), "answer()"),
    "at the end": (DROPPED.replace("CODE", "first = answer()"), "first = answer()"),
    "in a thread": (
        DROPPED.replace("CODE", "first = answer()").replace("async def run_api_async", "def run_api"),
        "first =",
    ),
    "in setup": (
        DROPPED.replace("CODE", "pass").replace("        pass\n\n", "        first = answer()\n\n"),
        "first =",
    ),
    "in a text": (DROPPED.replace("CODE", "return f'{answer()}'"), "return f"),
}


@pytest.mark.parametrize("mistake", UNAWAITED)
def test_a_coroutine_that_is_never_awaited(dev: Dev, mistake: str):
    wrapper, source = UNAWAITED[mistake]
    path = dev.write("mine", wrapper)
    if mistake != "in setup":
        dev.shows("✓ mine")
        assert dev.run("mine").status_code == 200
    lines = dev.shows("was never awaited")

    assert_shown(lines, path, source, "✗ mine: the coroutine answer() was never awaited", "forgot await?")
    assert "RuntimeWarning" not in joined(lines)


REFUSED = {  # code that a coroutine spoils, and what is shown
    "operand": ("return 'x' + answer()", "forgot await?"),
    "key": ("return answer()['x']", "forgot await?"),
    "result": ("return {'a': answer()}", "result.a: a coroutine (forgot await?)"),
    "item": ("return [answer()]", "result[0]: a coroutine (forgot await?)"),
    "attribute": ("return answer().text", "forgot await?"),
    "several": ("return [each['x'] for each in (answer(), answer())]", "forgot await?"),
    "no call": ("import asyncio; await asyncio.create_task(answer)", "hint: call it: answer(...)"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_coroutine_that_fails_is_told_once(dev: Dev, mistake: str):
    code, told = REFUSED[mistake]
    dev.write("mine", DROPPED.replace("CODE", code))
    dev.shows("✓ mine")
    dev.run("mine")
    lines = dev.shows("→ POST /mine/run  500")

    assert told in joined(lines)
    assert len([line for line in lines if line.startswith("✗")]) == 1


def test_a_component_whose_run_is_async(dev: Dev):
    path = dev.write("mine", PIPELINE.replace("    def run(self, prompt", "    async def run(self, prompt"))
    dev.shows("✓ mine")
    dev.run("mine", text="x")
    told = "hint: run() of a component is a plain def; an async one is run_async()"

    assert_shown(dev.shows("→ POST /mine/run  500"), path, "async def run(", told)


def test_an_item_of_a_stream_that_was_not_awaited(dev: Dev):
    path = dev.write("mine", DROPPED.replace("CODE", "yield 'x'").replace("return 1", "yield answer()"))
    dev.shows("✓ mine")
    with suppress(httpx.RemoteProtocolError):  # it is cut
        dev.run("mine")

    assert_shown(dev.shows("failed in mid-stream: TypeError"), path, "def run_api_async", "a coroutine (forgot await?)")


RUN_ARGUMENTS = {  # the wrong arguments, a line of the wrapper, and what is shown
    "input": ('{"prompt": {"qestion": "x"}}', "qestion", "did you mean 'question'?"),
    "component": ('{"promt": {"question": "x"}}', "promt", "did you mean 'prompt'?"),
    "flat": ('{"qestion": "x"}', "return", "did you mean 'question' instead of 'qestion'?"),
    "of an agent": ('{"mesages": []}', "return", "did you mean 'messages' instead of 'mesages'?"),
    "no dictionary": ("[1]", "return", "cannot convert dictionary update sequence element #0 to a sequence"),
}


@pytest.mark.parametrize("wrapper", [CHAT, ASYNC_CHAT], ids=["sync", "async"])
@pytest.mark.parametrize("mistake", RUN_ARGUMENTS)
def test_wrong_arguments_of_a_stream(dev: Dev, mistake: str, wrapper: str):
    wrong, source, told = RUN_ARGUMENTS[mistake]
    wrapper = wrapper.replace('{"prompt": {"question": "x"}}', wrong)
    if "agent" in mistake:
        wrapper = wrapper.replace("self.pipeline,", "self.agent,")
    path = dev.write("mine", wrapper)
    dev.shows("✓ mine")
    httpx.post(f"{dev.url}/mine/chat", json={"messages": [{"role": "user", "content": "x"}]}, timeout=30)

    assert_shown(dev.shows("→ POST /mine/chat  500"), path, source, told)


def test_a_stream_that_is_not_returned(dev: Dev):
    path = dev.write("mine", CHAT.replace("return streaming_generator", "streaming_generator"))
    dev.shows("✓ mine")
    httpx.post(f"{dev.url}/mine/chat", json={"messages": [{"role": "user", "content": "x"}]}, timeout=30)
    told = "an answer cannot be made of None (forgot return?)"

    assert_shown(dev.shows("→ POST /mine/chat  500"), path, "def run_chat_completion", told)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("wrapper", [CHAT, ASYNC_CHAT], ids=["sync", "async"])
def test_a_callback_that_returns_what_a_chat_cannot_send(dev: Dev, wrapper: str, stream: bool):
    callback = 'on_component_end={"llm": lambda outputs: {"sources": 1}}'
    path = dev.write("mine", wrapper.replace('"x"}},\n        )', f'"x"}}}},\n            {callback},\n        )'))
    dev.shows("✓ mine")
    body = {"messages": [{"role": "user", "content": "x"}], "stream": stream}
    httpx.post(f"{dev.url}/mine/chat", json=body, timeout=30)
    told = "an answer cannot be made of a dict:"

    assert_shown(dev.shows("→ POST /mine/chat"), path, "return", told, "in callbacks such as on_component_end too")


def test_a_component_of_a_yaml_pipeline(dev: Dev):
    replace(dev.root / "ask.yml", YAML)
    dev.shows("✓ ask")
    dev.run("ask", question={"text": {}})
    told = "UndefinedError: 'dict object' has no attribute 'first', in line 2 of the template of component 'prompt'"

    assert_shown(dev.shows("→ POST /ask/run  500"), dev.root / "ask.yml", "question.text.first.second", told)


def test_lines_of_requests_name_field_model_and_a_failed_stream(dev: Dev):
    dev.write("mine", PIPELINE)
    dev.shows("✓ mine")
    dev.run("mine", txet="x")
    assert "422 in" in joined(lines := dev.shows("→ POST /mine/run  422"))
    assert "text: Field required; you sent 'txet', no argument of run_api()" in joined(lines)
    httpx.get(f"{dev.url}/mine/run", timeout=30)
    assert "Method Not Allowed: /mine/run takes POST" in joined(dev.shows("→ GET /mine/run"))
    body = {"model": "mine", "messages": [{"role": "user", "content": "x"}], "stream": True}
    httpx.post(f"{dev.url}/v1/chat/completions", json=body, timeout=30)
    shown = joined(dev.shows("→ POST /v1/chat/completions"))
    assert "✗ mine: the answer failed in mid-stream: RuntimeError: the connection to the model is lost" in shown
    assert "model mine failed in mid-stream: RuntimeError" in shown


def test_a_missing_input_of_a_yaml_pipeline(dev: Dev):
    replace(dev.root / "ask.yml", YAML)
    dev.shows("✓ ask")
    dev.run("ask", qestion="x")

    assert "question: Field required; you sent 'qestion', no input of the pipeline" in joined(
        dev.shows("→ POST /ask/run  422")
    )


def test_a_function_in_place_of_a_type(dev: Dev):
    dev.write(
        "mine", WRAPPER.replace('text: str = "") -> str', "text: any, more: dict[str, any] | None = None) -> any")
    )
    lines = dev.shows("✓ mine")

    told = "mine: run_api() at pipeline_wrapper.py:9: text is annotated with the function any, which says nothing: did"
    assert f"{told} you mean Any?" in joined(lines)
    assert len([line for line in lines if "which says" in line or "the function any" in line]) >= 3
    assert "site-packages" not in joined(lines)
    assert dev.run("mine", text=[1]).json() == {"result": [1]}
    dev.shows("→ POST /mine/run  200")


def test_a_blocking_call_in_async(dev: Dev):
    call = "import time; time.sleep(0.5)"
    dev.write("mine", WRAPPER.replace("def run_api", "async def run_api_async").replace("return text", call))
    dev.shows("✓ mine")
    dev.run("mine")

    shown = joined(dev.shows("to_thread"))
    assert "event loop blocked 0." in shown
    assert f"by mine, pipeline_wrapper.py:10: {call}: use def, or asyncio.to_thread" in shown


def test_an_endless_loop_in_setup(dev: Dev):
    end = dev.root.parent / "end"
    loop = f"import os, time\n        while not os.path.exists('{end}'): time.sleep(0.01)"
    dev.write("mine", WRAPPER.replace("pass", loop))

    assert "pipeline_wrapper.py:8:" in "".join(line.strip() for line in dev.shows("has been loading for"))
    end.touch()
    dev.shows("✓ mine")


def test_a_request_that_fails_on_the_revision_before_shows_its_line(dev: Dev):
    failing = WRAPPER.replace("return text", "return text.no_such_method()")
    path = dev.write("mine", failing)
    dev.shows("✓ mine")
    replace(path, "# one\n# two\nimport nothing_of_this_name\n" + failing)
    dev.shows("keeps serving")
    dev.run("mine", text="x")

    number = failing.splitlines().index("        return text.no_such_method()") + 1
    shown = dev.shows("→ POST /mine/run  500")
    assert any(re.search(rf"> +{number} │ +return text.no_such_method\(\)", line) for line in shown), shown


def test_a_renamed_folder(dev: Dev):
    dev.write("mine")
    dev.shows("✓ mine")
    (dev.root / "mine").rename(dev.root / "yours")
    dev.terminal.shows("- mine  removed")

    shown = dev.shows("✓ yours")
    assert len([line for line in shown if line[:1] in "✓✗-"]) <= 2
    assert "was mine" in joined(shown)
    assert dev.run("yours", text="x").json() == {"result": "x"}


def test_helpers_of_the_same_name(dev: Dev):
    wrapper = "from helper import NAME\n" + WRAPPER.replace("return text", "return NAME")
    for name in ("mine", "yours"):
        replace(dev.root / name / "helper.py", f"NAME = {name!r}")
        dev.write(name, wrapper)
        assert_one_line(dev.shows(f"✓ {name}"))
    for name in ("mine", "yours"):
        assert dev.run(name).json() == {"result": name}


def test_deleted_and_restored(dev: Dev):
    path = dev.write("mine")
    dev.shows("✓ mine")
    shutil.move(path.parent, dev.root.parent / "away")
    assert_one_line(dev.shows("- mine  removed"))
    shutil.move(dev.root.parent / "away", path.parent)
    assert " was " not in assert_one_line(dev.shows("✓ mine"))[0]


def test_saved_twice(dev: Dev):
    dev.write("mine", WRAPPER.replace("return text", "return 'a'"))
    dev.shows("✓ mine")
    for _ in range(2):
        dev.write("mine", WRAPPER.replace("return text", "return 'b'"))
    assert_one_line(dev.shows("✓ mine"))
    assert dev.run("mine").json() == {"result": "b"}


def test_a_changed_prompt(dev: Dev):
    read = "from pathlib import Path; self.prompt = Path(__file__).with_name('prompt.jinja').read_text()"
    replace(dev.root / "mine/prompt.jinja", "old")
    dev.write("mine", WRAPPER.replace("pass", read).replace("return text", "return self.prompt"))
    dev.shows("✓ mine")
    replace(dev.root / "mine/prompt.jinja", "new")
    (line,) = assert_one_line(dev.shows("✓ mine"))
    assert line.endswith("prompt.jinja")
    assert dev.run("mine").json() == {"result": "new"}


def assert_shown(lines: list[str], path: Path, source: str, *told: str) -> None:
    """The place of *source* in *path* is shown, with its line, and the texts *told*."""
    number = next(number for number, line in enumerate(path.read_text().splitlines(), 1) if source in line)
    assert f"{path}:{number}" in "".join(line.strip() for line in lines)
    assert any(line.startswith(f"  > {number:>4} │ ") for line in lines)
    for text in told:
        assert text in joined(lines)


def assert_one_line(lines: list[str]) -> list[str]:
    """No more than one line is shown; return it."""
    assert len(lines) == 1, lines
    return lines


def joined(lines: list[str]) -> str:
    """The text of *lines*, wherever it was wrapped."""
    return " ".join(" ".join(lines).split())
