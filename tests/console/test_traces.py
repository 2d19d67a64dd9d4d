"""``/traces``: what the last requests did, span by span."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from haystack.tracing.tracer import Span, Tracer, disable_tracing, enable_tracing, is_tracing_enabled, tracer

from hayhooks.observability.traces import Trace, shape
from tests.cli.processes import started
from tests.live_server import LiveServer, eventually, replace, serving
from tests.wrappers import source

PIPELINE = """
from haystack import Pipeline, component
from haystack.components.builders import PromptBuilder

from hayhooks import BasePipelineWrapper


@component
class Checks:
    @component.output_types(text=str)
    def run(self, text: str):
        if "bad" in text:
            raise ValueError("a bad word")
        return {"text": text}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("prompt", PromptBuilder("You said {{ text }}", required_variables=["text"]))
        self.pipeline.add_component("checks", Checks())
        self.pipeline.connect("prompt.prompt", "checks.text")

    METHOD
"""

SYNC = PIPELINE.replace(
    "METHOD",
    "def run_api(self, text: str) -> str:\n"
    '        return self.pipeline.run({"prompt": {"text": text}})["checks"]["text"]',
)
ASYNC = PIPELINE.replace(
    "METHOD",
    "async def run_api_async(self, text: str) -> str:\n"
    '        return (await self.pipeline.run_async({"prompt": {"text": text}}))["checks"]["text"]',
)

AGENT = """
from haystack.components.agents import Agent
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import tool

from hayhooks import BasePipelineWrapper, streaming_generator


@tool
def add(a: int, b: int) -> int:
    "Add numbers."
    return a + b


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        answers = [ChatMessage.from_assistant(tool_calls=[ToolCall("add", {"a": 1, "b": 2})]), "It is 3."]
        self.agent = Agent(chat_generator=MockChatGenerator(responses=answers), tools=[add])

    def run_chat_completion(self, model, messages, body):
        question = [ChatMessage.from_user("1 + 2?")]
        return streaming_generator(pipeline=self.agent, pipeline_run_args={"messages": question})
"""


@pytest.fixture
def server(root: Path) -> Iterator[LiveServer]:
    with serving(root, traces=5) as server:
        yield server


def trace_of(server: LiveServer, answer: httpx.Response) -> Any:
    request_id = answer.headers["x-request-id"]
    return eventually(lambda: server.client.get(f"/traces/{request_id}").raise_for_status().json())


def spans(trace: Any) -> list[tuple[str, str, str]]:
    """Kind, name and the name of the span around it."""
    return [
        (span["kind"], span["name"], "" if span["parent"] is None else trace["spans"][span["parent"]]["name"])
        for span in trace["spans"]
    ]


@pytest.mark.parametrize("wrapper", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_request_has_a_span_for_each_component(server: LiveServer, wrapper: str):
    server.serve("it", wrapper)
    answer = server.client.post("/it/run", json={"text": "hello"})
    trace = trace_of(server, answer)

    assert spans(trace) == [
        ("request", "POST /it/run", ""),
        ("pipeline", "run", "POST /it/run"),
        ("component", "prompt", "run"),
        ("component", "checks", "run"),
    ]
    request, pipeline, prompt, checks = trace["spans"]
    assert request["took_ms"] >= pipeline["took_ms"] >= prompt["took_ms"] > 0
    assert prompt["type"] == "PromptBuilder"
    assert pipeline["inputs"] == {"prompt.text": "str of 5 characters"}
    assert pipeline["outputs"] == {"checks.text": "str of 14 characters"}
    assert checks["inputs"] == {"text": "str of 14 characters"}
    assert checks["outputs"] == {"text": "str of 14 characters"}
    assert "hello" not in str(trace)
    assert trace["revision"] == answer.headers["x-hayhooks-revision"]


def test_a_component_that_fails_has_its_error(server: LiveServer):
    server.serve("it", SYNC)
    trace = trace_of(server, server.client.post("/it/run", json={"text": "bad"}))

    assert trace["status"] == 500
    assert "a bad word" in trace["error"]
    assert [span["name"] for span in trace["spans"] if span["error"]] == ["POST /it/run", "run", "checks"]
    assert trace["spans"][-1]["error"] == "ValueError: a bad word"


def test_a_request_that_is_refused_says_why(server: LiveServer):
    server.serve("it", SYNC)
    trace = trace_of(server, server.client.post("/it/run", json={}))

    assert (trace["status"], trace["error"]) == (422, "text: Field required")
    assert trace["spans"][0]["error"] == trace["error"]


def test_steps_and_tools_of_an_agent_that_streams_are_spans(server: LiveServer):
    server.serve("it", AGENT)
    trace = trace_of(
        server, server.client.post("/it/chat", json={"messages": [{"role": "user", "content": "?"}], "stream": True})
    )

    kinds = [(kind, name) for kind, name, _ in spans(trace)]
    assert ("tool", "add") in kinds
    assert ("agent", "step 0") in kinds or ("agent", "step 1") in kinds
    assert all(span["took_ms"] is not None for span in trace["spans"])


def test_requests_at_the_same_time_do_not_mix(server: LiveServer):
    server.serve("it", SYNC)
    with ThreadPoolExecutor(4) as threads:
        answers = list(
            threads.map(lambda text: server.client.post("/it/run", json={"text": text}), ["a", "bb", "ccc", "dddd"])
        )
    lengths = [trace_of(server, answer)["spans"][-1]["inputs"]["text"] for answer in answers]

    assert lengths == [f"str of {9 + size} characters" for size in (1, 2, 3, 4)]


def test_contents_are_told_where_haystack_may_trace_them(server: LiveServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracer, "is_content_tracing_enabled", True)
    server.serve("it", SYNC)
    trace = trace_of(server, server.client.post("/it/run", json={"text": "hello"}))

    assert trace["spans"][-1]["inputs"] == {"text": "You said hello"}


def test_the_list_is_bounded_and_can_be_narrowed(server: LiveServer):
    server.serve("it", SYNC)
    server.serve("echo", source("echo"), ANSWER="echo ")
    for text in ("a", "bad", "b", "c"):
        server.client.post("/it/run", json={"text": text})
    for _ in range(3):
        server.run("echo", text="x")
    server.client.get("/echo/schema").raise_for_status()  # as the console does

    def listed(**params: str | int) -> list[Any]:
        traces: list[Any] = server.client.get("/traces", params=params).raise_for_status().json()["traces"]
        return traces

    eventually(lambda: len(listed()) == 5 and listed()[0]["pipeline"] == "echo")
    assert [each["pipeline"] for each in listed()] == ["echo"] * 3 + ["it"] * 2
    assert len(listed(limit=2)) == 2
    assert {each["pipeline"] for each in listed(pipeline="it")} == {"it"}
    assert listed(status="error") == listed(status="5xx") == []
    assert listed()[0]["spans"] == 1


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("limit=0", "'limit' must be from 1 to 1,000"),
        ("limit=x", "'limit'"),
        ("limit=\u0663", "'limit'"),
        ("status=6xx", "'status' must be"),
        ("before=nan", "'before' must be Unix seconds, not 'nan'"),
        ("before=today", "'before' must be"),
    ],
)
def test_a_wrong_query_is_refused(server: LiveServer, query: str, what: str):
    answer = server.client.get(f"/traces?{query}")

    assert answer.status_code == 400
    assert what in answer.json()["detail"]


def test_an_unknown_request_is_not_found(server: LiveServer):
    answer = server.client.get("/traces/none")

    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no trace of the request 'none'")


def test_without_the_setting_nothing_is_traced(root: Path):
    with serving(root) as server:
        answer = server.client.get("/traces")

        assert (answer.status_code, answer.json()["detail"]) == (404, "no traces are kept: HAYHOOKS_TRACES is 0")
        assert not is_tracing_enabled()
        assert "trace" not in vars(tracer)
        assert server.app.hooks.on_request_start == []


def test_another_tracer_gets_its_spans_as_before(root: Path):
    seen: list[str] = []

    class OwnSpan(Span):
        def set_tag(self, key: str, value: Any) -> None:
            seen.append(key)

    class OwnTracer(Tracer):
        @contextmanager
        def trace(self, operation_name: str, tags: Any = None, parent_span: Any = None) -> Iterator[Span]:
            seen.append(operation_name)
            assert parent_span is None or type(parent_span) is OwnSpan
            yield OwnSpan()

        def current_span(self) -> Span | None:
            return None

    enable_tracing(OwnTracer())
    try:
        with serving(root, traces=5) as server:
            server.serve("it", SYNC)
            trace = trace_of(server, server.client.post("/it/run", json={"text": "hello"}))
        assert type(tracer.actual_tracer) is OwnTracer
    finally:
        disable_tracing()

    assert len(trace["spans"]) == 4
    assert {"haystack.pipeline.run", "haystack.component.run", "haystack.component.visits"} <= set(seen)


def test_older_traces_are_listed_before_a_time(server: LiveServer):
    server.serve("echo", source("echo"), ANSWER="echo ")
    for text in "abc":
        server.run("echo", text=text)
    newest, middle, oldest = eventually(lambda: (found := server.client.get("/traces").json()["traces"])[2:] and found)

    assert newest["at"] > middle["at"]
    assert server.client.get("/traces", params={"before": middle["at"]}).json()["traces"] == [oldest]
    assert server.client.get("/traces", params={"before": oldest["at"]}).json()["traces"] == []


def test_a_trace_is_found_by_any_id_of_a_client(server: LiveServer):
    server.serve("it", SYNC)
    for request_id in ("a/b", "a//b/", "a b?c#d", "caf\u00e9"):
        headers = {b"X-Request-Id": request_id.encode("latin-1")}
        server.client.post("/it/run", json={"text": "x"}, headers=headers).raise_for_status()
        url = "/traces/" + quote(request_id, safe="")
        found = eventually(partial(lambda url: server.client.get(url).raise_for_status(), url))
        assert found.json()["id"] == request_id


def test_workers_know_of_each_others_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HAYHOOKS_TRACES", "1000")  # one of the workers may answer many before the other answers one
    replace(tmp_path / "pipelines/it/pipeline_wrapper.py", SYNC)
    with started(tmp_path, "run", "--workers", "2") as server:
        eventually(lambda: server.get("/status/it").status_code == 200)
        ids: set[str] = set()

        def both_have_answered() -> bool:
            ids.add(server.post("/it/run", {"text": "x"}).headers["x-request-id"])
            return len({request_id[:16] for request_id in ids}) > 1

        eventually(both_have_answered)

        def is_known() -> bool:
            listed = server.get("/traces?limit=1000").json()["traces"]
            return {each["id"] for each in listed} == ids and all(each["spans"] == 4 for each in listed)

        eventually(lambda: all(is_known() for _ in range(4)), "all workers to know of all requests")

        def has_spans(request_id: str) -> bool:
            found = server.get(f"/traces/{request_id}").json()["spans"]
            return [span["name"] for span in found][1:] == ["run", "prompt", "checks"]

        for request_id in ids:  # the last four answers may have been of one worker
            eventually(partial(has_spans, request_id))


def test_a_key_is_needed(root: Path):
    with serving(root, traces=5, api_keys=["secret-secret-secret"]) as server:
        assert server.client.get("/traces").status_code == 401
        assert server.client.get("/traces/some").status_code == 401


def test_a_trace_has_a_bound_and_asks_nothing_of_objects_of_the_user():
    class Evil:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

        def __str__(self) -> str:
            raise RuntimeError

    trace = Trace()
    assert trace.describe(
        {"a": Evil(), "b": [Evil(), 1], "c": b"ab", "d": {}, "e": None, Evil(): 1}, with_content=False
    ) == {
        "a": "Evil",
        "b": "list[Evil | int] of 2",
        "c": "bytes of 2",
        "d": "dict of 0",
        "e": "None",
        "(Evil.__str__ raised RuntimeError)": "int",
    }
    assert len(shape([type("T" * 500, (), {})()])) <= 220
    assert trace.summary() == {"spans": 1, "cut": False}

    texts = [trace.describe({"text": "x" * 10_000}, with_content=True) for _ in range(1_000)]
    assert sum(len(text.get("text", "")) for text in texts) <= 250_000
    assert trace.is_cut

    trace = Trace()
    for number in range(1_000):
        trace.start("haystack.component.run", {"haystack.component.name": number}, None)
    assert trace.summary() == {"spans": 500, "cut": True}
