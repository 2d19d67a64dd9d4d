"""What an error is, what led to it, where it is, and which name was meant."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from haystack import Pipeline, component
from haystack.components.agents import Agent
from haystack.components.builders import ChatPromptBuilder, PromptBuilder
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import ComponentTool, tool
from starlette.datastructures import UploadFile

from hayhooks import BasePipelineWrapper, streaming_generator
from hayhooks.kernel.name_hints import name_hint
from hayhooks.kernel.places import OpenFiles, place_of_definition
from hayhooks.kernel.user_errors import cause_lines, headline, place_of
from hayhooks.testing.components import StandInChatGenerator

ANSWERS: dict[Any, Any] = {2: 4}


@component
class Doubler:
    @component.output_types(value=int)
    def run(self, value: int) -> dict[str, Any]:
        return {"value": ANSWERS[value]}


@component
class Around:
    def __init__(self) -> None:
        self.inner = Doubler()

    @component.output_types(value=int)
    def run(self, value: int) -> dict[str, Any]:
        return self.inner.run(value)


def failing_tool(*, in_pipeline: bool, component: Any = None) -> Callable[[], object]:
    """An Agent in a pipeline, or alone, whose tool fails."""

    @tool
    def price_of(article: int) -> Any:
        """Price of an article."""
        return ANSWERS[article]

    def reply(_: list[ChatMessage]) -> ChatMessage:
        return ChatMessage.from_assistant(
            tool_calls=[ToolCall(used.name, {next(iter(used.parameters["properties"])): 1})]
        )

    used = ComponentTool(component, name="doubled") if component else price_of
    agent = Agent(
        chat_generator=MockChatGenerator(response_fn=reply), tools=[used], raise_on_tool_invocation_failure=True
    )
    messages = [ChatMessage.from_user("x")]
    if in_pipeline:
        return lambda: pipeline(agent).run({"part": {"messages": messages}})
    return lambda: agent.run(messages=messages)


TEMPLATE = """Hello
{{ question.text.first.second }}
"""


def pipeline(part: Any) -> Pipeline:
    made = Pipeline()
    made.add_component("part", part)
    return made


def joined(part: Any, receiver: str) -> Pipeline:
    made = pipeline(part)
    made.add_component("doubler", Doubler())
    return made.connect("doubler.value", receiver)


def chained() -> None:
    try:
        pipeline(Doubler()).run({"part": {"value": 1}})
    except Exception as error:
        raise ValueError("no answer") from error


def suppressed() -> None:
    try:
        ANSWERS["a"]
    except KeyError:
        raise ValueError("no answer") from None


def endless() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def group(errors: list[Exception]) -> None:
    raise ExceptionGroup("all", errors)


def same() -> None:
    try:
        raise ValueError("no answer")
    except ValueError as error:
        raise ValueError("no answer") from error


def raised(call: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        call()
    return caught.value


PART = "in component 'part'"
LINE = "in line 2 of the template"
ERRORS: dict[str, tuple[Callable[[], object], str, list[str]]] = {
    "component": (lambda: pipeline(Doubler()).run({"part": {"value": 1}}), f"KeyError: 1, {PART} (Doubler)", []),
    "inner": (
        lambda: pipeline(Around()).run({"part": {"value": 1}}),
        f"KeyError: 1, in Doubler of {PART[3:]} (Around)",
        [],
    ),
    "hidden frames": (
        lambda: pipeline(StandInChatGenerator(lambda messages: ANSWERS[1])).run(
            {"part": {"messages": [ChatMessage.from_user("x")]}}
        ),
        f"KeyError: 1, in MockChatGenerator of {PART[3:]} (StandInChatGenerator)",
        [],
    ),
    "tool": (failing_tool(in_pipeline=False), "KeyError: 1, in tool 'price_of'", []),
    "tool of an agent in a pipeline": (
        failing_tool(in_pipeline=True),
        f"KeyError: 1, in tool 'price_of' of {PART[3:]} (Agent)",
        [],
    ),
    "component as a tool": (
        failing_tool(in_pipeline=True, component=Doubler()),
        f"KeyError: 1, in Doubler of tool 'doubled' of {PART[3:]} (Agent)",
        [],
    ),
    "no pipeline": (lambda: Doubler().run(1), "KeyError: 1, in Doubler", []),
    "template": (
        lambda: pipeline(PromptBuilder(TEMPLATE)).run({"part": {"question": {"text": 1}}}),
        f"UndefinedError: 'int object' has no attribute 'first', {LINE} of {PART[3:]} (PromptBuilder)",
        [],
    ),
    "template of a chat": (
        lambda: ChatPromptBuilder([ChatMessage.from_user(TEMPLATE)]).run(question={"text": 1}),
        f"UndefinedError: 'int object' has no attribute 'first', {LINE} of ChatPromptBuilder",
        [],
    ),
    "chain": (chained, "ValueError: no answer", ["caused by KeyError: 1"]),
    "group": (
        lambda: group([KeyError("a"), OSError("b")]),
        "ExceptionGroup: all (2 sub-exceptions): KeyError: 'a'",
        ["1 of 2 KeyError: 'a'", "2 of 2 OSError: b"],
    ),
    "the same text": (same, "ValueError: no answer", []),
    "suppressed": (suppressed, "ValueError: no answer", []),
    "endless": (endless, "ValueError: first", ["caused by ValueError: second"]),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_told_with_its_component_and_its_causes(kind: str):
    call, told, causes = ERRORS[kind]
    error = raised(call)

    assert headline(error) == told
    assert [line.partition("  (test_user_errors.py:")[0] for line in cause_lines(error, OpenFiles())] == causes


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("component", 'return {"value": ANSWERS[value]}'),
        ("template", "{{ question" + ".text.first.second }}"),
        ("template of a chat", "{{ question" + ".text.first.second }}"),
        ("chain", 'raise ValueError("no answer") from error'),
        ("suppressed", 'raise ValueError("no answer") from None'),
    ],
)
def test_an_error_has_its_place(kind: str, source: str):
    place = place_of(raised(ERRORS[kind][0]), OpenFiles())

    assert place is not None
    assert (Path(place.file).name, place.source) == ("test_user_errors.py", source)


def test_a_syntax_error_is_in_its_own_file(tmp_path: Path):
    (tmp_path / "broken.py").write_text("x = 1\ndef (:\n")
    error = raised(lambda: compile((tmp_path / "broken.py").read_text(), str(tmp_path / "broken.py"), "exec"))

    assert str(place_of(error, OpenFiles())) == f"{tmp_path}/broken.py:2: def (:"


def test_a_template_is_looked_for_beside_the_code_in_small_files(tmp_path: Path):
    (tmp_path / "wrapper.py").write_text("code")
    (tmp_path / "prompt.jinja").write_text("prompt")
    (tmp_path / "large.txt").write_text("x" * 2_000_000)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    (tmp_path / "picture.png").write_text("x")
    near = [str(tmp_path / "wrapper.py"), "<template>", pytest.__file__]

    assert [Path(file).name for file, _ in OpenFiles().texts(near)] == ["wrapper.py", "prompt.jinja"]


def test_a_template_that_is_in_no_file_leaves_the_place_of_the_call():
    builder = pipeline(PromptBuilder("Hi\n{{ " + "a.b" + ".c }}"))
    place = place_of(raised(lambda: builder.run({"part": {"a": 1}})), OpenFiles())

    assert place is not None
    assert place.source.startswith("place = place_of(raised(lambda: builder.run")


def test_nothing_but_a_definition_with_source_has_a_place():
    assert place_of_definition(len) is None
    assert place_of_definition(Pipeline) is None


def key() -> object:
    result = {"answer": 1}
    return result["anser"]


def nested_key() -> object:
    result = {"llm": {"replies": 1}}
    return result["llm"]["reply"]


class Wrapper:
    def __init__(self) -> None:
        self.pipeline = pipeline(Doubler())
        self.agent = Agent(chat_generator=MockChatGenerator("x"))

    def key(self) -> object:
        return self.pipeline.run({"part": {"value": 2}})["part"]["valeu"]

    def agents_key(self) -> object:
        return self.agent.run(messages=[ChatMessage.from_user("x")])["mesages"]


def forgotten(name: str) -> Callable[[], object]:
    return lambda: eval(name, {})


class Local(BasePipelineWrapper):
    def setup(self) -> None:
        pipeline = Pipeline()  # noqa: F841
        flow = Pipeline()  # noqa: F841

    def attribute(self) -> object:
        return self.pipeline.run({})

    def name(self) -> object:
        return flow.run({})  # type: ignore[name-defined] # noqa: F821

    def stream(self) -> object:
        return streaming_generator(self.pipeline)

    def another(self) -> object:
        return self.concurrency.run({})  # type: ignore[union-attr]


async def answer() -> dict[str, int]:
    return {}


async def chunks() -> AsyncGenerator[str, None]:
    yield "a"


def upload() -> object:
    file: Any = UploadFile(BytesIO())
    try:
        return file.read().decode()
    except AttributeError as error:
        error.obj.close()  # type: ignore[attr-defined]
        raise


def concatenated() -> object:
    awaitable: Any = answer()
    try:
        return "x" + awaitable
    finally:
        awaitable.close()


async def awaited(value: Any) -> object:
    return await value


async def read_async(stream: Any) -> object:
    return [item async for item in stream]


def coroutine() -> object:
    async def answer() -> dict[str, int]:
        return {}

    awaitable: Any = answer()
    try:
        return awaitable["text"]
    finally:
        awaitable.close()


NAMES: dict[str, tuple[Callable[[], object], str]] = {
    "input": (lambda: pipeline(Doubler()).run({"part": {"valu": 1}}), "did you mean 'value'?"),
    "component": (lambda: pipeline(Doubler()).run({"prt": {"value": 1}}), "did you mean 'part'?"),
    "attribute": (lambda: "text".uper(), "did you mean upper?"),  # type: ignore[attr-defined]
    "another case": (lambda: Strr, "did you mean str?"),  # type: ignore[name-defined] # noqa: F821
    "name that is alike a builtin's": (lambda: store, ""),  # type: ignore[name-defined] # noqa: F821
    "type of JSON Schema": (lambda: string, "did you mean str?"),  # type: ignore[name-defined] # noqa: F821
    "module of that name": (lambda: string.digits, "add `import string`"),  # type: ignore[name-defined] # noqa: F821
    "socket of a template": (
        lambda: joined(PromptBuilder("{% for document in docments %}{% endfor %}"), "part.documents"),
        "did you mean 'part.docments'?",
    ),
    "block of a template": (
        lambda: PromptBuilder("{% if a %}\n{% for b in a %}\n{% endif %}"),
        "{% for %} of line 2 has no {% endfor %}",
    ),
    "attribute that makes a message empty": (
        lambda: pipeline(ChatPromptBuilder('{% message role="user" %}{{ question.txt }}{% endmessage %}')).run(
            {"part": {"question": ChatMessage.from_user("x")}}
        ),
        "did you mean 'text' instead of 'txt'?",
    ),
    "key": (key, "did you mean 'answer'?"),
    "nested key": (nested_key, "did you mean 'replies'?"),
    "key of a pipeline's result": (Wrapper().key, "did you mean 'value'?"),
    "key of an agent's result": (Wrapper().agents_key, "did you mean 'messages'?"),
    "coroutine": (coroutine, "a coroutine is no result yet: await it, in `async def coroutine`"),
    "coroutine in a text": (concatenated, "a coroutine is no result yet: await it, in `async def concatenated`"),
    "read of an upload": (
        upload,
        "in a def it is file.file.read(); file.read() has to be awaited, in an async def",
    ),
    "generator that is awaited": (
        lambda: asyncio.run(awaited(chunks())),
        "return the generator, or read it with `async for`: without await",
    ),
    "result that is awaited": (lambda: asyncio.run(awaited({})), "it is a result already: remove await"),
    "async generator in a for": (
        lambda: list(chunks()),  # type: ignore[call-overload]
        "`async for`, in an async def, reads it; streaming_generator works in a def",
    ),
    "generator in an async for": (
        lambda: asyncio.run(read_async(streaming_generator(pipeline(StandInChatGenerator(lambda _: "x"))))),
        "`for` reads it; async_streaming_generator works with `async for`",
    ),
    "local of setup": (Local().attribute, "pipeline is a local of setup(): write `self.pipeline = ...` there"),
    "local of setup by its name": (Local().name, "flow is a local of setup(): write `self.flow = ...` there"),
    "local of setup in a stream": (Local().stream, "pipeline is a local of setup(): write `self.pipeline = ...` there"),
    "None that is no local": (Local().another, ""),
    "forgotten component": (
        forgotten("OpenAIChatGenerator()"),
        "add `from haystack.components.generators.chat import OpenAIChatGenerator`",
    ),
    "forgotten Pipeline": (forgotten("Pipeline"), "add `from haystack import Pipeline`"),
    "forgotten dataclass": (forgotten("ChatMessage"), "add `from haystack.dataclasses import ChatMessage`"),
    "forgotten decorator": (forgotten("tool"), "add `from haystack.tools import tool`"),
    "forgotten upload": (forgotten("UploadFile"), "add `from starlette.datastructures import UploadFile`"),
    "forgotten module": (forgotten("json"), "add `import json`"),
    "forgotten function of ours": (
        forgotten("get_last_user_message"),
        "add `from hayhooks import get_last_user_message`",
    ),
    "forgotten part of Haystack 2": (
        forgotten("OpenAIGenerator"),
        "Haystack 3 has no OpenAIGenerator: use haystack.components.generators.chat.OpenAIChatGenerator, which takes a "
        "str too",
    ),
    "nothing near": (lambda: "text".qqq, ""),  # type: ignore[attr-defined]
    "another error": (lambda: 1 / 0, ""),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_that_does_not_exist_has_a_hint(kind: str):
    call, told = NAMES[kind]

    assert name_hint(raised(call), OpenFiles()).partition(f" {Path(__file__).name}:")[0] == told


class Owner:
    pipeline = None

    def bare(self) -> object:
        return pipelin  # type: ignore[name-defined] # noqa: F821

    def own(self) -> object:
        return prompt  # type: ignore[name-defined] # noqa: F821

    prompt = ""

    @property
    def total(self) -> object:
        return total  # type: ignore[name-defined] # noqa: F821

    def __dir__(self) -> list[str]:
        raise RuntimeError("no names")


def test_an_attribute_of_self_is_meant_before_other_names():
    assert name_hint(raised(Owner().own), OpenFiles()) == "did you mean self.prompt?"
    assert name_hint(raised(Owner().bare), OpenFiles()) == "did you mean pipeline?"
    assert name_hint(ValueError("never raised"), OpenFiles()) == ""


def test_a_hint_runs_no_property_and_survives_what_objects_of_the_users_raise():
    owner: Any = Owner()

    assert name_hint(raised(lambda: owner.total), OpenFiles()) == "did you mean self.total?"
    assert name_hint(raised(lambda: owner.promp), OpenFiles()) == ""
