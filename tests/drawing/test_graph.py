"""What a drawing shows of a wrapper's attributes, and Mermaid's text of it."""

from types import SimpleNamespace
from typing import Any

from haystack import Pipeline
from haystack.components.agents import Agent
from haystack.components.builders import PromptBuilder
from haystack.components.generators.chat import MockChatGenerator
from haystack.core.super_component import SuperComponent
from haystack.tools import Toolset, tool

from hayhooks.drawing.graph import graphs
from hayhooks.drawing.mermaid import mermaid


@tool
def add(a: int, b: int) -> int:
    "Add."
    return a + b


def agent(*tools: Any) -> Agent:
    return Agent(chat_generator=MockChatGenerator(responses=["a"]), tools=list(tools))


def pipeline_of(name: str, component: Any) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component(name, component)
    return pipeline


def test_a_wrapper_without_pipelines_and_an_empty_pipeline_have_nothing_to_draw():
    assert graphs(SimpleNamespace(number=1, pipeline=Pipeline())) == []


def test_an_agent_inside_a_pipeline_shows_its_tools():
    text = mermaid(graphs(SimpleNamespace(pipeline=pipeline_of("agent", agent(Toolset([add]))))))

    assert 'p0_0["agent<br/>Agent"]' in text
    assert 'p0_0 --- p0_0_t0[/"add"/]' in text


def test_an_agent_that_is_no_component_has_the_name_of_its_attribute():
    [graph] = graphs(SimpleNamespace(helper=agent(add)))

    assert (graph.nodes[0].name, graph.nodes[0].model, graph.nodes[0].tools) == ("helper", "MockChatGenerator", ["add"])
    assert graph.edges == []


def test_a_component_that_is_a_pipeline_has_it_inside_down_to_a_depth():
    pipeline = pipeline_of("prompt", PromptBuilder("{{ question }}"))
    for _ in range(9):
        pipeline = pipeline_of("outer", SuperComponent(pipeline))

    [graph] = graphs(SimpleNamespace(pipeline=pipeline))

    depth, node = 0, graph.nodes[0]
    while node.inner is not None:
        depth, node = depth + 1, node.inner.nodes[0]
    assert depth == 2
