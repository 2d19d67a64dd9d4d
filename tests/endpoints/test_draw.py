"""``/draw/{name}``: what a wrapper's pipelines look like."""

import re
from xml.etree import ElementTree as ET

import pytest

from tests.live_server import LiveServer

PIPELINE = """
from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder, PromptBuilder
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component(FIRST, PromptBuilder("{{ question }}", required_variables=["question"]))
        self.pipeline.add_component("chat", ChatPromptBuilder([ChatMessage.from_user("{{ text }}")]))
        self.pipeline.add_component("llm", MockChatGenerator(responses=["a"]))
        self.pipeline.connect(f"{FIRST}.prompt", "chat.text")
        self.pipeline.connect("chat.prompt", "llm.messages")

    def run_api(self) -> str:
        return ""
"""

AGENT = """
from haystack.components.agents import Agent
from haystack.components.builders import PromptBuilder
from haystack.components.generators.chat import MockChatGenerator
from haystack import Pipeline
from haystack.tools import tool

from hayhooks import BasePipelineWrapper


@tool
def add(a: int, b: int) -> int:
    "Add numbers."
    return a + b


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.agent = Agent(chat_generator=MockChatGenerator(responses=["a"]), tools=[add])
        self.other = Pipeline()
        self.other.add_component("prompt", PromptBuilder("x"))
        self.again = self.other

    def run_api(self) -> str:
        return ""
"""

CONTENT_SECURITY_POLICY = "default-src 'none'; sandbox"


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


def texts(drawing: bytes) -> str:
    return " ".join(ET.fromstring(drawing).itertext())


def test_a_pipeline_is_drawn_with_its_inputs_connections_and_outputs(server: LiveServer):
    server.serve("asks", PIPELINE, first="prompt")

    answer = server.client.get("/draw/asks")

    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == (
        "flowchart TD\n"
        '  p0_0["prompt<br/>PromptBuilder"]\n'
        '  p0_1["chat<br/>ChatPromptBuilder"]\n'
        '  p0_2["llm<br/>MockChatGenerator"]\n'
        '  p0_in(["input"])\n'
        '  p0_out(["output"])\n'
        '  p0_in -->|"question: Any"| p0_0\n'
        '  p0_0 -->|"prompt → text: str"| p0_1\n'
        '  p0_1 -->|"prompt → messages: list[ChatMessage]"| p0_2\n'
        '  p0_2 -->|"replies: list[ChatMessage]"| p0_out\n'
    )


def test_several_pipelines_and_agents_are_drawn(server: LiveServer):
    """Several pipelines stand in frames each once and agents with their tools."""
    server.serve("several", AGENT)

    text = server.client.get("/draw/several").text

    assert re.findall(r'subgraph p\d\["(\w+)"\]', text) == ["agent", "other"]
    assert 'p0_0 --- p0_0_llm(["MockChatGenerator"])' in text
    assert 'p0_0 --- p0_0_t0[/"add"/]' in text


@pytest.mark.parametrize(
    ("query", "accept"), [("?format=svg", "*/*"), ("", "image/avif,image/svg+xml,*/*;q=0.8")], ids=["query", "accept"]
)
def test_an_svg_is_drawn_here_and_can_do_nothing(server: LiveServer, query: str, accept: str):
    server.serve("asks", PIPELINE, first="prompt")

    answer = server.client.get(f"/draw/asks{query}", headers={"Accept": accept})

    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "PromptBuilder" in texts(answer.content)


def test_format_wins_over_accept(server: LiveServer):
    server.serve("asks", PIPELINE, first="prompt")

    answer = server.client.get("/draw/asks?format=mermaid", headers={"Accept": "image/svg+xml"})

    assert answer.text.startswith("flowchart")


@pytest.mark.parametrize(
    "name",
    ['"]; click p0_0 "javascript:alert(1)', "<script>alert(1)</script>", "a#b;c", "line\nbreak", "`code`", "größe"],
)
def test_names_of_components_mean_nothing_to_mermaid_or_html(server: LiveServer, name: str):
    server.serve("asks", PIPELINE, first=name)

    text = server.client.get("/draw/asks").text
    drawn = server.client.get("/draw/asks?format=svg").content

    assert len(text.splitlines()) == 10
    assert "<script" not in text
    assert b"<script" not in drawn
    assert name in texts(drawn)


def test_a_long_name_is_cut(server: LiveServer):
    server.serve("asks", PIPELINE, first="x" * 5_000)

    assert "x" * 197 + "..." in server.client.get("/draw/asks").text
    assert len(server.client.get("/draw/asks").text) < 2_000


def test_without_a_pipeline_there_is_nothing_to_draw(server: LiveServer):
    server.serve("echo", answer="")

    answer = server.client.get("/draw/echo")

    assert answer.status_code == 404
    assert "no Haystack pipeline" in answer.json()["detail"]


def test_what_is_not_served_is_not_drawn(server: LiveServer):
    server.write("broken", "raise ValueError('no')")
    server.eventually(lambda: server.state("broken")["state"] == "failed")

    assert server.client.get("/draw/nobody").status_code == 404
    assert server.client.get("/draw/broken").status_code == 503
    assert "no" in server.client.get("/draw/broken").json()["detail"]


def test_another_format_is_refused_with_those_that_there_are(server: LiveServer):
    answer = server.client.get("/draw/echo?format=png")

    assert answer.status_code == 400
    assert answer.json()["detail"] == "'format' must be 'mermaid' or 'svg', not 'png'"


def test_a_new_revision_is_drawn_anew(server: LiveServer):
    server.serve("asks", PIPELINE, first="before")
    assert "before" in server.client.get("/draw/asks").text
    assert "before" in texts(server.client.get("/draw/asks?format=svg").content)

    server.serve("asks", PIPELINE, first="after")

    assert "after" in server.client.get("/draw/asks").text
    assert "after" in texts(server.client.get("/draw/asks?format=svg").content)


BREAKS = """
from haystack.components.agents import Agent
from haystack.components.generators.chat import MockChatGenerator
from haystack.tools import Toolset

from hayhooks import BasePipelineWrapper


class Broken(Toolset):
    broken = False

    def __iter__(self):
        if self.broken:
            raise RuntimeError("no tools today")
        return super().__iter__()


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        tools = Broken([])
        self.agent = Agent(chat_generator=MockChatGenerator(responses=["a"]), tools=tools)
        tools.broken = True

    def run_api(self) -> str:
        return "runs"
"""


def test_a_toolset_that_raises_is_told_of_and_is_the_pipelines_fault(server: LiveServer):
    server.serve("breaks", BREAKS)

    answer = server.client.get("/draw/breaks")

    assert answer.status_code == 500
    assert answer.json() == {"detail": "Pipeline execution failed: it cannot be drawn: RuntimeError: no tools today"}
