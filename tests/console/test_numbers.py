"""``/console/numbers``: series of the metrics' counters, summed over workers."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from hayhooks.console.number_series import NOTHING, STEP_S, Numbers, NumberSeries, Step, series
from hayhooks.observability.metrics import BUCKETS, Metrics
from hayhooks.observability.worker_state import WorkerStateDir
from tests.cli.processes import started
from tests.live_server import LiveServer, eventually, replace, serving
from tests.wrappers import source

FAILS = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, text: str):
        raise ValueError(text)
"""


def numbers(url: str, **params: str | int) -> Any:
    answer = httpx.get(f"{url}/console/numbers", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def total(body: Any, pipeline: str, what: str) -> int:
    return sum(number or 0 for number in body["pipelines"].get(pipeline, {}).get(what, ()))


def test_requests_and_errors_are_counted_in_steps(server: LiveServer):
    server.serve("echo", ANSWER="echo ")
    server.serve("fails", FAILS)
    for _ in range(3):
        server.run("echo", text="x")
    httpx.post(f"{server.url}/fails/run", json={"text": "x"})
    server.app.state.numbers.take()  # which is done every few seconds
    body: Any = eventually(lambda: (found := numbers(server.url)) and total(found, "echo", "requests") == 3 and found)

    assert (total(body, "echo", "errors"), total(body, "fails", "errors")) == (0, 1)
    assert len(body["pipelines"]["echo"]["requests"]) == body["points"] == 180
    assert body["pipelines"]["echo"]["requests"][0] is None
    assert max(filter(None, body["pipelines"]["echo"]["p95_ms"])) > 0
    assert max(filter(None, body["server"]["memory_bytes"])) > 10_000_000
    assert list(numbers(server.url, pipeline="fails", points=3)["pipelines"]) == ["fails"]


def test_what_the_console_asks_for_is_not_counted(server: LiveServer):
    server.serve("echo", ANSWER="echo ")
    for path in ("/echo/schema", "/status/echo", "/status", "/console/numbers", "/status/echo/revisions"):
        assert server.client.get(path).status_code == 200, path
    assert server.client.get("/v1/models").status_code == 200
    server.app.state.numbers.take()
    body: Any = numbers(server.url)

    assert total(body, "echo", "requests") == 0
    assert sum(filter(None, body["server"]["requests"])) == 1


@pytest.mark.parametrize("points", ["0", "181", "-1", "x", "9" * 5000, ""])
def test_a_wrong_number_of_points_is_refused(server: LiveServer, points: str):
    answer = httpx.get(f"{server.url}/console/numbers", params={"points": points})

    assert answer.status_code == 400
    assert "'points' must be from 1 to 180" in answer.json()["detail"]


def test_without_metrics_there_are_none(tmp_path):
    with serving(tmp_path, metrics=False) as server:
        assert httpx.get(f"{server.url}/console/numbers").status_code == 404


def test_quantiles_are_estimated_as_prometheus_does():
    buckets = [0] * (len(BUCKETS) + 1)
    buckets[2], buckets[3] = 50, 50  # up to 25 ms, up to 50 ms
    counted = Numbers(100, 0, 0, 0, buckets)

    assert counted.quantile_ms(0.5) == 25
    assert counted.quantile_ms(0.95) == 47.5
    assert NOTHING.quantile_ms(0.5) is None


def test_a_pipeline_that_came_again_counts_from_nothing():
    metrics, step = Metrics(), int(time.time() // STEP_S)
    kept = NumberSeries(metrics, WorkerStateDir(None))
    for count in (5, 2):
        counters = metrics.counters()[0][1]
        counters.answers["/{name}/run", "POST", 200] = [float(count), *[0.0] * len(BUCKETS), 0.1]
        kept.take()
    ((_, steps),) = kept.of_workers()

    assert [each.pipelines[""].requests for each in steps] == [5, 2]
    assert abs(steps[-1].number - step) <= 2


def test_the_steps_of_workers_are_added():
    def step(number: int) -> Step:
        return Step(number, 1.0, 100, {"echo": Numbers(2, 1, 0, 3, NOTHING.buckets)})

    body = series([[step(8), step(9)], [step(9)]], points=3, pipeline=None, now=10 * STEP_S + 1)

    assert body["from"] == 7 * STEP_S
    assert body["pipelines"]["echo"]["requests"] == [None, 2, 4]
    assert body["server"]["requests"] == [None, 2, 4]
    assert body["server"]["memory_bytes"] == [None, 100, 200]
    assert body["server"]["cpu"] == [None, 0.2, 0.4]


def test_a_process_id_that_came_again_is_that_of_the_last_worker(tmp_path: Path):
    for token, number in (("aaaa", 7), ("bbbb", 9), ("cccc", 8)):
        step = [number, 0.1, number, {"echo": [1, 0, 0, 0, NOTHING.buckets]}]
        (tmp_path / f"numbers-1-{token}").write_text(json.dumps([1, [step]]))
    workers = NumberSeries(Metrics(), WorkerStateDir(tmp_path)).of_workers()

    assert dict(workers)[1][-1].number == 9
    body = series((steps for _, steps in workers), points=3, pipeline=None, now=10 * STEP_S)
    assert body["pipelines"]["echo"]["requests"] == [1, 1, 1]


@pytest.mark.slow
def test_workers_are_summed_after_one_was_replaced(tmp_path: Path):
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", source("echo"))
    with started(tmp_path, "run", "--workers", "2") as server:
        eventually(lambda: server.get("/status/echo").status_code == 200)

        def summed(requests: int, *, without: int = 0) -> Any:
            """The numbers, when they count *requests* and there are two workers that agree, none of them *without*."""
            body = numbers(server.url)
            pids = [worker["pid"] for worker in body["workers"] if not worker["differs"]]
            return total(body, "echo", "requests") == requests and len(pids) == 2 and without not in pids and body

        for _ in range(20):  # each on a connection of its own
            server.post("/echo/run", {"text": "x"})
        body: Any = eventually(lambda: summed(20), "the requests of both workers to be counted", 60)
        assert sum(worker["requests"] for worker in body["workers"]) >= 20

        killed = max(body["workers"], key=lambda worker: worker["requests"])["pid"]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: summed(20, without=killed), "another worker, and the numbers of the one before", 60)
        for _ in range(10):
            server.post("/echo/run", {"text": "x"})
        eventually(lambda: summed(30, without=killed), "the requests of the new worker to be counted", 60)
