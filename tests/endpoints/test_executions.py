"""``run-durable`` and executions over HTTP, as the original's clients use them, and what is new."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer, eventually, serving
from tests.wrappers import source

MINE = {"x-user": "ann"}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory, gate: Path) -> Iterator[LiveServer]:
    state = tmp_path_factory.mktemp("state")
    settings: dict[str, Any] = {"state_dir": str(state), "durable_poll_ms": 50, "durable_concurrency": 4}
    with serving(tmp_path_factory.mktemp("pipelines"), **settings) as server:
        server.serve("it", source("durable_actions"), gate=str(gate))
        server.serve("plain", answer="said: ")
        server.serve("upload", source("upload_if_any"))
        server.client.headers.update(MINE)
        yield server


@pytest.fixture(autouse=True)
def _closed(gate: Path) -> None:
    gate.unlink(missing_ok=True)


def order(server: LiveServer, action: str = "answer", headers: dict[str, str] | None = None, **more: Any) -> Any:
    response = server.client.post("/it/run-durable", json={"action": action, **more}, headers=headers)
    assert response.status_code == 202, response.text
    return response.json()


def get(server: LiveServer, execution: Any) -> Any:
    return server.client.get(execution["links"]["self"]).json()


def reached(server: LiveServer, execution: Any, *statuses: str) -> Any:
    eventually(lambda: get(server, execution)["status"] in statuses, f"it to be {statuses}", 60)
    return get(server, execution)


def ended(server: LiveServer, execution: Any) -> Any:
    return reached(server, execution, "completed", "failed", "canceled")


def test_an_order_is_kept_and_its_end_is_told(durable: LiveServer):
    response = durable.client.post("/it/run-durable", json={"value": 7})
    body = response.json()
    done = ended(durable, body)

    assert response.status_code == 202
    assert response.headers["location"] == body["links"]["self"] == f"/it/executions/{body['execution_id']}"
    assert {"progress": [], "result": None, "error": None, "waiting": None}.items() <= body.items()
    assert body["links"] == {
        "self": body["links"]["self"],
        **{action: f"{body['links']['self']}/{action}" for action in ("cancel", "resume", "stream")},
    }
    assert (done["status"], done["attempt"], done["result"]) == ("completed", 1, {"value": 7, "note": ""})
    assert done["sequence"] > body["sequence"]
    assert done["updated_at"].endswith("Z")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"value": -1}, ["body", "value"]),
        ({"value": "x"}, ["body", "value"]),
        ([], ["body"]),
        ("{", ["body"]),
        ('{"more": [NaN]}', ["body"]),
    ],
)
def test_a_wrong_body_is_refused(durable: LiveServer, content: Any, place: list[str]):
    body = content if isinstance(content, str) else json.dumps(content)
    response = durable.client.post("/it/run-durable", content=body)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == place


def test_a_failure_keeps_its_secret_and_can_be_tried_again(durable: LiveServer):
    failed = ended(durable, order(durable, "fail"))
    again = durable.client.post(f"{failed['links']['self']}/retry")

    assert failed["error"] == {
        "type": "ValueError", "message": "Durable execution failed", "retryable": False, "code": None,
    }  # fmt: skip
    assert again.status_code == 202
    assert ended(durable, failed)["attempt"] == 2


def test_what_is_too_large_to_keep_fails_with_its_code(durable: LiveServer):
    assert ended(durable, order(durable, "large"))["error"]["code"] == "payload_too_large"


def test_a_retry_of_the_wrapper_begins_with_its_state(durable: LiveServer):
    done = ended(durable, order(durable, "retry"))

    assert (done["status"], done["attempt"]) == ("completed", 3)
    assert [each["outcome"] for each in done["attempts"]] == ["retry", "retry", "completed"]


def test_what_waits_is_resumed_with_a_valid_answer_once(durable: LiveServer):
    waiting = reached(durable, order(durable, "ask", value=3), "waiting")
    resume = waiting["links"]["resume"]
    wrong = durable.client.post(resume, json={"approved": "perhaps"})
    with ThreadPoolExecutor(2) as threads:
        both = [*threads.map(lambda yes: durable.client.post(resume, json={"approved": yes}), (True, True))]
    done = ended(durable, waiting)

    assert waiting["waiting"] == {"kind": "approval", "message": "May I?", "expected_input_schema": None}
    assert [(each["message"], each["metadata"]) for each in waiting["progress"]] == [("asked", {"who": "you"})]
    assert (wrong.status_code, wrong.json()["detail"][0]["loc"]) == (422, ["body", "approved"])
    assert sorted(each.status_code for each in both) == [202, 409]
    assert done["result"] == {"value": 3, "note": "True True"}
    assert durable.client.post(resume, json={"approved": True}).json() == {
        "detail": "only waiting executions can resume"
    }


def test_running_code_ends_when_it_is_canceled(durable: LiveServer, gate: Path):
    running = reached(durable, order(durable, "held"), "running")
    first = durable.client.post(running["links"]["cancel"], json={"reason": "enough"})
    done = ended(durable, running)
    second = durable.client.post(running["links"]["cancel"])

    assert first.status_code == 202
    assert first.json()["cancellation_requested_at"] is not None
    assert done["status"] == "canceled"
    assert (second.status_code, second.json()["status"]) == (200, "canceled")


def test_one_key_is_one_execution(durable: LiveServer):
    def send(key: str = "a key", value: int = 1, user: str = "ann") -> httpx.Response:
        headers = {"Idempotency-Key": key, "x-user": user}
        return durable.client.post("/it/run-durable", json={"value": value}, headers=headers)

    with ThreadPoolExecutor(6) as threads:
        responses = [*threads.map(lambda _: send(), range(6))]
    done = ended(durable, responses[0].json())
    replay, other, elsewhere = send(), send(value=2), send(user="bob")

    assert {each.json()["execution_id"] for each in responses} == {done["execution_id"]}
    assert [each.headers.get("idempotent-replay") for each in responses].count(None) == 1
    assert (replay.status_code, replay.headers["idempotent-replay"]) == (200, "true")
    assert (other.status_code, other.json()["detail"]) == (409, "idempotency key is bound to different work")
    assert (elsewhere.status_code, "idempotent-replay" in elsewhere.headers) == (202, False)
    assert send(key="x" * 513).status_code == 422


def test_others_do_not_see_it(durable: LiveServer):
    execution = ended(durable, order(durable))
    path = execution["links"]["self"]
    for method, url in (("GET", path), ("POST", f"{path}/cancel"), ("DELETE", path), ("GET", f"{path}/stream")):
        response = durable.client.request(method, url, headers={"x-user": "bob"})
        assert (response.status_code, response.json()["detail"]) == (404, "Execution not found")
    listed = durable.client.get("/it/executions", headers={"x-user": "bob-who-has-none"}).json()

    assert listed == {"executions": [], "next_cursor": None, "has_more": False, "skipped_controls": 0}
    assert durable.client.get(path, headers={"x-user": "x" * 600}).status_code == 500


def test_lists_have_pages_and_filters(durable: LiveServer):
    for value in range(3):
        order(durable, value=value, headers={"x-user": "lister"})

    def listed(**query: Any) -> Any:
        return durable.client.get("/it/executions", params=query, headers={"x-user": "lister"}).json()

    eventually(lambda: len(listed(status="completed")["executions"]) == 3)
    first = listed(limit=2)
    second = listed(limit=2, cursor=first["next_cursor"])
    ids = [each["execution_id"] for each in (*first["executions"], *second["executions"])]

    assert (first["has_more"], second["has_more"], len(set(ids))) == (True, False, 3)
    assert first["executions"][0].items() >= {"deployment": "it", "kind": "pipeline", "revision": "v1"}.items()
    assert [each["execution_id"] for each in listed(order="desc")["executions"]] == ids[::-1]
    assert listed(status="waiting")["executions"] == []
    everybodys = durable.client.get("/executions?limit=100").json()["executions"]
    assert set(ids) <= {each["execution_id"] for each in everybodys}


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "status=done", "cursor=x", "order=up", "limit=nan"])
def test_a_wrong_query_is_refused(durable: LiveServer, query: str):
    assert durable.client.get(f"/it/executions?{query}").status_code in (400, 422)


def test_the_stream_goes_on_after_each_event(durable: LiveServer):
    execution = order(durable, "stream", value=12)
    whole = events(durable, execution)
    chunks = [event for event in whole if event["event"] == "chunk"]

    assert [event["data"] for event in chunks] == [{"attempt": 1, "payload": {"n": n}} for n in range(12)]
    assert (whole[-1]["event"], whole[-1]["id"]) == ("completed", None)
    assert whole[-1]["data"] == get(durable, execution)
    for index in (0, 5, 11):
        rest = events(durable, execution, {"Last-Event-ID": chunks[index]["id"]})
        assert [event["id"] for event in rest] == [*(event["id"] for event in chunks[index + 1 :]), None]
    assert events(durable, execution, {"Last-Event-ID": "900-1"})[0]["event"] == "gap"
    path = execution["links"]["stream"]
    assert durable.client.get(path, headers={"Last-Event-ID": "last"}).status_code == 422


def events(server: LiveServer, execution: Any, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with server.client.stream("GET", execution["links"]["stream"], headers=headers, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines) == ": heartbeat"
        event: dict[str, Any] = {"id": None}
        for line in lines:
            name, _, value = line.partition(": ")
            if name in ("id", "event"):
                event[name] = value
            elif name == "data":
                found.append(event | {"data": json.loads(value)})
                event = {"id": None}
    return found


def test_a_client_can_wait_for_the_end_or_a_change(durable: LiveServer, gate: Path):
    at_once = durable.client.post("/it/run-durable", json={}, headers={"Prefer": "wait=60"}, timeout=70)
    too_long = durable.client.post("/it/run-durable", json={"action": "held"}, headers={"Prefer": "wait=0"})
    running = reached(durable, too_long.json(), "running")
    threading.Timer(0.1, gate.touch).start()
    changed = durable.client.get(f"{running['links']['self']}?wait=60", timeout=70).json()

    assert (at_once.status_code, at_once.json()["status"]) == (200, "completed")
    assert (too_long.status_code, too_long.headers["preference-applied"]) == (202, "wait=0")
    assert changed["sequence"] > running["sequence"]


def test_an_ended_one_can_be_deleted(durable: LiveServer):
    waiting = reached(durable, order(durable, "ask"), "waiting")
    path = waiting["links"]["self"]

    assert durable.client.delete(path).status_code == 409
    assert durable.client.post(f"{path}/cancel").status_code == 200
    assert durable.client.delete(path).status_code == 204
    assert durable.client.get(path).status_code == 404


def test_an_order_has_a_delay_and_a_priority(durable: LiveServer):
    later = durable.client.post("/it/run-durable?delay=600&priority=1", json={}).json()

    assert (later["status"], later["delay_until"] > later["created_at"]) == ("queued", True)
    assert durable.client.post(later["links"]["cancel"]).status_code == 200
    for query in ("delay=-1", "priority=0", "priority=x"):
        assert durable.client.post(f"/it/run-durable?{query}", json={}).status_code == 422


@pytest.mark.parametrize("settings", [{"durable": "false"}, {"state_dir": ""}])
def test_a_server_without_executions_answers_at_once(tmp_path: Path, settings: dict[str, Any]):
    folder = tmp_path / "pipelines"
    folder.mkdir()
    with serving(folder, **{"state_dir": str(tmp_path / "state"), **settings}) as server:
        server.serve("it", source("openai_apis"))
        body = {"model": "it", "input": "x", "background": True}
        refused = server.client.post("/v1/responses", json=body)
        stored = server.client.post("/v1/responses", json={**body, "background": False, "store": True})
        server.serve("it", answer="said: ")
        at_once = server.client.post("/it/run", json={"text": "x"}, headers={"Prefer": "respond-async"})

        assert (at_once.status_code, "preference-applied" in at_once.headers) == (200, False)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "background")
        assert stored.status_code == 200
        assert server.client.get(f"/v1/responses/{stored.json()['id']}").status_code == 404
        assert server.client.get("/executions").json()["executions"] == []
        assert server.client.get(f"/it/executions/{'0' * 32}").status_code == 404


SAVES: dict[str, Callable[[LiveServer, Path], object]] = {
    "an edit": lambda server, gate: server.serve("job", source("durable_actions") + "\n# edited\n", gate=str(gate)),
    "a broken edit": lambda server, gate: server.write("job", "this is no Python", gate=str(gate)),
}


@pytest.mark.parametrize("save", SAVES)
def test_what_runs_ends_on_its_revision(durable: LiveServer, gate: Path, save: str):
    durable.serve("job", source("durable_actions"), gate=str(gate))
    response = durable.client.post("/job/run-durable", json={"action": "held"})
    running = reached(durable, response.json(), "running")
    SAVES[save](durable, gate)
    if save == "a broken edit":
        durable.eventually(lambda: durable.state("job")["state"] == "stale", "the failure to be seen")
    gate.touch()
    done = ended(durable, running)

    assert (done["status"], done["attempt"]) == ("completed", 1)


def test_another_durable_revision_waits_for_its_own(durable: LiveServer, gate: Path):
    v1 = source("durable_actions")
    durable.serve("turn", v1, gate=str(gate))
    durable.serve("turn", v1.replace('"v1"', '"v2"'), gate=str(gate))
    waiting = reached(durable, durable.client.post("/turn/run-durable", json={"action": "ask"}).json(), "waiting")
    durable.serve("turn", v1, gate=str(gate))
    refused = durable.client.post(waiting["links"]["resume"], json={"approved": True})
    durable.serve("turn", v1.replace('"v1"', '"v2"'), gate=str(gate))
    resumed = durable.client.post(waiting["links"]["resume"], json={"approved": True})

    assert (refused.status_code, resumed.status_code) == (409, 202)
    assert ended(durable, waiting)["status"] == "completed"


def test_what_a_removed_folder_had_to_do_waits_for_it(durable: LiveServer, gate: Path):
    durable.serve("gone", source("durable_actions"), gate=str(gate))
    later = durable.client.post("/gone/run-durable?delay=0.3", json={}).json()
    durable.remove("gone")
    durable.eventually(lambda: not durable.state("gone") or "state" not in durable.state("gone"), "it to be gone")
    durable.serve("gone", source("durable_actions"), gate=str(gate))

    assert ended(durable, later)["status"] == "completed"


def test_any_wrapper_runs_in_the_background(durable: LiveServer):
    headers = {"Prefer": "respond-async"}
    response = durable.client.post("/plain/run", json={"text": "x"}, headers=headers)
    wrong = durable.client.post("/plain/run", json={"text": 1}, headers=headers)
    plain = durable.run("plain", text="x")

    assert (response.status_code, response.headers["preference-applied"]) == (202, "respond-async")
    assert ended(durable, response.json())["result"] == plain
    assert wrong.status_code == 422


def test_a_run_in_the_background_is_ordered_as_others_are(durable: LiveServer):
    def run(query: str = "", prefer: str = "respond-async", key: str = "", **more: Any) -> httpx.Response:
        headers = {"Prefer": prefer, **({"Idempotency-Key": key} if key else {})}
        return durable.client.post(
            f"/plain/run{query}", headers=headers, timeout=70, **({"json": {"text": "x"}} | more)
        )

    at_once = run(prefer="respond-async, wait=60", key="k")
    replay, other = run(key="k"), run(key="k", json={"text": "y"})
    later = run("?delay=600&priority=1")

    assert (at_once.status_code, at_once.json()["result"]) == (200, durable.run("plain", text="x"))
    assert at_once.headers["preference-applied"] == "respond-async, wait=60"
    assert (replay.status_code, replay.headers["idempotent-replay"], other.status_code) == (200, "true", 409)
    assert replay.headers["location"] == at_once.headers["location"] == at_once.json()["links"]["self"]
    assert (later.status_code, later.json()["delay_until"] > later.json()["created_at"]) == (202, True)
    assert run("?delay=x").status_code == 422
    assert durable.client.post(later.json()["links"]["cancel"]).status_code == 200


@pytest.mark.parametrize("prefer", ["", "respond-asynchronously", "wait=10", 'handling=lenient; respond-async, x="y'])
def test_other_preferences_leave_a_run_as_it_is(durable: LiveServer, prefer: str):
    response = durable.client.post("/plain/run", json={"text": "x"}, headers={"Prefer": prefer})

    assert (response.status_code, response.json().keys()) == (200, {"result"})


def test_files_and_streams_are_answered_at_once(durable: LiveServer):
    headers = {"Prefer": "respond-async"}
    with_file = durable.client.post("/upload/run", files={"picture": ("a.txt", b"abc")}, headers=headers)
    as_json = durable.client.post("/upload/run", json={}, headers=headers)
    streamed = durable.client.post("/plain/run?stream=true", json={"text": "x"}, headers=headers)

    assert (with_file.status_code, as_json.status_code, streamed.status_code) == (200, 202, 200)
    assert ended(durable, as_json.json())["status"] == "completed"


def test_metrics_count_attempts_and_what_waits(durable: LiveServer):
    waiting = reached(durable, order(durable, "ask"), "waiting")
    text = durable.client.get("/metrics").text
    durable.client.post(waiting["links"]["cancel"])

    assert 'hayhooks_executions{pipeline="it",state="waiting"} 1.0' in text
    assert 'hayhooks_execution_oldest_seconds{pipeline="it",state="waiting"}' in text
    assert 'hayhooks_execution_attempts_total{outcome="waiting",pipeline="it"}' in text
    assert 'hayhooks_execution_queue_seconds_count{pipeline="it"}' in text


def test_the_schema_of_a_durable_deployment_has_what_resumes_it(durable: LiveServer):
    operations = {
        each["path"]: each for each in durable.client.get("/it/schema").raise_for_status().json()["operations"]
    }
    answers = operations["/it/executions/{execution_id}/resume"]["request"]["application/json"]

    assert (answers["required"], answers["properties"]["approved"]["type"]) == (["approved"], "boolean")
    assert operations["/it/run-durable"]["response"]["application/json"]["properties"]["status"]


def test_the_status_tells_whether_there_may_be_executions(durable: LiveServer, own_server: LiveServer):
    assert durable.status()["executions"] is True
    assert own_server.status()["executions"] is False
