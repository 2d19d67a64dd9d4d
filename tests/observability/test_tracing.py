"""Traces, as a collector gets them: a server of ours that speaks OTLP over HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.cli.processes import Process, started
from tests.live_server import ECHO, eventually, replace

WRAPPER = """
from haystack import Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage

from hayhooks import BasePipelineWrapper, async_streaming_generator, streaming_generator
from hayhooks.server.tracing import trace_operation


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("prompt", ChatPromptBuilder([ChatMessage.from_user("{{ text }}")]))
        self.pipeline.add_component("llm", MockChatGenerator(response_fn=lambda messages: "one two three"))
        self.pipeline.connect("prompt.prompt", "llm.messages")
"""

METHODS = {
    "sync": """
    def run_api(self, text: str) -> str:
        with trace_operation("mine", tags={"hayhooks.mine": "yes"}):
            return self.pipeline.run({"prompt": {"text": text}})["llm"]["replies"][0].text
""",
    "async": """
    async def run_api_async(self, text: str) -> str:
        with trace_operation("mine", tags={"hayhooks.mine": "yes"}):
            return (await self.pipeline.run_async({"prompt": {"text": text}}))["llm"]["replies"][0].text
""",
    "stream": """
    def run_api(self, text: str):
        return streaming_generator(self.pipeline, pipeline_run_args={"prompt": {"text": text}})
""",
    "async_stream": """
    async def run_api_async(self, text: str):
        return async_streaming_generator(self.pipeline, pipeline_run_args={"prompt": {"text": text}})
""",
    "broken": """
    def run_api(self, text: str):
        raise ValueError("it is broken")
""",
    "breaking": """
    def run_api(self, text: str):
        yield "one"
        raise ValueError("it broke")
""",
}


class Collector:
    """What has been received."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Any] = []
        self.services: set[str] = set()

    def trace_of(self, request_id: str) -> dict[str, Any]:
        """The spans of a request's trace by name, when its own has come."""
        own = eventually(lambda: [span for span in self.spans if tag(span, "hayhooks.request_id") == request_id])[0]
        return {span.name: span for span in self.spans if span.trace_id == own.trace_id}


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in request.resource_spans:
                told.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
                told.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield told
        server.shutdown()
        thread.join()


@contextmanager
def traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: Collector, *arguments: str, **methods: str
) -> Iterator[Process]:
    for name, definition in methods.items():
        replace(tmp_path / "pipelines" / name / "pipeline_wrapper.py", WRAPPER + definition)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with started(tmp_path, "run", *arguments) as server:
        yield server


def tag(span: Any, name: str) -> Any:
    value = next((a.value for a in span.attributes if a.key == name), None)
    return value and getattr(value, value.WhichOneof("value"))


def test_one_trace_spans_request_pipeline_and_components(tmp_path, monkeypatch, collector):
    names = ("sync", "async", "stream", "async_stream")
    with traced(tmp_path, monkeypatch, collector, **{name: METHODS[name] for name in names}) as server:
        for name in names:
            response = server.post(f"/{name}/run", {"text": "x"})
            assert response.status_code == 200, server.output()
            spans = collector.trace_of(response.headers["X-Request-Id"])
            request = spans[f"POST /{name}/run"]
            pipeline = next(span for key, span in spans.items() if key.startswith("haystack.pipeline"))
            components = [span for span in collector.spans if span.name == "haystack.component.run"]
            components = [span for span in components if span.trace_id == request.trace_id]

            above = spans["mine"] if "stream" not in name else request
            assert pipeline.parent_span_id == above.span_id, name
            assert {span.parent_span_id for span in components} == {pipeline.span_id}, name
            assert len(components) == 2
            assert not request.parent_span_id
            assert request.end_time_unix_nano >= pipeline.end_time_unix_nano
            assert (tag(request, "http.route"), tag(request, "http.response.status_code")) == ("/{name}/run", 200)
            assert tag(request, "hayhooks.pipeline") == name
            assert tag(request, "hayhooks.revision") == response.headers["X-Hayhooks-Revision"]
            if above is not request:
                assert above.parent_span_id == request.span_id
                assert tag(above, "hayhooks.mine") == "yes"
        assert collector.services == {"hayhooks"}
        assert "Failed to detach" not in server.output()


def test_traces_that_are_kept_have_the_same_trace_id(tmp_path, monkeypatch, collector):
    monkeypatch.setenv("HAYHOOKS_TRACES", "10")
    with traced(tmp_path, monkeypatch, collector, sync=METHODS["sync"], stream=METHODS["stream"]) as server:
        for name in ("sync", "stream"):
            request_id = server.post(f"/{name}/run", {"text": "x"}).headers["X-Request-Id"]
            exported = collector.trace_of(request_id)
            kept = server.get(f"/traces/{request_id}").json()  # the request's own span is out: its trace is kept

            assert kept["trace_id"] == exported[f"POST /{name}/run"].trace_id.hex()
            assert "haystack.pipeline.run" in exported
            assert [span["name"] for span in kept["spans"]][-2:] == ["prompt", "llm"]


def test_a_trace_that_comes_with_the_request_goes_on(tmp_path, monkeypatch, collector):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    with traced(tmp_path, monkeypatch, collector, sync=METHODS["sync"]) as server:
        trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        headers = {"traceparent": f"00-{trace}-{parent}-01", "X-Request-Id": "told"}
        httpx.post(server.url + "/sync/run?secret=x", json={"text": "x"}, headers=headers, timeout=30)
        request = collector.trace_of("told")["POST /sync/run"]

    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (trace, parent)
    assert "secret" not in str(request)
    assert collector.services == {"mine"}


def test_errors_are_in_the_trace_those_of_streams_too(tmp_path, monkeypatch, collector):
    methods = {name: METHODS[name] for name in ("broken", "breaking")}
    with traced(tmp_path, monkeypatch, collector, **methods) as server:
        for name, status, message in (("broken", 500, "it is broken"), ("breaking", 200, "it broke")):
            with httpx.Client(base_url=server.url, timeout=30) as client:
                try:
                    client.post(f"/{name}/run", json={"text": "x"}, headers={"X-Request-Id": name})
                except httpx.RemoteProtocolError:
                    assert name == "breaking"
            request = collector.trace_of(name)[f"POST /{name}/run"]

            assert tag(request, "http.response.status_code") == status
            assert request.status.code == request.status.STATUS_CODE_ERROR
            assert request.status.message == f"ValueError: {message}"
            assert tag(request, "error.type") == "ValueError"
            assert [tag(event, "exception.message") for event in request.events] == [message]


def test_what_is_not_sent_yet_is_sent_at_the_end_by_each_worker(tmp_path, monkeypatch, collector):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = ''\n" + ECHO)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with started(tmp_path, "run", "--workers", "2") as server:
        for _ in range(20):
            server.post("/echo/run", {})
        server.get("/healthz")
        assert server.stop() == 0

    requests = [span.name for span in collector.spans]
    assert requests.count("POST /echo/run") == 20
    assert not any("healthz" in name or "readyz" in name for name in requests)


def test_a_collector_that_is_away_does_not_keep_the_server(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with started(tmp_path, "run") as server:
        server.get("/status")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("variable", "value", "warning"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER='zipkin': must be otlp, console or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL='grpc': must be http/protobuf"),
    ],
)
def test_what_traces_cannot_go_to_is_told(tmp_path, monkeypatch, variable, value, warning):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    with started(tmp_path, "run") as server:
        assert warning in server.output()


SPIES = """
import sys
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): ...

    def run_api(self) -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]
"""


@pytest.mark.parametrize("variables", [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}])
def test_nothing_is_imported_where_nobody_asks_for_traces(tmp_path, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        monkeypatch.setenv(name, value)
    replace(tmp_path / "pipelines/spies/pipeline_wrapper.py", SPIES)
    with started(tmp_path, "run") as server:
        assert server.post("/spies/run", {}).json() == {"result": []}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_missing_extra_is_told_once(tmp_path, monkeypatch, workers):
    # A finder that knows nothing of the exporter stands in for an environment without the extra.
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(
        "import sys\n"
        "class Hides:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('opentelemetry'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hides())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with started(tmp_path, "run", "--workers", workers) as server:
        assert server.output().count("pip install '.[tracing]'") == 1
        assert server.get("/status").status_code == 200
