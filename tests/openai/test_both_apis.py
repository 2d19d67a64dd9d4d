"""Chat completions and Responses alike: paths, bad bodies, errors, clients that go away or read slowly."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import LiveServer, eventually
from tests.logs import logged
from tests.openai.apis import CHAT, RESPONSES, Api, asked, go_away, leases, method, settled

APIS = pytest.mark.parametrize("api", [CHAT, RESPONSES], ids=["chat", "responses"])
STREAM = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


def serve(server: LiveServer, definition: str, **constants: Any) -> None:
    server.serve("it", method(definition), **constants)


@APIS
def test_the_three_paths_answer_alike(server: LiveServer, api: Api):
    serve(server, api.sync + "return model")

    for path in (api.path, *api.other_paths):
        answer = api.ask(server, path).json()
        assert (api.text(answer), answer["model"]) == ("it", "it")


@APIS
def test_on_a_pipelines_own_path_the_path_decides_the_model(server: LiveServer, api: Api):
    serve(server, api.sync + "return json.dumps([model, body['model']])")
    own_path = api.other_paths[1]
    for body in (api.question, {**api.question, "model": "other"}):
        answer = server.client.post(own_path, json=body).json()
        assert (api.text(answer), answer["model"]) == ('["it", "it"]', "it")


@APIS
def test_the_bytes_on_the_wire_are_those_that_clients_split(server: LiveServer, api: Api):
    serve(server, api.sync + "yield 'a'")
    response = api.ask(server, stream=True)

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert b"\r" not in response.content
    lines = {line.partition(b":")[0] for line in response.content.split(b"\n") if line}
    assert lines == ({b"data"} if api is CHAT else {b"event", b"data"})
    assert (b"[DONE]" in response.content) == (api is CHAT)


@APIS
@STREAM
@pytest.mark.parametrize(
    ("is_async", "code"),
    [
        (False, "raise ValueError('it broke')"),
        (False, "raise ValueError('it broke')\n    yield"),
        (True, "raise ValueError('it broke')"),
        (True, "raise ValueError('it broke')\n    yield"),
        (False, "raise SystemExit('it broke')"),
        (True, "raise SystemExit('it broke')"),
        (False, "return 7 # it broke"),
        (False, "yield 7 # it broke"),
        (False, "return None # it broke"),
    ],
)
def test_an_error_at_once_is_500_and_not_to_be_retried(
    server: LiveServer, api: Api, stream: bool, is_async: bool, code: str
):
    serve(server, (api.asynchronous if is_async else api.sync) + code)
    response = api.ask(server, stream=stream)

    assert (response.status_code, response.headers["x-should-retry"]) == (500, "false")
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, None)
    assert response.json()["detail"] == error["message"]
    assert "it broke" in error["message"] or "cannot be made of" in error["message"]


@APIS
@STREAM
@pytest.mark.parametrize("read", ["get_last_user_message(None)", "ChatMessage.from_openai_dict_format({})"])
def test_a_wrappers_own_bug_while_it_reads_messages_is_a_logged_500(
    server: LiveServer, api: Api, stream: bool, read: str
):
    serve(server, api.sync + f"yield {read}")
    with logged("ERROR") as lines:
        response = api.ask(server, stream=stream)

    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
    (line,) = lines
    assert line.startswith("ERROR it: ")
    assert "Traceback" in line
    assert read in line


@APIS
def test_none_adds_nothing(server: LiveServer, api: Api):
    serve(server, api.sync + "yield None\n    yield 'a'\n    yield None")

    assert api.text(api.ask(server).json()) == "a"
    assert "error" not in [json.loads(line[6:]).keys() for line in _data(api.ask(server, stream=True).text)][-1]


def _data(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("data: {")]


UNREADABLE = """
from hayhooks import chat_messages_from_openai

def read():
    chat_messages_from_openai([{"role": "user", "content": [{"type": "image_url", "image_url": 7}]}])
"""


@APIS
@STREAM
@pytest.mark.parametrize("code", ["return read()", "yield read()"])
def test_messages_that_the_toolkit_cannot_read_are_the_clients_fault(
    server: LiveServer, api: Api, stream: bool, code: str
):
    server.serve("it", UNREADABLE + method(api.sync + code))
    with logged("ERROR") as lines:
        response = api.ask(server, stream=stream)

    field = next(iter(api.question))
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", field)
    assert f"cannot use '{field}'" in error["message"]
    assert not lines


@APIS
@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b"[]", None),
        (b"null", None),
        (b"{Q}", "model"),
        (b'{Q, "model": 7}', "model"),
        (b'{Q, "model": "it", "stream": "yes"}', "stream"),
        (b'{Q, "model": "it", "stream": 1}', "stream"),
        (b'{Q, "model": "it", "stream_options": true}', "stream_options"),
        (b'{Q, "model": "it", "temperature": NaN}', None),
        (b'{"model": "it"}', "FIELD"),
        (b'{"model": "it", "FIELD": null}', "FIELD"),
        (b'{"model": "it", "FIELD": 7}', "FIELD"),
        (b'{"model": "it", "FIELD": []}', "FIELD"),
        (b'{"model": "it", "FIELD": {}}', "FIELD"),
        (b'{"model": "it", "FIELD": [1]}', "FIELD[0]"),
        (b'{"model": "it", "FIELD": [{}]}', "FIELD[0]"),
        (b'{"model": "it", "FIELD": [{"role": 1}]}', "FIELD[0]"),
        (b'{"model": "it", "FIELD": [{"type": 1}]}', "FIELD[0]"),
        (b'{"model": "it", "FIELD": [{"role": "user", "content": 1}]}', "FIELD[0].content"),
        (b'{"model": "it", "FIELD": [{"role": "user", "content": [1]}]}', "FIELD[0].content[0]"),
        (b'{"model": "it", "FIELD": [{"role": "user", "content": [{"text": 1}]}]}', "FIELD[0].content[0]"),
        (b'{"model": "it", "FIELD": [{"role": "user", "content": [{"text": []}]}]}', "FIELD[0].content[0]"),
    ],
)
def test_a_bad_body_is_400_and_names_the_field(server: LiveServer, api: Api, body: bytes, param: str | None):
    field = next(iter(api.question))
    body = body.replace(b"Q", json.dumps(api.question).encode()[1:-1]).replace(b"FIELD", field.encode())
    param = param and param.replace("FIELD", field)
    serve(server, api.sync + "return 'never'")
    response = server.client.post(api.path, content=body, headers={"Origin": "http://a"})

    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert (param or "") in error["message"]
    assert response.headers["access-control-allow-origin"] == "*"


@APIS
@pytest.mark.parametrize(
    ("body", "told"),
    [("{'FIELD': []}", "double quotes"), ("{FIELD: []}", "double quotes"), ('{"xFIELD": []}', "you sent 'xFIELD'")],
)
def test_a_body_that_is_nearly_right_is_told_what_is_wrong(server: LiveServer, api: Api, body: str, told: str):
    field = next(iter(api.question))
    response = server.client.post(api.path, content=body.replace("FIELD", field))

    assert told.replace("FIELD", field) in response.json()["error"]["message"]


@APIS
def test_an_unknown_model_is_404_and_named(server: LiveServer, api: Api):
    response = api.ask(server, model="nothing")

    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "nothing" in error["message"]


@APIS
def test_a_pipeline_without_the_method_is_501(server: LiveServer, api: Api):
    serve(server, "def run_api(self): pass")

    for path in (api.path, api.other_paths[1]):
        response = api.ask(server, path)
        assert (response.status_code, response.headers["x-should-retry"]) == (501, "false")
        assert api.method in response.json()["error"]["message"]
    assert server.state("it")["endpoints"] == ["/it/run"]


@APIS
def test_get_is_405_with_the_error_object(server: LiveServer, api: Api):
    serve(server, "def run_api(self): pass")

    for path in (api.path, api.other_paths[1]):
        response = server.client.get(path, headers={"Origin": "http://a"})
        assert (response.status_code, response.headers["Allow"]) == (405, "POST")
        assert response.json()["error"]["message"] == response.json()["detail"]
        assert response.json()["detail"] == f"Method Not Allowed: {path} takes POST"
        assert response.headers["access-control-allow-origin"] == "*"


@APIS
@STREAM
@pytest.mark.parametrize("code", ["await asyncio.sleep(60)", "yield 'x'\n        await asyncio.sleep(60)"])
def test_a_client_that_goes_away_cancels_async_work(
    server: LiveServer, tmp_path: Path, api: Api, stream: bool, code: str
):
    closed = tmp_path / "closed"
    began = "Path(CLOSED + '.began').touch()\n    "
    work = f"try:\n        {code}\n    finally:\n        Path(CLOSED).touch()"
    serve(server, api.asynchronous + began + work, closed=str(closed))

    _check_cancelled(server, api, closed, stream=stream)


@APIS
@STREAM
@pytest.mark.parametrize("pause", ["", "time.sleep(0.01)"])
def test_a_client_that_goes_away_stops_a_sync_pipeline_at_its_next_chunk(
    server: LiveServer, tmp_path: Path, api: Api, stream: bool, pause: str
):
    closed = tmp_path / "closed"
    definition = (
        api.sync + "try:\n        while True:\n            Path(CLOSED + '.began').touch()\n            yield 'x'\n"
        f"            {pause}\n    finally:\n        Path(CLOSED).touch()"
    )
    serve(server, definition, closed=str(closed))

    _check_cancelled(server, api, closed, stream=stream)


def _check_cancelled(server: LiveServer, api: Api, closed: Path, *, stream: bool) -> None:
    """Ask, go away when the work has begun, and wait until it has been cancelled."""
    with logged("INFO", deploys=False) as lines:
        go_away(server, api.path, {**api.body, "stream": stream}, closed.with_name("closed.began"))
        eventually(lambda: closed.exists() and leases(server) == 0 and lines)

    assert lines == [f"INFO POST {api.path} was cancelled: the client went away"]


@APIS
@pytest.mark.parametrize("is_async", [False, True])
def test_a_slow_reader_is_felt_by_the_wrapper(server: LiveServer, tmp_path: Path, api: Api, is_async: bool):
    count = tmp_path / "count"
    write = "for number in range(100_000):\n        Path(COUNT).write_text(str(number))\n        yield 'x' * 10_000"
    serve(server, (api.asynchronous if is_async else api.sync) + write, count=str(count))
    with asked(server, api.path, {**api.body, "stream": True}, receive_buffer=4096):
        eventually(count.exists)
        assert int(settled(count)) < 2_000
    eventually(lambda: leases(server) == 0)
