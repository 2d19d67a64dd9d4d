"""Haystack's spans in the traces of requests, whatever runs and whoever else traces."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from haystack.tracing.logging_tracer import LoggingTracer
from haystack.tracing.tracer import disable_tracing, enable_tracing, tracer

from tests.cli.processes import started
from tests.live_server import LiveServer, eventually, replace, serving
from tests.wrappers import source

SETUP = """
import asyncio
import threading
import time

from haystack import Pipeline, SuperComponent, component, tracing
from haystack.components.agents import Agent
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import ComponentTool, tool

from hayhooks import BasePipelineWrapper, streaming_generator


@component
class Waits:
    @component.output_types(text=str)
    def run(self, text: str):
        time.sleep(float(text))
        return {"text": text}

    @component.output_types(text=str)
    async def run_async(self, text: str):
        await asyncio.sleep(float(text))
        return {"text": text}


@component
class Fails:
    @component.output_types(text=str)
    def run(self, text: str):
        raise ValueError("a bad word")


def pipeline_of(**components):
    pipeline = Pipeline()
    for name, instance in components.items():
        pipeline.add_component(name, instance)
    return pipeline


@tool
def add(a: int, b: int) -> int:
    "Add numbers."
    return a + b


@tool
def fail(secret: str) -> int:
    "Fail."
    raise ValueError("a bad tool")


def agent_that_calls(*calls, tools, **options):
    answers = [ChatMessage.from_assistant(tool_calls=[ToolCall(name, arguments) for name, arguments in calls]), "Done."]
    return Agent(chat_generator=MockChatGenerator(responses=answers), tools=tools, **options)


QUESTION = [ChatMessage.from_user("?")]


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): ...
"""


@pytest.fixture
def server(root: Path) -> Iterator[LiveServer]:
    with serving(root, traces=5) as server:
        yield server


def trace_of(server: LiveServer, answer: httpx.Response) -> Any:
    url = f"/traces/{answer.headers['x-request-id']}"
    return eventually(lambda: server.client.get(url).raise_for_status().json())


def traced(server: LiveServer, method: str, **arguments: Any) -> Any:
    """Serve a wrapper with that *method*, send it a request, and return the trace."""
    server.serve("it", SETUP + method)
    return trace_of(server, server.client.post("/it/run", json=arguments))


def tree(trace: Any) -> dict[str, list[str]]:
    """The spans' names below each span that has some, by its name."""
    below: dict[str, list[str]] = {}
    for span in trace["spans"][1:]:
        below.setdefault(trace["spans"][span["parent"]]["name"], []).append(span["name"])
    return below


def test_concurrent_components_are_side_by_side(server: LiveServer):
    trace = traced(
        server,
        """
    async def run_api_async(self) -> str:
        pipeline = pipeline_of(one=Waits(), two=Waits())
        await pipeline.run_async({"one": {"text": "0.2"}, "two": {"text": "0.2"}})
        return "done"
""",
    )

    assert tree(trace) == {"POST /it/run": ["run"], "run": ["one", "two"]}
    one, two = trace["spans"][2:]
    assert two["start_ms"] < one["start_ms"] + one["took_ms"]


def test_tools_of_agents_within_agents_and_super_components(server: LiveServer):
    trace = traced(
        server,
        """
    def run_api(self) -> str:
        inner = agent_that_calls(("add", {"a": 1, "b": 2}), ("fail", {"secret": "hidden"}), tools=[add, fail])
        asked = ComponentTool(component=inner, name="asked", description="Ask.",
                              parameters={"type": "object", "properties": {"messages": {"type": "array"}}})
        call = ("asked", {"messages": [QUESTION[0].to_dict()]})
        whole = SuperComponent(pipeline_of(outer=agent_that_calls(call, tools=[asked])))
        pipeline_of(whole=whole).run({"whole": {"messages": QUESTION}})
        return "done"
""",
    )
    names = [(span["kind"], span["name"]) for span in trace["spans"]]

    assert [kind for kind, _ in names if kind == "agent"].count("agent") == 6, names
    assert {("component", "whole"), ("component", "outer"), ("tool", "asked"), ("tool", "add")} <= set(names)
    tools = {span["name"]: span for span in trace["spans"] if span["kind"] == "tool"}
    assert tools["add"]["parent"] == tools["fail"]["parent"]
    assert tools["fail"]["error"] == "ValueError: a bad tool"
    assert tools["add"]["inputs"] == {"a": "int", "b": "int"}
    assert "hidden" not in json.dumps(trace)
    assert all(span["took_ms"] is not None for span in trace["spans"])


def test_a_component_that_fails_within_another_is_told_by_its_own_error(server: LiveServer):
    trace = traced(
        server,
        """
    def run_api(self) -> str:
        pipeline_of(outer=SuperComponent(pipeline_of(inner=Fails()))).run({"outer": {"text": "x"}})
""",
    )

    assert {span["error"] for span in trace["spans"][1:]} == {"ValueError: a bad word"}
    assert [span["name"] for span in trace["spans"][1:]] == ["run", "outer", "run", "inner"]
    assert [span["parent"] for span in trace["spans"]] == [None, 0, 1, 2, 3]


def test_a_span_in_a_thread_without_the_context_has_the_parent_that_it_is_given(server: LiveServer):
    trace = traced(
        server,
        """
    def run_api(self) -> str:
        def work():
            with tracing.tracer.trace("mine.in_a_thread", parent_span=span):
                with tracing.tracer.trace("mine.below"):
                    pass

        with tracing.tracer.trace("mine.around") as span:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        return "done"
""",
    )

    assert tree(trace) == {"POST /it/run": ["around"], "around": ["in_a_thread"], "in_a_thread": ["below"]}


def test_spans_of_a_stream_end_after_its_head(server: LiveServer):
    server.serve(
        "it",
        SETUP
        + """
    def run_api(self):
        pipeline = pipeline_of(llm=MockChatGenerator(responses=["one two three"]))
        return streaming_generator(pipeline, pipeline_run_args={"llm": {"messages": QUESTION}})
""",
    )
    with server.client.stream("POST", "/it/run", json={}) as answer:
        assert answer.read()
    trace = trace_of(server, answer)

    assert tree(trace) == {"POST /it/run": ["run"], "run": ["llm"]}
    assert trace["chunks"] > 1
    assert all(span["took_ms"] is not None for span in trace["spans"])


ASYNC_WAIT = """
    async def run_api_async(self) -> str:
        await pipeline_of(waits=Waits()).run_async({"waits": {"text": "30"}})
"""


def test_a_request_that_is_cancelled_has_spans_that_say_so(server: LiveServer):
    server.serve("it", SETUP + ASYNC_WAIT)
    for timeout_s in (0.5, 10):  # the second where a busy machine has not begun
        request_id = f"gone-{timeout_s:g}"
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/it/run", json={}, headers={"X-Request-Id": request_id}, timeout=timeout_s)
        trace = eventually(lambda: server.client.get(f"/traces/{request_id}").raise_for_status().json())  # noqa: B023
        if len(trace["spans"]) == 3:
            break

    assert (trace["cancelled"], trace["status"]) == (True, 499)
    assert [span["error"] for span in trace["spans"][1:]] == ["CancelledError"] * 2


@pytest.mark.parametrize(
    "method",
    [
        ASYNC_WAIT,
        """
    def run_api(self) -> str:
        pipeline_of(waits=Waits()).run({"waits": {"text": "1.3"}})
""",
    ],
    ids=["async", "sync"],
)
def test_a_request_that_is_out_of_time_shows_where_it_was(root: Path, method: str):
    with serving(root, traces=5, request_timeout=1) as server:
        trace = traced(server, method)

        assert trace["status"] == 504
        assert tree(trace) == {"POST /it/run": ["run"], "run": ["waits"]}
        ended = eventually(
            lambda: (found := server.client.get(f"/traces/{trace['id']}").json())["spans"][2]["took_ms"] and found
        )
        assert ended["took_ms"] == trace["took_ms"]


def test_a_yaml_pipeline_has_spans(server: LiveServer):
    replace(
        server.root / "greet.yml",
        "components:\n"
        "  prompt:\n"
        "    type: haystack.components.builders.prompt_builder.PromptBuilder\n"
        "    init_parameters: {template: 'Hello {{ who }}', required_variables: [who]}\n"
        "inputs: {who: prompt.who}\n"
        "outputs: {text: prompt.prompt}\n",
    )
    answer = eventually(lambda: server.client.post("/greet/run", json={"who": "you"}).raise_for_status())

    assert tree(trace_of(server, answer)) == {"POST /greet/run": ["run"], "run": ["prompt"]}


RUNS = """
    def run_api(self) -> str:
        pipeline_of(waits=Waits()).run({"waits": {"text": "0"}})
        return "done"
"""


def test_two_applications_note_each_span_once(root: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    with serving(root, traces=5) as first:
        with serving(tmp_path / "other", traces=5) as second:
            assert len(traced(second, RUNS)["spans"]) == 3
        assert len(traced(first, RUNS)["spans"]) == 3
    assert "trace" not in vars(tracer)


@pytest.mark.parametrize("content", [False, True])
def test_spans_are_noted_beside_a_tracer_that_is_enabled_later(
    server: LiveServer, content: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tracer, "is_content_tracing_enabled", content)
    enable_tracing(LoggingTracer())
    try:
        trace = traced(server, RUNS)
    finally:
        disable_tracing()

    assert tree(trace) == {"POST /it/run": ["run"], "run": ["waits"]}
    assert trace["spans"][2]["inputs"] == {"text": "0" if content else "str of 1 characters"}


def test_haystack_is_not_imported_before_a_wrapper_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HAYHOOKS_TRACES", "5")
    spies = source("echo").replace(
        "return", "import sys\n        return str('haystack' in sys.modules)\n        return", 1
    )
    replace(tmp_path / "pipelines/spies/pipeline_wrapper.py", spies)
    with started(tmp_path, "run") as server:
        assert server.post("/spies/run", {"text": ""}).json() == {"result": "False"}
        replace(
            tmp_path / "pipelines/late/pipeline_wrapper.py",
            "from hayhooks import BasePipelineWrapper\n\n\n"
            "class PipelineWrapper(BasePipelineWrapper):\n"
            "    def setup(self): ...\n\n"
            "    def run_api(self) -> str:\n"
            "        from haystack import Pipeline\n"
            "        Pipeline().run({})\n"
            "        return 'done'\n",
        )
        answer = eventually(lambda: server.post("/late/run", {}).raise_for_status())
        trace = eventually(lambda: server.get(f"/traces/{answer.headers['x-request-id']}").raise_for_status().json())

        assert tree(trace) == {"POST /late/run": ["run"]}
