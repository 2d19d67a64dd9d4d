"""Results that are no JSON, contain themselves or do not end: a 500 that names the place."""

import httpx
import pytest

from tests.live_server import LiveServer

RESULTS = """
from dataclasses import dataclass
from haystack.dataclasses import Document
from hayhooks import BasePipelineWrapper


@dataclass
class Point:
    x: object = None


def deep(levels):
    value = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def itself():
    value = {"a": [0, {}]}
    value["a"][1]["b"] = value
    return value


def document():
    value = Document(content="x")
    value.meta["self"] = value
    return [value]


def point():
    value = Point()
    value.x = [value]
    return value


MADE = {
    "itself": itself,
    "document": document,
    "point": point,
    "deep": lambda: deep(300),
    "very deep": lambda: deep(100_000),
    "allowed": lambda: deep(200),
    "object": lambda: {"a": [1, object()]},
    "text": lambda: ["\\ud800"],
}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, kind: str) ANNOTATION:
        return MADE[kind]()

    def run_file_retrieve(self, file_id):
        return {"id": MADE[file_id]()}
"""
PLACES = {
    "itself": "result.a[1].b contains itself",
    "document": "result[0].meta.self contains itself",
    "point": "result.x[0] contains itself",
    "deep": "is nested too deeply, in 250 others",
    "very deep": "is nested too deeply, in 250 others",
    "object": "result.a[1]: an object (it has no to_dict)",
    "text": "result[0]: text that is no Unicode: UnicodeEncodeError",
}


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


@pytest.mark.parametrize("annotation", ["", "-> dict | list"])
def test_a_result_that_is_no_json_is_a_500_that_names_the_place(server: LiveServer, annotation: str):
    server.serve("it", RESULTS.replace("ANNOTATION", annotation))
    for kind, place in PLACES.items():
        answer: httpx.Response = server.client.post("/it/run", json={"kind": kind})
        assert answer.status_code == 500
        assert place in answer.json()["detail"], kind
        assert len(answer.content) < 1_000
        file = server.client.get(f"/v1/files/{kind}")
        assert (file.status_code, file.json()["error"]["type"]) == (500, "server_error")
        assert "cannot be encoded as JSON: result.id" in file.json()["error"]["message"]
    assert server.client.post("/it/run", json={"kind": "allowed"}).status_code == 200
