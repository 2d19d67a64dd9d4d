"""The wrapper that a YAML file makes, and the errors of an invalid one."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from haystack.core.serialization import allow_deserialization_module
from haystack.dataclasses import ChatMessage
from pydantic import TypeAdapter

from hayhooks import YAMLPipelineWrapper
from hayhooks.errors import LoadError
from hayhooks.http.types import HTTP_TYPES
from hayhooks.kernel.operations import inspect_method
from tests.pipelines import ASK, CHAIN, CHAT, DOUBLE, OLDEST, PARTS


@pytest.fixture(scope="module", autouse=True)
def parts():
    """The test components as the module ``parts``."""
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
    """Return the JSON schema of the request body of ``/run``."""
    return inspect_method(made.run_api, HTTP_TYPES).arguments.json_schema()


def result_of(made: YAMLPipelineWrapper) -> TypeAdapter[Any]:
    result = inspect_method(made.run_api, HTTP_TYPES).result
    assert result is not None
    return result


def test_an_input_with_a_list_goes_to_every_socket():
    assert wrapper(DOUBLE).run_api(value=3, times=4) == {"double": {"value": 6}, "triple": {"value": 12}}


def test_inputs_have_the_types_and_defaults_of_their_sockets():
    request = schema(wrapper(DOUBLE))

    assert request["required"] == ["value"]
    assert request["properties"]["value"] == {"title": "Value", "type": "integer"}
    assert request["properties"]["times"] == {"default": 2, "title": "Times", "type": "integer"}


def test_the_result_is_described_by_component_and_socket():
    result = result_of(wrapper(DOUBLE)).json_schema()

    assert result["properties"]["double"] == {"$ref": "#/$defs/DoubleOutputs"}
    assert result["$defs"]["DoubleOutputs"]["properties"] == {"value": {"title": "Value", "type": "integer"}}


FLAT = DOUBLE + "answers: flat\n"


def test_flat_answers_have_the_names_of_the_outputs():
    made = wrapper(FLAT)

    assert made.run_api(value=3, times=4) == {"doubled": 6, "tripled": 12}
    assert result_of(made).json_schema()["properties"] == {
        "doubled": {"title": "Doubled", "type": "integer"},
        "tripled": {"title": "Tripled", "type": "integer"},
    }


def test_messages_in_flat_answers_are_the_text_of_the_last_one():
    made = wrapper(CHAT.replace("chat: messages", "answers: flat"))

    assert made.run_api(messages=[ChatMessage.from_user("hello")]) == {"replies": "user: hello"}


def test_a_flat_output_of_several_sockets_is_the_first_that_ran():
    router = """\
components:
  route:
    type: haystack.components.routers.conditional_router.ConditionalRouter
    init_parameters:
      routes:
      - {condition: "{{ value > 9 }}", output: "{{ value }}", output_name: large, output_type: int}
      - {condition: "{{ value <= 9 }}", output: "{{ value }}", output_name: small, output_type: int}
  double: {type: parts.Double}
  plain: {type: parts.Double, init_parameters: {}}
connections:
- {sender: route.large, receiver: plain.value}
- {sender: route.small, receiver: double.value}
inputs: {value: route.value}
outputs: {value: [plain.value, double.value], once: plain.value}
answers: flat
"""
    made = wrapper(router)

    assert made.run_api(value=10) == {"value": 20, "once": 20}
    assert made.run_api(value=1) == {"value": 2}


def test_documents_are_parsed_and_serialized():
    made = wrapper(
        "components: {read: {type: parts.Read}}\ninputs: {documents: read.documents, text: read.text}\n"
        "outputs: {all: [read.documents, read.count]}\n"
    )
    arguments = inspect_method(made.run_api, HTTP_TYPES).arguments.validate_json(b'{"documents": [{"content": "one"}]}')
    answer = made.run_api(**arguments)

    assert arguments["documents"][0].content == "one"
    assert answer["read"]["count"] == 1
    assert b'"content":"one"' in result_of(made).dump_json(answer, warnings="error")


def test_without_outputs_the_whole_result_is_returned():
    assert wrapper(CHAIN.partition("outputs:")[0]).run_api(value=1) == {"second": {"value": 4}}


def test_a_connected_output_can_be_listed():
    made = wrapper(CHAIN + "  before: first.value\n")

    assert made.run_api(value=1) == {"second": {"value": 4}, "first": {"value": 2}}


def test_without_inputs_and_outputs_values_are_grouped_by_component():
    made = wrapper(OLDEST)
    request = schema(made)

    assert made.takes_components
    assert request["required"] == ["double", "triple"]
    assert request["$defs"]["DoubleInputs"]["required"] == ["value"]
    answer = made.run_api(double={"value": 1}, triple={"value": 2, "times": 3})
    assert answer == {"double": {"value": 2}, "triple": {"value": 6}}


def test_callbacks_and_tools_are_not_inputs_by_component():
    request = schema(wrapper(ASK.partition("inputs:")[0]))

    assert set(request["$defs"]["LlmInputs"]["properties"]) == {"generation_kwargs", "tools_strict"}


def test_input_names_need_not_be_python_identifiers():
    made = wrapper(DOUBLE.replace("  value: [", "  my-value: [").replace("  times:", "  from:"))

    assert made.run_api(**{"my-value": 1, "from": 5}) == {"double": {"value": 2}, "triple": {"value": 5}}
    assert schema(made)["required"] == ["my-value"]


def test_a_pipeline_of_async_components_runs_on_the_event_loop():
    sync, on_loop = wrapper(CHAT), wrapper(CHAT.replace("parts.Talk", "parts.AsyncTalk"))

    assert inspect_method(sync.run_api, HTTP_TYPES).on_loop is False
    assert inspect_method(on_loop.run_api_async, HTTP_TYPES).on_loop is True


def test_the_description_becomes_the_docstring():
    assert wrapper(DOUBLE + "description: Doubles.\n").__doc__ == "Doubles."
    assert wrapper(DOUBLE).__doc__ == ""
    assert YAMLPipelineWrapper.from_yaml(DOUBLE, description="Doubles.").__doc__ == "Doubles."
    given = YAMLPipelineWrapper.from_yaml(DOUBLE + "description: Doubles.\n", description="Mine.")
    given.setup()
    assert given.__doc__ == "Mine."


def test_from_file(tmp_path: Path):
    (tmp_path / "double.yml").write_text(DOUBLE)
    made = YAMLPipelineWrapper.from_file(tmp_path / "double.yml")
    made.setup()

    assert made.run_api(value=1)["double"] == {"value": 2}


def test_tuples_written_by_haystack_are_read():
    made = YAMLPipelineWrapper(DOUBLE + "metadata: {pair: !!python/tuple [1, 2]}\n")
    made.setup()

    assert made.pipeline.metadata["pair"] == (1, 2)


BOMB = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}' if n else '1'] * 10)}]\n" for n in range(9)) + DOUBLE

PROMPT = """components:
  prompt:
    type: haystack.components.builders.chat_prompt_builder.ChatPromptBuilder
    init_parameters:
      template: |
        {% for word in words %}{{ word }}{% endfor %}
        {{ wrod }}
inputs:
  words: prompt.words
outputs:
  prompt: prompt.prompt
"""
ADAPTER = (
    PROMPT.replace("builders.chat_prompt_builder.ChatPromptBuilder", "converters.output_adapter.OutputAdapter")
    .replace("    init_parameters:\n", "    init_parameters:\n      output_type: str\n")
    .replace("{{ wrod }}", "{{ wrod | uper }}")
    .replace("prompt.prompt", "prompt.output")
)
WRONG = [
    ("", 1, "not a pipeline: expected the key components"),
    ("- 1\n", 1, "not a pipeline: expected the key components"),
    ("services: {}\n", 1, "not a pipeline: expected the key components"),
    (b"a: 1\nb: \xff\n", 2, "not valid UTF-8: "),
    ("a: \x00\n", 1, "invalid YAML: character not allowed: "),
    ("a:\n  - b\n c: 1\n", 3, "invalid YAML: "),
    ("a: [\n", 2, "invalid YAML: "),
    ("a: 1\n---\nb: 2\n", 2, "expected a single document"),
    ("a: *b\n", 1, "undefined alias"),
    ("a: &a\n  - *a\n", 1, "an alias refers to a node that contains it"),
    (BOMB, 1, "more than 200,000 values after alias expansion"),
    ("[" * 5000, 1, "invalid YAML: nested too deeply"),
    ("components: !!python/object:os.system {}\n", 1, "invalid YAML: could not determine a constructor for the tag"),
    ("components:\n  a: {type: b.C, since: 2024-99-99}\n", 1, "invalid YAML: month must be in 1..12"),
    (DOUBLE.replace("  triple:\n    type", "  double:\n    type"), 4, "duplicate key 'double', first in line 2"),
    (DOUBLE + "inputs: {}\n", 17, "duplicate key 'inputs', first in line 10"),
    (DOUBLE + "answers: Flat\n", 17, "answers must be 'flat', not 'Flat'"),
    (DOUBLE + "answers: [flat]\n", 17, "answers must be a string"),
    (DOUBLE + "answer: flat\n", 17, "unknown key 'answer'; did you mean 'answers'?"),
    (DOUBLE.partition("outputs:")[0] + "answers: flat\n", 14, "answers: flat needs the section outputs"),
    (OLDEST + "answers: flat\n", 10, "answers: flat needs the section outputs"),
    (FLAT.replace("  doubled:", "  1:"), 15, "answers: flat: the output name 1 must be a string: put it in quotes"),
    ("components: {}\n", 1, "components is empty"),
    ("components:\n", 1, "components is empty"),
    ("components: [1]\n", 1, "components must be a mapping"),
    ("components:\n  1: {type: parts.Double}\n", 2, "invalid component name 1: "),
    ("components:\n  a.b: {type: parts.Double}\n", 2, "invalid component name 'a.b': "),
    ("components:\n  double: parts.Double\n", 2, "component 'double' needs a type"),
    (DOUBLE.replace("parts.Double\n  tri", "3\n  tri"), 2, "component 'double' needs a type"),
    (DOUBLE.replace("init_parameters: {}", "init_parameters: [1]"), 6, "init_parameters must be a mapping"),
    (
        CHAT.replace("Talk\n", "Talk\n    init_parameters:\n      aftr: x\n"),
        5,
        "component 'talk' (Talk): TypeError: Talk.__init__()",
    ),
    (DOUBLE.replace("parts.Double\n  tri", "parts.Duble\n  tri"), 3, "there is no component parts.Duble; did you mean"),
    (
        DOUBLE.replace("parts.Double\n  tri", "no.such.Thing\n  tri"),
        3,
        "has the type no.such.Thing, whose module is not trusted",
    ),
    (DOUBLE.replace("parts.Double\n  tri", "haystack.no.Thing\n  tri"), 3, "No module named 'haystack.no'"),
    (DOUBLE.replace("parts.Double\n  tri", "haystack\n  tri"), 2, "component 'double'"),
    (
        ASK.replace("chat_prompt_builder.Chat", "Chat"),
        3,
        "did you mean haystack.components.builders.chat_prompt_builder.",
    ),
    (
        ASK.replace("template: '{%", "template: '{% {%"),
        5,
        "component 'prompt' (ChatPromptBuilder): TemplateSyntaxError",
    ),
    (DOUBLE.replace("inputs:", "input:"), 10, "unknown key 'input'; did you mean 'inputs'?"),
    (DOUBLE.replace("connections: []", "connections: {}"), 8, "connections must be a list"),
    (
        CHAIN.replace("  - sender: first.value\n", "  - sendr: first.value\n"),
        8,
        "unknown key 'sendr'; did you mean 'sender'?",
    ),
    (
        CHAIN.replace("    receiver: second", "    reciever: second"),
        9,
        "unknown key 'reciever'; did you mean 'receiver'?",
    ),
    (
        CHAIN.replace("  - sender: first.value\n", "  - from: first.value\n"),
        8,
        "a connection needs sender and receiver",
    ),
    (CHAIN.replace("r: first.value", "r: frst.value"), 8, "'frst.value': there is no component 'frst'; did you mean"),
    (
        CHAIN.replace("r: second.value", "r: second.valu"),
        9,
        "component 'second' has no input 'valu'; did you mean",
    ),
    (ASK.replace("receiver: llm.messages", "receiver: llm.tools_strict"), 10, "llm.tools_strict"),
    (
        DOUBLE.replace("triple.times", "triple"),
        12,
        "inputs.times must be component.socket or a list of them, not 'triple'",
    ),
    (DOUBLE.replace("triple.times", "7"), 12, "inputs.times must be component.socket or a list of them, not "),
    (DOUBLE.replace("triple.times", "[]"), 12, "inputs.times is empty"),
    (DOUBLE.replace("triple.times", "{a: b}"), 12, "inputs.times must be component.socket or a list of them, not "),
    (DOUBLE.replace("triple.times", "tripel.times"), 12, "did you mean 'triple'?"),
    (DOUBLE.replace("triple.times", "triple.tims"), 12, "component 'triple' has no input 'tims'; did you mean"),
    (DOUBLE.replace("triple.times", "triple.zzz"), 12, "available: value, times"),
    (DOUBLE.replace("  times:", "  1:"), 12, "the input name 1 must be a string"),
    (DOUBLE.replace("double.value, ", ""), 2, "component 'double' requires 'value', which has no source"),
    (PROMPT, 7, "component 'prompt' requires 'wrod', which has no source: add prompt.wrod to inputs"),
    (PROMPT.replace("wrod }}", "wrod | uper }}"), 7, "TemplateAssertionError: No filter named 'uper'"),
    (ADAPTER, 8, "component 'prompt' (OutputAdapter): TemplateAssertionError: No filter named 'uper'"),
    (ADAPTER.replace("{{ wrod | uper }}", "{% if wrod %}"), 8, "(OutputAdapter): TemplateSyntaxError: Unexpected end"),
    (
        CHAIN.replace("value: first.value\n\no", "value: [first.value, second.value]\n\no"),
        12,
        "which a connection already feeds",
    ),
    (ASK.replace("  question: p", "  tools: llm.tools\n  question: p"), 13, "which a request cannot send"),
    (
        ASK.replace("  question: p", "  callback: llm.streaming_callback\n  question: p"),
        13,
        "which a request cannot send",
    ),
    (
        "components:\n  read: {type: parts.Read}\n  double: {type: parts.Double}\ninputs:\n"
        "  x: [read.documents, double.value]\n",
        5,
        "inputs.x goes to read.documents (list[Document]) and double.value (int), which have no type in common",
    ),
    (DOUBLE.replace("doubled: double.value", "doubled: double.times"), 15, "component 'double' has no output 'times'"),
    (
        ASK.replace("chat: question", "chat: qestion"),
        16,
        "chat names the input 'qestion', which is not in inputs; did you",
    ),
    (ASK.replace("chat: question", "chat: [question]"), 16, "chat must be a string"),
    (
        ASK.partition("inputs:")[0] + "chat: question\n",
        12,
        "chat names the input 'question', but the section inputs is missing",
    ),
    (DOUBLE + "chat: value\n", 17, "chat: the input 'value' takes int, expected str or list[ChatMessage]"),
    (
        ASK.replace("outputs:", "  more: prompt.more\noutputs:").replace("question }}", "question }}{{ more }}"),
        17,
        "'more' is",
    ),
    (ASK.replace("chat: question", "streaming_components: [prompt]"), 16, "No streaming component is named ['prompt']"),
    (
        ASK.replace("chat: question", "streaming_components: llm"),
        16,
        "must be 'all' or a list of component names, not 'llm'",
    ),
    (
        "components: {read: {type: parts.Read}}\ninputs: {d: read.documents, t: read.text}\nchat: t\n",
        3,
        "chat: the input 'd' is required, but a conversation provides only 't'",
    ),
    (ASK + "max_runs_per_component: many\n", 17, "max_runs_per_component must be an integer"),
    (ASK + "description: [1]\n", 17, "description must be a string"),
]


@pytest.mark.parametrize(("content", "line", "message"), WRONG)
def test_errors_name_the_line(content: str | bytes, line: int, message: str):
    error = problem(content)

    assert error.reason.startswith(f"double.yml:{line}: "), error.reason
    assert message in error.reason
    assert "\n" not in error.reason
    assert error.place is not None
    assert (error.place.file, error.place.line) == ("/pipelines/double.yml", line)


@pytest.mark.parametrize("content", [DOUBLE + "version: 1\n", "# é\n" + DOUBLE, "\ufeff" + DOUBLE, DOUBLE + "chat:\n"])
def test_unknown_keys_comments_and_byte_order_marks_are_accepted(content: str):
    assert wrapper(content).run_api(value=1)["double"] == {"value": 2}


def test_a_shared_input_is_required_if_one_socket_requires_it():
    made = wrapper(ASK.replace("prompt.question", "[prompt.question, prompt.template_variables]").replace("chat:", "#"))

    assert schema(made)["required"] == ["question"]
