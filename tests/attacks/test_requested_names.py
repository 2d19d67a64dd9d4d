"""Names, numbers and arguments that clients choose: whatever they are, a small 4xx in little time."""

import time
from difflib import get_close_matches
from typing import Any

import pytest

from hayhooks.errors import NotFoundError
from hayhooks.http.lookup import not_served_error
from hayhooks.kernel.state import Snapshot
from tests.attacks.measuring import Attacked
from tests.live_server import LiveServer

LONG = "x" * 10_000_000
KEEPER = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, a: int = 0, **others):
        return [a, others]

    def run_file_list(self, model, **query):
        return {"data": [], "model": model, **query}

    def run_file_upload(self, file, model, body):
        return {"id": "f", "model": model}
"""
ASYNC_KEEPER = KEEPER.replace("def run_api(self,", "async def run_api_async(this,")


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/chat/completions"])
def test_a_model_of_ten_megabytes_is_404_at_once_and_not_repeated(attacked: Attacked, path: str):
    body = {"model": LONG, "messages": [{"role": "user", "content": "x"}], "input": "x"}
    cost = attacked.cost(lambda: attacked.client.post(path, json=body))

    assert cost.result.status_code == 404
    error = cost.result.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "xxx...(9,999,900 more)" in error["message"]
    assert len(cost.result.content) < 1_000
    cost.check(megabytes=60)


@pytest.mark.parametrize(
    "path", ["/{}", "/{}/run", "/it/{}", "/status/{}", "/draw/{}", "/v1/models/{}", "/v1/files/{}", "/docs/{}"]
)
def test_a_long_path_is_not_repeated(attacked: Attacked, path: str):
    answer = attacked.client.get(path.format("x" * 60_000))

    assert answer.status_code in (404, 501)
    assert len(answer.content) < 2_000


@pytest.mark.parametrize("headers", [{"content-type": "x" * 30_000}, {"content-encoding": "x" * 30_000}])
@pytest.mark.parametrize("path", ["/upload/run", "/it/run", "/v1/files"])
def test_a_long_header_is_not_repeated(attacked: Attacked, path: str, headers: dict[str, str]):
    answer = attacked.client.post(path, content=b"x", headers=headers)

    assert 400 <= answer.status_code < 502
    assert len(answer.content) < 2_000


def test_a_suggestion_costs_little_among_a_thousand_names():
    # Only the names are looked at.
    words = ("search_pipeline", "summary_pipeline", "chat", "index")
    names: dict[str, Any] = {f"{word}_{number}": None for word in words for number in range(250)}
    snapshot = Snapshot(deployments=names)

    def measured(function: Any) -> float:
        begun = time.process_time()
        for _ in range(20):
            function()
        return time.process_time() - begun

    for wrong in ("serach_pipeline_17", "sumary_pipeline_249", "chat-100", "indxe_3"):
        message = str(not_served_error(snapshot, wrong))
        assert "did you mean" in message
    assert "did you mean 'search_pipeline_17'?" in str(not_served_error(snapshot, "serach_pipeline_17"))
    ours = measured(lambda: not_served_error(snapshot, "sreach_pipeline_x17"))
    whole = measured(lambda: get_close_matches("sreach_pipeline_x17", names, n=1))
    assert ours < whole / 3


@pytest.mark.parametrize("name", ["x" * 101, "search_1" * 10_000, "\n" * 1_000_000])
def test_a_long_name_gets_no_suggestion(name: str):
    error = not_served_error(Snapshot(deployments={"x" * 100: None}), name)  # type: ignore[dict-item]  # only names

    assert isinstance(error, NotFoundError)
    assert "did you mean" not in str(error)
    assert len(str(error)) < 500


@pytest.mark.parametrize("limit", ["9" * 5_000, "9" * 19, "-1", "1.5", "x", "\u00b2", "\u0663" * 5_000, ""])
def test_a_limit_that_is_no_number_is_400(server: LiveServer, limit: str):
    server.serve("it", KEEPER)
    for path in ("/v1/files", "/it/files", "/files"):
        answer = server.client.get(path, params={"limit": limit})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
        assert len(answer.content) < 1_000
    assert server.client.get("/it/files", params={"limit": "9" * 18}).json()["limit"] == int("9" * 18)


def test_a_model_that_contradicts_is_400(server: LiveServer):
    server.serve("it", KEEPER)
    form = {"purpose": "x"}
    files = {"file": b"x"}
    contradicting = [
        server.client.get("/it/files?model=other"),
        server.client.get("/it/files?model=it&model=other"),
        server.client.get("/v1/files?model=it&model=other"),
        server.client.post("/it/files", data=form | {"model": "other"}, files=files),
        server.client.post("/it/files?model=other", data=form, files=files),
        server.client.post("/v1/files?model=other", data=form | {"model": "it"}, files=files),
        server.client.get(f"/it/files?model={'x' * 10_000}"),
    ]
    for answer in contradicting:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
        assert len(answer.content) < 1_000
    agreeing = [
        server.client.get("/it/files?model=it"),
        server.client.get("/v1/files?model=it"),
        server.client.get("/it/files?model="),
        server.client.post("/v1/files?model=it", data=form | {"model": "it"}, files=files),
    ]
    assert [answer.json()["model"] for answer in agreeing] == ["it"] * 4


@pytest.mark.parametrize(("wrapper", "name"), [(KEEPER, "self"), (ASYNC_KEEPER, "this")])
def test_an_argument_with_the_name_of_the_wrapper_is_400(server: LiveServer, wrapper: str, name: str):
    server.serve("it", wrapper)
    answer = server.client.post("/it/run", json={name: 1, "a": 2})

    assert (answer.status_code, name in answer.json()["detail"]) == (400, True)
    assert server.client.get("/it/files?self=1").status_code == 400
    assert server.run("it", a=1, cls=2, method=3, operation=4) == [1, {"cls": 2, "method": 3, "operation": 4}]


@pytest.mark.parametrize("parameters", ["self, /, **others", "self, *ignored, **others"])
def test_a_wrapper_may_take_it_as_an_argument(server: LiveServer, parameters: str):
    server.serve("it", KEEPER.replace("self, a: int = 0, **others", parameters).replace("[a, others]", "others"))
    answer = server.client.post("/it/run", json={"self": 1})

    assert answer.status_code == (200 if "/" in parameters else 400)
