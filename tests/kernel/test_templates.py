"""Mistakes in a template: its line in a file, for every component of Haystack that has one, and what was meant."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from haystack import Pipeline
from haystack.components.agents import Agent
from haystack.components.builders import ChatPromptBuilder, PromptBuilder
from haystack.components.converters import OutputAdapter
from haystack.components.generators.chat import MockChatGenerator
from haystack.components.routers import ConditionalRouter
from haystack.dataclasses import ChatMessage

from hayhooks.errors import Place
from hayhooks.kernel.name_hints import name_hint
from hayhooks.kernel.places import OpenFiles
from hayhooks.kernel.user_errors import headline, place_of

PROMPT = """Answer.

{% for document in documents %}
- {{ document.content }}
{% endfor %}
{% for word in words %}
{{ word }}
{% endfor %}
{{ question.text | upper }}
"""
COMPONENTS: dict[str, Callable[[str], Any]] = {
    "PromptBuilder": PromptBuilder,
    "ChatPromptBuilder": lambda text: ChatPromptBuilder([ChatMessage.from_user(text)]),
    "ChatPromptBuilder of a text": lambda text: ChatPromptBuilder(
        "{% message role='user' %}" + text + "{% endmessage %}"
    ),
    "OutputAdapter": lambda text: OutputAdapter(text, output_type=str),
    "ConditionalRouter": lambda text: ConditionalRouter(
        [{"condition": text, "output": "{{ question }}", "output_name": "a", "output_type": str}]
    ),
    "Agent": lambda text: Agent(chat_generator=MockChatGenerator("x"), user_prompt=text),
}
INPUTS: dict[str, Any] = {"documents": [{"content": "a"}], "words": [], "question": {"text": "x"}}


class Files(OpenFiles):
    """The files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def texts(self, near: Any) -> Any:
        return super().texts([str(self.folder / "wrapper.py")])


@pytest.fixture(params=COMPONENTS)
def fail(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., tuple[BaseException, Files]]:
    """Write a template into a file and use it in a component; return the error, and the files."""

    def run(template: str, **inputs: Any) -> tuple[BaseException, Files]:
        (tmp_path / "prompts").mkdir()
        (tmp_path / "prompts/answer.jinja").write_text(template)
        inputs = inputs or INPUTS
        if request.param == "Agent":
            inputs = inputs | {"messages": []}
        try:
            pipeline = Pipeline()
            pipeline.add_component("part", COMPONENTS[request.param](template))
            pipeline.run({"part": inputs})
        except Exception as error:
            return error, Files(tmp_path)
        raise AssertionError("nothing has failed")

    return run


MISTAKES = {  # what is wrong, its line, what is said, and what was meant
    "filter": ("upper", "uper", 9, "TemplateAssertionError: No filter named 'uper', in line", "upper"),
    "test": (
        "question.text",
        "(question is definde)",
        9,
        "TemplateAssertionError: No test named 'definde', in",
        "defined",
    ),
    "tag": (
        "{{ word }}\n{% endfor %}",
        "{{ word }}\n{% endfr %}",
        8,
        "TemplateSyntaxError: Encountered unknown",
        "endfor",
    ),
    "variable": ("document.content", "documnt.content", 4, "ValueError: Missing mandatory input", "'document'"),
    "key": ("question.text", "question.txt.lower()", 9, "UndefinedError: 'dict object' has no attribute", "text"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_its_line_in_the_file(fail: Callable[..., Any], mistake: str):
    right, wrong, line, told, meant = MISTAKES[mistake]
    error, files = fail(PROMPT.replace(right, wrong))
    place = place_of(error, files)

    assert headline(error).startswith(told)
    assert isinstance(place, Place)
    assert (Path(place.file).name, place.line) == ("answer.jinja", line)
    assert name_hint(error, files) == f"did you mean {meant}?"


def test_an_input_that_only_nearly_matches_names_both_ends(fail: Callable[..., Any]):
    error, files = fail(PROMPT.replace("in documents", "in documnts"))

    assert headline(error).startswith("ValueError: Input 'documents' not found in component 'part'")
    assert name_hint(error, files) == "did you mean 'documnts'? answer.jinja:3 asks for it"


def test_a_forgotten_input_is_told_with_the_line_that_asks_for_it(fail: Callable[..., Any]):
    error, files = fail(PROMPT, documents=[], question={})

    assert name_hint(error, files) == "answer.jinja:6 asks for it"
    assert "test_templates.py" in str(place_of(error, files))


def test_a_variable_that_a_template_has_assigned_or_was_given_is_meant(tmp_path: Path):
    text = "{% for author in all %}{{ autor.x }}{{ wordd.x }}{% endfor %}"
    builder = PromptBuilder(text, required_variables=["all"])
    for given, meant in (({"all": [1]}, "author"), ({"all": [1], "autor": {}, "word": ""}, "word")):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            builder.run(**given)

        assert name_hint(caught.value, Files(tmp_path)) == f"did you mean {meant}?"


def test_a_builder_that_is_run_alone_knows_what_it_was_given(tmp_path: Path):
    with pytest.raises(ValueError, match="Missing required") as caught:
        PromptBuilder("{{ qestion }}").run(question="x")

    assert name_hint(caught.value, Files(tmp_path)) == "did you mean 'question'?"
