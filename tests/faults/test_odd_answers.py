"""Answers that wrappers make themselves, and that cannot be sent: told with an id, counted, and the server goes on."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.live_server import LiveServer, eventually, replace, serving

REFUSES = """
from hayhooks import BasePipelineWrapper
from starlette.exceptions import HTTPException

ODD = {
    "object": lambda: HTTPException(400, object()),
    "set": lambda: HTTPException(400, {1, 2}),
    "no unicode": lambda: HTTPException(400, "\\ud800"),
    "no number": lambda: HTTPException(400, {"a": float("nan")}),
    "no header": lambda: HTTPException(400, "x", headers={"X-Price": "\\u20ac"}),
    "1000": lambda: HTTPException(1000, "x"),
    "101": lambda: HTTPException(101, "x"),
    "0": lambda: HTTPException(0, "x"),
    "a text": lambda: HTTPException("400", "x"),
    "599": lambda: HTTPException(599, {"a": 1}),
}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self, kind: str):
        raise ODD[kind]()

    def run_chat_completion(self, model, messages, body):
        raise ODD[messages[0]["content"]]()
"""

ANSWERS = """
from hayhooks import BasePipelineWrapper
from starlette.responses import Response, StreamingResponse


class Exits(Response):
    async def __call__(self, scope, receive, send):
        raise SystemExit(3)


class NoHeaders(Response):
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x"})


class HeadOnly(Response):
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        raise ValueError("no body")


def exits(before=(), error=SystemExit):
    yield from before
    raise error(3)


async def exits_async():
    yield b"a"
    raise SystemExit(3)


ODD = {
    "exits": Exits,
    "no headers": NoHeaders,
    "head only": HeadOnly,
    "exits at once": lambda: StreamingResponse(exits()),
    "exits in the middle": lambda: StreamingResponse(exits([b"a"])),
    "is interrupted": lambda: StreamingResponse(exits([b"a"], KeyboardInterrupt)),
    "exits on the loop": lambda: StreamingResponse(exits_async()),
}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self, kind: str = ""):
        return ODD[kind]() if kind else "well"
"""


ITEMS = """
from hayhooks import BasePipelineWrapper, SSEStream


class Silent(Exception):
    def __str__(self):
        raise RuntimeError("I do not say")


class Item:
    @property
    def content(self):
        raise Silent


def items():
    yield from ("text0", "text1", "text2")
    yield Item()


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self):
        return SSEStream(items())

    def run_chat_completion(self, model, messages, body):
        return items()

    def run_response(self, model, input_items, body):
        return iter([{"type": "no JSON", "data": object()}]) if input_items == "event" else items()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    root = tmp_path_factory.mktemp("pipelines")
    replace(root / "refuses/pipeline_wrapper.py", REFUSES)
    replace(root / "answers/pipeline_wrapper.py", ANSWERS)
    replace(root / "items/pipeline_wrapper.py", ITEMS)
    with serving(root) as server:
        eventually(lambda: server.client.get("/readyz").status_code == 200)
        yield server


def asked(server: LiveServer, path: str, kind: str) -> httpx.Response:
    body: Any = {"messages": [{"role": "user", "content": kind}]} if path.endswith("chat") else {"kind": kind}
    return server.client.post(path, json=body)


@pytest.mark.parametrize("path", ["/refuses/run", "/refuses/chat"])
@pytest.mark.parametrize(
    "kind", ["object", "set", "no unicode", "no number", "no header", "1000", "101", "0", "a text"]
)
def test_an_error_that_cannot_be_told_as_it_is_becomes_a_500_with_its_id(server: LiveServer, path: str, kind: str):
    answer = asked(server, path, kind)

    assert answer.status_code == 500
    assert answer.json() == {"detail": "Internal server error", "request_id": answer.headers["X-Request-Id"]}
    assert 'status="499"' not in server.client.get("/metrics").text


def test_a_status_that_has_no_name_is_told_to_openais_clients_too(server: LiveServer):
    answer = asked(server, "/refuses/chat", "599")

    assert (answer.status_code, answer.json()["detail"]) == (599, {"a": 1})
    assert answer.json()["error"]["message"] == "Status 599"


def test_a_response_that_exits_is_a_500_with_its_id(server: LiveServer):
    answer = asked(server, "/answers/run", "exits")

    assert (answer.status_code, answer.json()["request_id"]) == (500, answer.headers["X-Request-Id"])


@pytest.mark.parametrize("kind", ["exits at once", "exits in the middle", "is interrupted", "exits on the loop"])
def test_a_body_that_exits_ends_its_answer_and_not_the_server(server: LiveServer, kind: str):
    with pytest.raises(httpx.RemoteProtocolError):
        asked(server, "/answers/run", kind)

    assert server.run("answers") == "well"


def test_an_answer_need_not_have_headers_of_its_own(server: LiveServer):
    answer = asked(server, "/answers/run", "no headers")

    assert (answer.status_code, answer.text) == (200, "x")
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/answers", "/answers/run", "/nobody"])
def test_a_websocket_where_none_is_served_is_told_so(server: LiveServer, path: str):
    with pytest.raises(InvalidStatus) as raised, connect(server.url.replace("http", "ws") + path):
        raise AssertionError("it was let in")

    assert raised.value.response.status_code == 404
    assert f"no websocket is served at {path}".encode() in (raised.value.response.body or b"")


# What speaks with websockets makes nothing of these, and answers nothing.
HANDSHAKE = {
    "Host": "it",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
NO_HANDSHAKES = {
    "too many headers": {f"X-{number}": "x" for number in range(200)},
    "too long a header": {"X-Long": "x" * 20_000},
}


@pytest.mark.parametrize("kind", NO_HANDSHAKES)
def test_what_is_no_handshake_is_refused_and_its_connection_closed(server: LiveServer, kind: str):
    lines = [f"{name}: {value}" for name, value in {**HANDSHAKE, **NO_HANDSHAKES[kind]}.items()]

    with server.connected(timeout_s=10) as connection:
        connection.sendall("\r\n".join(["GET /x HTTP/1.1", *lines, "", ""]).encode())
        answer = b"".join(iter(partial(connection.recv, 65_536), b""))

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"handshake" in answer


def test_a_head_leaves_though_there_is_no_body_for_it(server: LiveServer):
    """Whoever gets nothing at all may ask again, and what it has asked for has run."""
    with server.client.stream("POST", "/answers/run", json={"kind": "head only"}) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()


ASKED: dict[str, tuple[str, dict[str, Any], str]] = {
    "run": ("/items/run", {}, '"error"'),
    "chat": ("/items/chat", {"messages": [{"role": "user", "content": "x"}], "stream": True}, "[DONE]"),
    "response": ("/items/responses", {"input": "x", "stream": True}, "response.failed"),
}


@pytest.mark.parametrize("api", ASKED)
def test_an_item_that_cannot_be_read_ends_a_stream_after_those_that_could(server: LiveServer, api: str):
    path, body, mark = ASKED[api]
    answer = server.client.post(path, json=body).text

    places = [answer.index(text) for text in ("text0", "text1", "text2", "Silent.__str__ raised")]
    assert places == sorted(places)
    assert mark in answer


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/items/chat", {"messages": [{"role": "user", "content": "x"}]}),
        ("/items/responses", {"input": "x"}),
        ("/items/responses", {"input": "event"}),
    ],
)
def test_a_whole_answer_of_what_cannot_be_read_is_the_pipelines_failure(
    server: LiveServer, path: str, body: dict[str, Any]
):
    answer = server.client.post(path, json=body)

    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
