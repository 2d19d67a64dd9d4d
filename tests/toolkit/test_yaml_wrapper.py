"""What a YAML says of a pipeline, and what is told when it is wrong."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from haystack.core.serialization import allow_deserialization_module
from pydantic import TypeAdapter

from hayhooks import YAMLPipelineWrapper
from hayhooks.errors import LoadError
from hayhooks.http.types import HTTP_TYPES
from hayhooks.kernel.operations import inspect_method
from tests.pipelines import ASK, CHAIN, CHAT, DOUBLE, OLDEST, PARTS


@pytest.fixture(scope="module", autouse=True)
def parts():
    """The components of the tests, as a module."""
    module = types.ModuleType("parts")
    sys.modules["parts"] = module
    exec(PARTS, module.__dict__)
    allow_deserialization_module("parts")
    yield
    del sys.modules["parts"]


def wrapper(content: str) -> YAMLPipelineWrapper:
    made = YAMLPipelineWrapper(content, file="/pipelines/double.yml")
    made.setup()
    return made


def problem(content: str | bytes) -> LoadError:
    made = YAMLPipelineWrapper(content, file="/pipelines/double.yml")
    with pytest.raises(LoadError) as raised:
        made.setup()
    return raised.value


def schema(made: YAMLPipelineWrapper) -> dict[str, Any]:
    """Of what ``/run`` takes."""
    return inspect_method(made.run_api, HTTP_TYPES).arguments.json_schema()


def result_of(made: YAMLPipelineWrapper) -> TypeAdapter[Any]:
    result = inspect_method(made.run_api, HTTP_TYPES).result
    assert result is not None
    return result


def test_one_value_fans_out_to_every_socket_of_a_list():
    assert wrapper(DOUBLE).run_api(value=3, times=4) == {"double": {"value": 6}, "triple": {"value": 12}}


def test_types_and_what_is_required_are_those_of_the_sockets():
    told = schema(wrapper(DOUBLE))

    assert told["required"] == ["value"]
    assert told["properties"]["value"] == {"title": "Value", "type": "integer"}
    assert told["properties"]["times"] == {"default": 2, "title": "Times", "type": "integer"}


def test_the_result_is_described_by_component_and_socket():
    result = result_of(wrapper(DOUBLE)).json_schema()

    assert result["properties"]["double"] == {"$ref": "#/$defs/DoubleOutputs"}
    assert result["$defs"]["DoubleOutputs"]["properties"] == {"value": {"title": "Value", "type": "integer"}}


def test_documents_become_what_the_component_takes_and_go_back_as_dicts():
    made = wrapper(
        "components: {read: {type: parts.Read}}\ninputs: {documents: read.documents, text: read.text}\n"
        "outputs: {all: [read.documents, read.count]}\n"
    )
    arguments = inspect_method(made.run_api, HTTP_TYPES).arguments.validate_json(b'{"documents": [{"content": "one"}]}')
    answer = made.run_api(**arguments)

    assert arguments["documents"][0].content == "one"
    assert answer["read"]["count"] == 1
    assert b'"content":"one"' in result_of(made).dump_json(answer, warnings="error")


def test_without_outputs_the_answer_is_what_the_pipeline_returns():
    assert wrapper(CHAIN.partition("outputs:")[0]).run_api(value=1) == {"second": {"value": 4}}


def test_an_output_inside_the_pipeline_can_be_asked_for():
    made = wrapper(CHAIN + "  before: first.value\n")

    assert made.run_api(value=1) == {"second": {"value": 4}, "first": {"value": 2}}


def test_the_oldest_form_takes_and_gives_by_component():
    made = wrapper(OLDEST)
    told = schema(made)

    assert made.takes_components
    assert told["required"] == ["double", "triple"]
    assert told["$defs"]["DoubleInputs"]["required"] == ["value"]
    answer = made.run_api(double={"value": 1}, triple={"value": 2, "times": 3})
    assert answer == {"double": {"value": 2}, "triple": {"value": 6}}


def test_callbacks_and_tools_are_no_inputs_of_the_oldest_form():
    told = schema(wrapper(ASK.partition("inputs:")[0]))

    assert set(told["$defs"]["LlmInputs"]["properties"]) == {"generation_kwargs", "tools_strict"}


def test_names_need_not_be_names_of_python():
    made = wrapper(DOUBLE.replace("  value: [", "  my-value: [").replace("  times:", "  from:"))

    assert made.run_api(**{"my-value": 1, "from": 5}) == {"double": {"value": 2}, "triple": {"value": 5}}
    assert schema(made)["required"] == ["my-value"]


def test_a_pipeline_runs_on_the_loop_where_every_component_can():
    sync, on_loop = wrapper(CHAT), wrapper(CHAT.replace("parts.Talk", "parts.AsyncTalk"))

    assert inspect_method(sync.run_api, HTTP_TYPES).on_loop is False
    assert inspect_method(on_loop.run_api_async, HTTP_TYPES).on_loop is True


def test_the_description_is_the_wrappers():
    assert wrapper(DOUBLE + "description: Doubles.\n").__doc__ == "Doubles."
    assert wrapper(DOUBLE).__doc__ == ""
    assert YAMLPipelineWrapper.from_yaml(DOUBLE, description="Doubles.").__doc__ == "Doubles."
    given = YAMLPipelineWrapper.from_yaml(DOUBLE + "description: Doubles.\n", description="Mine.")
    given.setup()
    assert given.__doc__ == "Mine."


def test_it_can_be_made_of_a_file(tmp_path: Path):
    (tmp_path / "double.yml").write_text(DOUBLE)
    made = YAMLPipelineWrapper.from_file(tmp_path / "double.yml")
    made.setup()

    assert made.run_api(value=1)["double"] == {"value": 2}


def test_tuples_that_haystack_writes_are_read():
    made = YAMLPipelineWrapper(DOUBLE + "metadata: {pair: !!python/tuple [1, 2]}\n")
    made.setup()

    assert made.pipeline.metadata["pair"] == (1, 2)


BOMB = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}' if n else '1'] * 10)}]\n" for n in range(9)) + DOUBLE

WRONG = [
    ("", 1, "is no pipeline: one has components"),
    ("- 1\n", 1, "is no pipeline"),
    ("services: {}\n", 1, "is no pipeline"),
    (b"a: 1\nb: \xff\n", 2, "is not UTF-8"),
    ("a: \x00\n", 1, "has a character that may not be there"),
    ("a:\n  - b\n c: 1\n", 3, "is no valid YAML"),
    ("a: [\n", 2, "is no valid YAML"),
    ("a: 1\n---\nb: 2\n", 2, "expected a single document"),
    ("a: *b\n", 1, "undefined alias"),
    ("a: &a\n  - *a\n", 1, "an alias stands for what it is a part of"),
    (BOMB, 1, "stands for more than 200,000 values"),
    ("[" * 5000, 1, "is nested too deeply"),
    ("components: !!python/object:os.system {}\n", 1, "cannot be read"),
    ("components:\n  a: {type: b.C, since: 2024-99-99}\n", 1, "cannot be read: month must be in 1..12"),
    (DOUBLE.replace("  triple:\n    type", "  double:\n    type"), 4, "'double' stands here again, as in line 2"),
    (DOUBLE + "inputs: {}\n", 17, "'inputs' stands here again, as in line 10"),
    ("components: {}\n", 1, "components is empty"),
    ("components:\n", 1, "components is empty"),
    ("components: [1]\n", 1, "components must be a mapping"),
    ("components:\n  1: {type: parts.Double}\n", 2, "a component cannot be called 1"),
    ("components:\n  a.b: {type: parts.Double}\n", 2, "a component cannot be called 'a.b'"),
    ("components:\n  double: parts.Double\n", 2, "component 'double' must have a type"),
    (DOUBLE.replace("parts.Double\n  tri", "3\n  tri"), 2, "component 'double' must have a type"),
    (DOUBLE.replace("init_parameters: {}", "init_parameters: [1]"), 6, "init_parameters must be a mapping"),
    (
        CHAT.replace("Talk\n", "Talk\n    init_parameters:\n      aftr: x\n"),
        5,
        "component 'talk' (Talk): TypeError: Talk.__init__()",
    ),
    (DOUBLE.replace("parts.Double\n  tri", "parts.Duble\n  tri"), 3, "there is no component parts.Duble; did you mean"),
    (DOUBLE.replace("parts.Double\n  tri", "no.such.Thing\n  tri"), 3, "that module is not trusted"),
    (DOUBLE.replace("parts.Double\n  tri", "haystack.no.Thing\n  tri"), 3, "No module named 'haystack.no'"),
    (DOUBLE.replace("parts.Double\n  tri", "haystack\n  tri"), 2, "component 'double'"),
    (
        ASK.replace("chat_prompt_builder.Chat", "Chat"),
        3,
        "did you mean haystack.components.builders.chat_prompt_builder.",
    ),
    (
        ASK.replace("template: '{%", "template: '{% {%"),
        2,
        "component 'prompt' (ChatPromptBuilder): TemplateSyntaxError",
    ),
    (DOUBLE.replace("inputs:", "input:"), 10, "there is no key 'input'; did you mean 'inputs'?"),
    (DOUBLE.replace("connections: []", "connections: {}"), 8, "connections must be a list"),
    (
        CHAIN.replace("  - sender: first.value\n", "  - sendr: first.value\n"),
        8,
        "a connection has a sender and a receiver",
    ),
    (CHAIN.replace("r: first.value", "r: frst.value"), 8, "'frst.value': there is no component 'frst'; did you mean"),
    (
        CHAIN.replace("r: second.value", "r: second.valu"),
        8,
        "component 'second' has no socket 'valu' there; did you mean",
    ),
    (ASK.replace("receiver: llm.messages", "receiver: llm.tools_strict"), 10, "llm.tools_strict"),
    (DOUBLE.replace("triple.times", "triple"), 12, "inputs.times must be component.socket, or a list of them"),
    (DOUBLE.replace("triple.times", "7"), 12, "inputs.times must be component.socket"),
    (DOUBLE.replace("triple.times", "[]"), 12, "inputs.times names nothing"),
    (DOUBLE.replace("triple.times", "{a: b}"), 12, "inputs.times must be component.socket"),
    (DOUBLE.replace("triple.times", "tripel.times"), 12, "did you mean 'triple'?"),
    (DOUBLE.replace("triple.times", "triple.tims"), 12, "component 'triple' has no socket 'tims' there; did you mean"),
    (DOUBLE.replace("triple.times", "triple.zzz"), 12, "it has value, times"),
    (DOUBLE.replace("  times:", "  1:"), 12, "the input's name 1 must be a text"),
    (DOUBLE.replace("double.value, ", ""), 2, "component 'double' needs 'value', which nothing gives"),
    (
        CHAIN.replace("value: first.value\n\no", "value: [first.value, second.value]\n\no"),
        12,
        "which a connection feeds",
    ),
    (ASK.replace("  question: p", "  tools: llm.tools\n  question: p"), 13, "no request can give that"),
    (ASK.replace("  question: p", "  callback: llm.streaming_callback\n  question: p"), 13, "no request can give that"),
    (
        "components:\n  read: {type: parts.Read}\n  double: {type: parts.Double}\ninputs:\n"
        "  x: [read.documents, double.value]\n",
        5,
        "inputs.x goes to read.documents (list[Document]) and double.value (int), which take no value in common",
    ),
    (DOUBLE.replace("doubled: double.value", "doubled: double.times"), 15, "component 'double' has no socket 'times'"),
    (
        ASK.replace("chat: question", "chat: qestion"),
        16,
        "chat names the input 'qestion', which is not in inputs; did you",
    ),
    (ASK.replace("chat: question", "chat: [question]"), 16, "chat must be a text"),
    (ASK.partition("inputs:")[0] + "chat: question\n", 12, "chat names an input, but there is no section inputs"),
    (DOUBLE + "chat: value\n", 17, "chat: the input 'value' takes int, and neither a text nor a list[ChatMessage]"),
    (
        ASK.replace("outputs:", "  more: prompt.more\noutputs:").replace("question }}", "question }}{{ more }}"),
        17,
        "'more' is",
    ),
    (ASK.replace("chat: question", "streaming_components: [prompt]"), 16, "No streaming component is named ['prompt']"),
    (ASK.replace("chat: question", "streaming_components: llm"), 16, "must be 'all' or a list of components"),
    (
        "components: {read: {type: parts.Read}}\ninputs: {d: read.documents, t: read.text}\nchat: t\n",
        3,
        "chat: the input 'd' is required too",
    ),
    (ASK + "max_runs_per_component: many\n", 17, "max_runs_per_component must be a whole number"),
    (ASK + "description: [1]\n", 17, "description must be a text"),
]


@pytest.mark.parametrize(("content", "line", "message"), WRONG)
def test_what_is_wrong_is_told_with_its_line(content: str | bytes, line: int, message: str):
    error = problem(content)

    assert error.reason.startswith(f"double.yml:{line}: "), error.reason
    assert message in error.reason
    assert "\n" not in error.reason
    assert error.place is not None
    assert (error.place.file, error.place.line) == ("/pipelines/double.yml", line)


@pytest.mark.parametrize("content", [DOUBLE + "version: 1\n", "# é\n" + DOUBLE, "\ufeff" + DOUBLE, DOUBLE + "chat:\n"])
def test_what_is_of_no_concern_is_let_be(content: str):
    assert wrapper(content).run_api(value=1)["double"] == {"value": 2}


def test_one_value_for_a_text_and_an_optional_text_is_a_text():
    made = wrapper(ASK.replace("prompt.question", "[prompt.question, prompt.template_variables]").replace("chat:", "#"))

    assert schema(made)["required"] == ["question"]
