"""Pipelines as SVG."""

import re
from xml.etree import ElementTree as ET

import pytest

from hayhooks.drawing.graph import Edge, Graph, Node, Socket
from hayhooks.drawing.svg import svg

NAMESPACE = "{http://www.w3.org/2000/svg}"
NASTY = [
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "a & b ]]> <!-- c",
    "größe 漢字 \U0001f600",
    "\x00\x1b[31m\x7f",
    "\ud800",
    "line\nbreak",
    "x" * 5_000,
    "",
]


def component(name: str, type_: str = "Component", **parts: object) -> Node:
    return Node(name, type_, **{"model": None, "tools": [], "inner": None, **parts})  # type: ignore[arg-type]  # as the tests say


def edge(sender: int | None, receiver: int | None, name: str = "text", *, is_mandatory: bool = True) -> Edge:
    return Edge(sender, receiver, [Socket(name, "str")], is_mandatory)


def drawn(*graphs: Graph) -> ET.Element:
    return ET.fromstring(svg("it", list(graphs)))


def components(root: ET.Element) -> list[str]:
    return [name for each in root.iter() if (name := each.get("data-component")) is not None]


def test_a_pipeline_has_its_components_sockets_inputs_and_outputs():
    root = drawn(
        Graph("p", [component("prompt", "PromptBuilder"), component("llm", "Model")], [
            edge(None, 0, "question"), edge(0, 1, "prompt → messages"), edge(1, None, "replies", is_mandatory=False),
        ])
    )  # fmt: skip

    assert components(root) == ["prompt", "llm"]
    shown = [text.text for text in root.iter(f"{NAMESPACE}text")]
    assert {"input", "question: str", "prompt", "PromptBuilder", "prompt → messages", "replies: str", "output"} <= {
        *shown
    }
    assert len([path for path in root.iter(f"{NAMESPACE}path") if path.get("stroke-dasharray")]) == 1


def test_several_connections_of_two_components_are_one_line():
    one = drawn(Graph("p", [component("a"), component("b")], [edge(0, 1, "x")]))
    many = drawn(Graph("p", [component("a"), component("b")], [edge(0, 1, str(number)) for number in range(9)]))

    assert len(list(one.iter(f"{NAMESPACE}path"))) == len(list(many.iter(f"{NAMESPACE}path")))
    assert "and 5 more" in "".join(many.itertext())


def test_several_pipelines_stand_in_frames_with_their_names():
    text = "".join(drawn(Graph("indexing", [component("a")], []), Graph("query", [component("b")], [])).itertext())

    assert "indexing" in text
    assert "query" in text


def test_an_agent_shows_its_generator_and_tools_and_not_all_of_very_many():
    tools = [f"tool_{number}" for number in range(99)]
    root = drawn(Graph("agent", [component("agent", "Agent", model="Generator", tools=tools)], []))

    assert components(root) == ["agent", "llm"]
    assert len([each for each in root.iter() if each.get("data-tool")]) == 30
    assert "and 69 more" in "".join(root.itertext())


def test_a_pipeline_inside_of_a_component_is_inside_of_its_box():
    inner = Graph("rag", [component("retriever"), component("reader")], [edge(0, 1)])

    assert components(drawn(Graph("p", [component("rag", inner=inner)], [edge(None, 0)]))) == [
        "rag",
        "retriever",
        "reader",
    ]


@pytest.mark.parametrize("name", NASTY)
def test_names_are_text(name: str):
    graph = Graph(
        name,
        [component(name, name, model=name, tools=[name]), component("b", inner=Graph(name, [component(name)], []))],
        [Edge(0, 1, [Socket(name, name)], True), edge(None, 0, name)],
    )

    root = ET.fromstring(svg(name, [graph, graph]))

    assert {each.tag.removeprefix(NAMESPACE) for each in root.iter()} <= {"svg", "g", "rect", "path", "text", "title"}
    assert not [key for each in root.iter() for key in each.attrib if re.match("on|style|href", key)]
    if name.isprintable():
        assert name in components(root)
    assert len(max(root.itertext(), key=len)) <= 500


def test_a_component_that_feeds_itself_is_drawn():
    assert components(drawn(Graph("p", [component("a")], [edge(0, 0)]))) == ["a"]


def test_200_components_in_a_chain_with_a_cycle_are_drawn():
    edges = [edge(number, number + 1) for number in range(199)] + [edge(199, 0), edge(None, 0), edge(100, None)]

    assert len(components(drawn(Graph("p", [component(f"c{number}") for number in range(200)], edges)))) == 200


def test_too_much_is_refused():
    nodes = [component("agent", "Agent", model="Generator", tools=["tool"] * 1_000) for _ in range(4)]

    with pytest.raises(ValueError, match="it has 4004 components, tools and connections, more than 3000"):
        svg("it", [Graph("p", nodes, [])])


def test_it_has_the_colours_of_the_page_or_of_the_system():
    image = svg("it", [Graph("p", [component("a")], [edge(None, 0)])]).decode()

    assert not re.search("#[0-9a-f]{3}|rgb|<style", image)
    assert 'color="var(--text, CanvasText)"' in image
