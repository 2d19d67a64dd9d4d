from dataclasses import dataclass
from typing import Any

import pytest
from haystack import Pipeline, component
from haystack.dataclasses import ChatMessage, Document
from pydantic import BaseModel

from hayhooks import coerce_pipeline_inputs


class Model(BaseModel):
    number: int


@dataclass
class Point:
    x: int


@component
class Taker:
    @component.output_types(out=Any)
    def run(
        self,
        messages: list[ChatMessage],
        document: Document | None = None,
        model: Model | None = None,
        points: list[Point] | None = None,
        either: Document | ChatMessage | None = None,
        meta: dict[str, Any] | None = None,
        text: str = "",
    ) -> dict[str, Any]:
        return {"out": [messages, document, model, points, either, meta, text]}


@pytest.fixture
def pipeline() -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("taker", Taker())
    return pipeline


GIVEN: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}, ChatMessage.from_assistant("yes")],
    "document": {"content": "text", "meta": {"a": 1}},
    "model": {"number": 3},
    "points": [{"x": 1}, {"x": 2}],
    "meta": {"a": {"b": 1}},
    "text": "as it is",
    "unknown": [{"a": 1}],
}


@pytest.mark.parametrize("by_component", [True, False])
def test_dicts_become_what_the_inputs_take(pipeline: Pipeline, by_component: bool):
    data = coerce_pipeline_inputs(pipeline, {"taker": GIVEN} if by_component else GIVEN)
    if by_component:
        assert list(data) == ["taker"]
        data = data["taker"]

    assert data["messages"] == [ChatMessage.from_user("hi"), ChatMessage.from_assistant("yes")]
    assert (data["document"].content, data["document"].meta) == ("text", {"a": 1})
    assert data["model"] == Model(number=3)
    assert data["points"] == [Point(1), Point(2)]
    assert {name: data[name] for name in ("meta", "text", "unknown")} == {
        name: GIVEN[name] for name in ("meta", "text", "unknown")
    }
    assert isinstance(GIVEN["messages"][0], dict)


def test_what_was_coerced_runs(pipeline: Pipeline):
    data = coerce_pipeline_inputs(pipeline, {"messages": [ChatMessage.from_user("hi").to_dict()]})

    assert pipeline.run(data)["taker"]["out"][0] == [ChatMessage.from_user("hi")]


def test_flat_inputs_that_are_all_dicts_are_told_from_components(pipeline: Pipeline):
    data = coerce_pipeline_inputs(pipeline, {"document": {"content": "text"}})

    assert isinstance(data["document"], Document)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"messages": [{"content": ["no role"]}], "text": ""}, "input 'messages': not a ChatMessage"),
        ({"model": {"number": "x"}, "text": ""}, "input 'model'"),
        ({"either": {"content": "x"}, "text": ""}, "the input takes ChatMessage, Document"),
    ],
)
def test_a_dict_that_does_not_fit_is_an_error_that_names_the_input(pipeline: Pipeline, given, message: str):
    with pytest.raises(ValueError, match=message):
        coerce_pipeline_inputs(pipeline, given)
