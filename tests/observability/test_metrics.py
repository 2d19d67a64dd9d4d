"""``/metrics``, read as Prometheus reads it."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from hayhooks.kernel.state import Snapshot
from hayhooks.observability.metrics import FAMILIES, Metrics
from hayhooks.observability.worker_state import WorkerStateDir
from tests.cli.processes import started
from tests.live_server import ECHO, LiveServer, eventually, replace, serving

STREAMS = """
import time
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): ...

    def run_api(self, gate: str = "", fail: bool = False):
        yield "a"
        yield "b"
        while gate and not Path(gate).exists():
            time.sleep(0.01)
        if fail:
            raise ValueError("it broke")
        yield "c"

    def run_chat_completion(self, model, messages, body):
        yield from ("a", "b", "c")
        yield object()
"""


class Told:
    """The samples of one answer."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200
        families = list(plain(response.text))
        self.types = {family.name: family.type for family in families}
        self.samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """All samples of *name* that have these *labels*, added up."""
        return sum(self.values(name, **labels))

    def values(self, name: str, **labels: str) -> Iterator[float]:
        for sample in self.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                yield sample.value

    def labels(self, label: str) -> set[str]:
        return {sample.labels[label] for sample in self.samples if label in sample.labels}


def told(server: Any) -> Told:
    return Told(httpx.get(server.url + "/metrics", timeout=30))


def test_what_a_full_queue_refuses_is_counted_by_its_route_too(root: Path, tmp_path: Path):
    gate = tmp_path / "gate"
    with serving(root, concurrency=1, queue_size=0) as server:
        server.serve("echo", STREAMS)
        with server.in_background("/echo/run", {"gate": str(gate)}) as first:
            server.eventually(lambda: told(server).sum("hayhooks_requests_in_flight", pipeline="echo") == 1)
            server.eventually(lambda: server.client.post("/echo/run", json={}).status_code == 503)
            assert server.client.post("/echo/chat", json={"messages": []}).status_code == 503
            gate.touch()
        assert first.result().status_code == 200

        metrics = told(server)
        assert metrics.sum("hayhooks_requests_total", endpoint="/{name}/run", status="503") >= 1
        assert metrics.sum("hayhooks_requests_total", endpoint="/{name}/chat", status="503") == 1
        assert metrics.sum("hayhooks_requests_total", endpoint="unknown", status="503") == 0


def test_requests_are_counted_by_pipeline_route_method_and_status(server: LiveServer):
    server.serve("echo", answer="")
    for _ in range(3):
        server.run("echo", text="x")
    server.client.post("/echo/run", json={"text": 1})
    server.client.get("/echo/run")
    server.client.post("/v1/chat/completions", json={"model": "echo", "messages": [{"role": "user", "content": "x"}]})
    metrics = told(server)

    def requests(endpoint: str, method: str, status: int, pipeline: str = "echo") -> float:
        labels = {"endpoint": endpoint, "method": method, "status": str(status), "pipeline": pipeline}
        return metrics.sum("hayhooks_requests_total", **labels)

    assert requests("/{name}/run", "POST", 200) == 3
    assert requests("/{name}/run", "POST", 422) == 1
    assert requests("/{name}/run", "GET", 405) == 1
    assert requests("/v1/chat/completions", "POST", 200) == 1
    assert requests("/status", "GET", 200, pipeline="") > 0
    labels = {"pipeline": "echo", "endpoint": "/{name}/run"}
    assert metrics.sum("hayhooks_request_duration_seconds_count", **labels) == 5
    assert metrics.sum("hayhooks_request_duration_seconds_bucket", le="+Inf", **labels) == 5
    buckets = list(metrics.values("hayhooks_request_duration_seconds_bucket", **labels))
    assert buckets == sorted(buckets)
    assert 0 < metrics.sum("hayhooks_request_duration_seconds_sum", **labels) < 30


def test_what_strangers_think_up_is_one_label(server: LiveServer):
    for number in range(20):
        server.client.request(f"ODD{number}", f"/none-{number}/run")
        server.client.get(f"/v1/none-{number}")
        body = {"model": f"none-{number}", "messages": [{"role": "user", "content": "x"}]}
        server.client.post("/v1/chat/completions", json=body)
    metrics = told(server)

    assert metrics.labels("pipeline") == {""}
    assert metrics.labels("endpoint") <= {"unknown", "/v1/chat/completions", "/status", "/metrics"}
    assert metrics.labels("method") <= {"GET", "POST", "other"}
    assert metrics.sum("hayhooks_requests_total", endpoint="unknown", status="404") == 20


def test_what_a_stream_gave_before_it_failed_is_counted(server: LiveServer):
    server.serve("streams", STREAMS)
    body = {"stream": True, "messages": [{"role": "user", "content": "x"}]}
    assert "cannot be made of" in server.client.post("/streams/chat", json=body).text

    metrics = told(server)
    assert metrics.sum("hayhooks_stream_chunks_total", pipeline="streams") == 4
    assert metrics.sum("hayhooks_stream_failures_total", pipeline="streams") == 1


def test_a_format_that_there_is_not_is_answered_in_the_usual_one(server: LiveServer):
    answer = server.client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=abc"})

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")


def test_streams_are_counted_while_they_last(server: LiveServer, tmp_path: Path):
    server.serve("streams", STREAMS)
    gate = tmp_path / "gate"
    with server.in_background("/streams/run", {"gate": str(gate)}) as response:
        server.eventually(lambda: told(server).sum("hayhooks_stream_chunks_total", pipeline="streams") == 2)
        assert told(server).sum("hayhooks_requests_in_flight", pipeline="streams") == 1
        gate.touch()
        assert response.result().text == "abc"
    server.eventually(lambda: told(server).sum("hayhooks_requests_in_flight", pipeline="streams") == 0)
    assert told(server).sum("hayhooks_stream_chunks_total", pipeline="streams") == 3
    assert told(server).sum("hayhooks_stream_failures_total", pipeline="streams") == 0

    with pytest.raises(httpx.RemoteProtocolError):
        server.client.post("/streams/run", json={"fail": True})
    server.eventually(lambda: told(server).sum("hayhooks_stream_failures_total", pipeline="streams") == 1)
    later = tmp_path / "later"
    with httpx.stream("POST", server.url + "/streams/run", json={"gate": str(later)}) as response_:
        next(response_.iter_raw())
    server.eventually(lambda: told(server).sum("hayhooks_requests_cancelled_total", pipeline="streams") == 1)
    server.eventually(lambda: told(server).sum("hayhooks_requests_in_flight", pipeline="streams") == 0)
    later.touch()  # its thread would not end


def test_series_go_with_the_deployment(server: LiveServer):
    """Deploys and failures are counted and series go with the deployment."""
    server.serve("echo", answer="one")
    server.serve("other", answer="")
    server.serve("echo", answer="two")
    server.run("echo")
    metrics = told(server)
    assert metrics.sum("hayhooks_deploys_total", pipeline="echo") == 2
    assert metrics.sum("hayhooks_deploy_failures_total", pipeline="echo") == 0
    assert metrics.sum("hayhooks_deployments", state="serving") == 2
    assert metrics.sum("hayhooks_generation") == server.status()["generation"]
    revision = server.state("echo")["revision"]
    assert metrics.sum("hayhooks_deployment_info", pipeline="echo", revision=revision, state="serving") == 1
    assert 0 < metrics.sum("hayhooks_load_seconds", pipeline="echo") < 30

    server.write("echo", "raise ValueError('it will not load')")
    server.eventually(lambda: server.state("echo")["state"] == "stale")
    server.eventually(lambda: told(server).sum("hayhooks_deploy_failures_total", pipeline="echo") == 1)
    metrics = told(server)
    assert metrics.sum("hayhooks_deployments", state="stale") == 1
    assert metrics.sum("hayhooks_requests_total", pipeline="echo", status="200") == 1

    server.remove("echo")
    server.eventually(lambda: server.status()["pipelines"] == ["other"])
    server.eventually(lambda: told(server).sum("hayhooks_undeploys_total") == 1)
    assert "echo" not in told(server).labels("pipeline")
    server.serve("echo", answer="three")
    server.eventually(lambda: told(server).sum("hayhooks_deploys_total", pipeline="echo") == 1)
    assert told(server).sum("hayhooks_requests_total", pipeline="echo") == 0


def test_requests_to_what_failed_to_load_are_its_own(server: LiveServer):
    server.write("broken", "raise ValueError('it will not load')")
    server.eventually(lambda: server.state("broken")["state"] == "failed")
    assert server.client.post("/broken/run", json={}).status_code == 503
    body = {"model": "broken", "messages": [{"role": "user", "content": "x"}]}
    assert server.client.post("/v1/chat/completions", json=body).status_code == 503

    assert told(server).sum("hayhooks_requests_total", pipeline="broken", status="503") == 2


def test_every_family_is_valid_and_told_in_the_asked_format(server: LiveServer):
    server.serve("echo", answer="")
    server.run("echo")
    metrics = told(server)
    # Only where the event loop is watched, where keys have names, and where there are executions.
    families = FAMILIES.keys() - {"hayhooks_event_loop_lag_seconds", "hayhooks_key_requests_total"}
    families -= {name for name in families if "execution" in name}
    assert {name.removesuffix("_total") for name in metrics.types} == {name.removesuffix("_total") for name in families}
    assert all(family.help.endswith(".") for family in FAMILIES.values())
    assert metrics.sum("process_cpu_seconds_total") > 0
    assert metrics.sum("process_resident_memory_bytes") > 1e6

    asked = server.client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert asked.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert {family.name for family in openmetrics(asked.text)} == {name.removesuffix("_total") for name in families}
    assert server.client.get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_they_can_be_turned_off(root: Path):
    with serving(root, metrics=False) as server:
        response = server.client.get("/metrics")
        server.serve("echo", answer="x")

        assert response.status_code == 404
        assert "HAYHOOKS_METRICS" in response.json()["detail"]
        assert server.run("echo") == "x"
        assert server.app.switch.metrics is None


def ask(url: str, count: int) -> None:
    """Each by a connection of its own, so that any worker may get it."""
    with ThreadPoolExecutor(8) as pool:
        codes = pool.map(lambda _: httpx.post(url + "/echo/run", json={}, timeout=30).status_code, range(count))
        assert set(codes) == {200}


def requests(server: Any) -> float:
    return told(server).sum("hayhooks_requests_total", pipeline="echo", status="200")


@pytest.mark.slow
def test_workers_are_added_up_and_no_sum_falls_when_one_ends(tmp_path):
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = ''\n" + ECHO)
    with started(tmp_path, "run", "--workers", "2") as server:
        eventually(lambda: told(server).sum("hayhooks_workers") == 2, "both workers")
        ask(server.url, 60)
        seen = 0.0
        while seen < 60:
            seen, before = requests(server), seen
            assert seen >= before
        assert seen == 60
        eventually(lambda: {requests(server) for _ in range(10)} == {60.0}, "all workers to know")
        assert told(server).sum("hayhooks_deploys_total", pipeline="echo") == 2  # each deploys for itself

        killed = server.get("/status").json()["workers"][0]["pid"]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: killed not in {w["pid"] for w in server.get("/status").json()["workers"]})
        eventually(lambda: len(server.get("/status").json()["workers"]) == 2, "another worker", 60)
        eventually(lambda: told(server).sum("hayhooks_workers") == 2)
        assert requests(server) == 60
        ask(server.url, 20)
        eventually(lambda: {requests(server) for _ in range(10)} == {80.0})

        (tmp_path / "pipelines/echo/pipeline_wrapper.py").unlink()
        eventually(lambda: all("echo" not in told(server).labels("pipeline") for _ in range(10)))
        assert server.stop() == 0


def test_rows_of_an_unknown_kind_or_pipeline_are_passed_over(tmp_path):
    (tmp_path / f"metrics-{os.getpid()}-another").write_text(
        '[["hayhooks_undeploys_total", [], [2]], ["of_another_version", [], [1]],'
        ' ["hayhooks_deploys_total", ["gone"], [1]], ["hayhooks_generation", [], [7]]]',
    )
    metrics = Metrics()
    metrics.live(Snapshot(generation=3))
    rows = metrics.all_rows(WorkerStateDir(tmp_path))

    assert rows["hayhooks_undeploys_total", ()] == [2]
    assert rows["hayhooks_generation", ()] == [7]
    assert ("hayhooks_deploys_total", ("gone",)) not in rows
    assert not any(name == "of_another_version" for name, _ in rows)
