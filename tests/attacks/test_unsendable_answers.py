"""Answers of wrappers that HTTP cannot express: a logged 500, whoever makes them and whichever protocol serves."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer, eventually, replace, serving

WRAPPER = """
from hayhooks import BasePipelineWrapper
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

HEADERS = {
    "CR in a value": {"X-A": "a\\rb"},
    "LF in a value": {"X-A": "a\\nSet-Cookie: b=c"},
    "CRLF in a value": {"X-A": "a\\r\\n\\r\\nHTTP/1.1 200 OK"},
    "NUL in a value": {"X-A": "a\\0b"},
    "DEL in a value": {"X-A": "a\\x7fb"},
    "CRLF in a name": {"X-A\\r\\nX-B": "a"},
    "a space in a name": {"X A": "a"},
    "a colon in a name": {"X:A": "a"},
    "no name": {"": "a"},
    "a length that is none": {"Content-Length": "many"},
    "a coding": {"Transfer-Encoding": "gzip"},
    "CRLF in the type": {"Content-Type": "text/plain\\r\\nX-A: b"},
}
STATUSES = {"0": 0, "999": 999, "600": 600, "100": 100, "101": 101, "103": 103, "199": 199, "-200": -200, "1000": 1000}


class Raw(Response):
    def __init__(self, status, headers):
        super().__init__()
        self.start = {"type": "http.response.start", "status": status, "headers": headers}

    async def __call__(self, scope, receive, send):
        await send(self.start)
        await send({"type": "http.response.body", "body": b"x"})


def made(how, kind):
    status, headers = STATUSES.get(kind, 200), HEADERS.get(kind, {})
    if how == "response":
        return PlainTextResponse("x", status, headers)
    if how == "json":
        return JSONResponse({}, status, headers)
    if how == "stream":
        return StreamingResponse(iter(["x"]), status, headers)
    if how == "lengths":
        return Raw(status, [(b"content-length", b"1"), (b"Content-Length", b"2")])
    if how == "raw":
        return Raw(status, [(name.encode(), value.encode()) for name, value in headers.items()])
    raise HTTPException(status, "x", headers)


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, how: str, kind: str):
        return "well" if how == "well" else made(how, kind)

    async def run_chat_completion_async(self, model, messages, body):
        return made(*messages[0]["content"].split("/"))

    def run_file_list(self, purpose):
        return made(*purpose.split("/"))
"""

HEADERS = [
    "CR in a value",
    "LF in a value",
    "CRLF in a value",
    "NUL in a value",
    "DEL in a value",
    "CRLF in a name",
    "a space in a name",
    "a colon in a name",
    "no name",
    "a length that is none",
    "a coding",
    "CRLF in the type",
]
STATUSES = ["0", "999", "600", "100", "101", "103", "199", "-200", "1000"]


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "plain"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    root = tmp_path_factory.mktemp("pipelines")
    replace(root / "it/pipeline_wrapper.py", WRAPPER)
    with serving(root, fast_protocol=request.param) as server:
        eventually(lambda: server.state("it")["state"] == "serving")
        yield server


def asked(server: LiveServer, path: str, how: str, kind: str) -> httpx.Response:
    if path == "/it/files":
        return server.client.get(path, params={"purpose": f"{how}/{kind}"})
    chat: Any = {"messages": [{"role": "user", "content": f"{how}/{kind}"}]}
    return server.client.post(path, json=chat if path == "/it/chat" else {"how": how, "kind": kind})


@pytest.mark.parametrize("how", ["response", "json", "stream", "raw", "exception"])
@pytest.mark.parametrize("path", ["/it/run", "/it/chat", "/it/files"])
def test_it_is_a_logged_500_and_the_connection_serves_on(server: LiveServer, path: str, how: str, logged: list[str]):
    for kind in HEADERS + STATUSES:
        answer = asked(server, path, how, kind)

        assert answer.status_code == 500, kind
        id = answer.headers["X-Request-Id"]
        assert answer.json() == {"detail": "Internal server error", "request_id": id}
        assert [line for line in logged if id in line and "The response" in line], kind
        assert server.run("it", how="well", kind="") == "well"
    assert 'status="499"' not in server.client.get("/metrics").text


def test_two_lengths_are_a_500(server: LiveServer):
    assert asked(server, "/it/run", "lengths", "").status_code == 500


def test_what_can_be_sent_is_sent_as_it_is(server: LiveServer):
    assert asked(server, "/it/run", "response", "none").text == "x"
    assert asked(server, "/it/run", "exception", "none").json() == {"detail": "x"}
