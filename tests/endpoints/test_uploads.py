"""Files to and from ``/{name}/run``."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import UploadFile

from hayhooks.http.types import HTTP_TYPES
from hayhooks.kernel.operations import inspect_method
from tests.live_server import LiveServer, eventually

HEAD = """
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional

import numpy
from haystack.dataclasses import ChatMessage, Document
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.datastructures import Headers, UploadFile
from starlette.responses import FileResponse, StreamingResponse

from hayhooks import BasePipelineWrapper, SSEStream


class Model(BaseModel):
    number: int


@dataclass
class Holder:
    message: Any


class Derived(UploadFile):  # as FastAPI's is
    pass


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    DEF
"""

A: Any = ("a.txt", b"aaa", "text/plain")
B: Any = ("b.bin", b"\xff\x00", "application/octet-stream")


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


def serve(server: LiveServer, definition: str, **constants: Any) -> None:
    server.serve("it", HEAD.replace("DEF", definition.replace("\n", "\n    ")), **constants)


def send(server: LiveServer, files: Any = None, **fields: Any) -> httpx.Response:
    return server.client.post("/it/run", files=files, data=fields)


READ = "return [(f.filename, f.file.read().decode('latin-1'), f.content_type) for f in files or []]"


@pytest.mark.parametrize(
    "annotation",
    [
        "",
        ": list",
        ": list[UploadFile]",
        ": List[UploadFile]",
        ": Optional[List[UploadFile]]",
        ": list[UploadFile] | None",
        ": list[Derived]",
        ": 'list[UploadFile]'",
    ],
)
def test_files_come_as_a_list(server: LiveServer, annotation: str):
    serve(server, f"def run_api(self, files{annotation} = None): {READ}")

    expected = [["a.txt", "aaa", "text/plain"], ["b.bin", "\xff\x00", "application/octet-stream"]]
    assert send(server, [("files", A), ("files", B)]).json() == {"result": expected}
    assert send(server, [("files", A)]).json() == {"result": expected[:1]}
    assert send(server, {"other": A}).json() == {"result": []}
    assert server.run("it") == []


@pytest.mark.parametrize("annotation", ["UploadFile", "Optional[UploadFile]", "UploadFile | None"])
@pytest.mark.parametrize("define", ["def run_api", "async def run_api_async"])
def test_one_file_comes_as_it_is_whatever_the_parameter_is_called(server: LiveServer, annotation: str, define: str):
    read = "(await picture.read())" if "async" in define else "picture.file.read()"
    serve(server, f"{define}(self, picture: {annotation}): return [picture.filename, {read}.decode()]")

    assert send(server, {"picture": A}).json() == {"result": ["a.txt", "aaa"]}
    assert send(server, [("picture", A), ("picture", B)]).status_code == 422


@pytest.mark.parametrize(
    ("annotation", "text", "result"),
    [
        (": str", "3", "3"),
        (": str", '{"a": 1}', '{"a": 1}'),
        (": str", '"quoted"', '"quoted"'),
        (": str | None", "", ""),
        (": int", "3", 3),
        (": float | None", "1.5", 1.5),
        (": bool", "true", True),
        (": int = 7", "", 7),
        (": int | None", "null", None),
        (": list[str]", '["a", "b"]', ["a", "b"]),
        (": list[str]", "a", ["a"]),
        (": list[int]", ["1", "2"], [1, 2]),
        (": list[dict]", ['{"a": 1}', '{"b": 2}'], [{"a": 1}, {"b": 2}]),
        (": dict", '{"a": [1]}', {"a": [1]}),
        (": Model", '{"number": "3"}', {"number": 3}),
        (": ChatMessage", '{"role": "user", "content": "hi"}', "hi"),
        (": list[Document]", '[{"content": "d"}]', ["d"]),
        ("", "3", "3"),
        ("", '{"a": 1}', {"a": 1}),
        ("", "[1", "[1"),
        ("", ["a", "b"], ["a", "b"]),
    ],
)
def test_the_other_arguments_are_fields_of_the_form(server: LiveServer, annotation: str, text: Any, result: Any):
    shown = (
        "getattr(x, 'text', x)" if "Chat" in annotation else "[d.content for d in x]" if "Doc" in annotation else "x"
    )
    serve(server, f"def run_api(self, file: UploadFile, x{annotation}): return {shown}")

    assert send(server, {"file": A}, x=text).json() == {"result": result}


def test_a_urlencoded_form_and_json_do_where_files_may_be_left_out(server: LiveServer):
    serve(server, "def run_api(self, x: int, files: list[UploadFile] | None = None): return [x, files]")

    assert send(server, x="3").request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert send(server, x="3").json() == {"result": [3, None]}
    assert server.run("it", x=3) == [3, None]
    for headers in ({}, {"content-type": "application/x-www-form-urlencoded"}):
        response = server.client.post(
            "/it/run", content=b'{"x": 3}', headers=headers
        )  # the latter is what curl -d says
        assert response.json() == {"result": [3, None]}


def test_keyword_arguments_take_the_fields_and_files_that_are_left(server: LiveServer):
    serve(
        server,
        "def run_api(self, file: UploadFile, **more): return {k: getattr(v, 'filename', v) for k, v in more.items()}",
    )

    response = send(server, {"file": A, "extra": B}, x="1", y='{"a": 1}')
    assert response.json() == {"result": {"extra": "b.bin", "x": "1", "y": {"a": 1}}}


def test_headers_are_handed_over_beside_files(server: LiveServer):
    serve(server, "def run_api(self, file: UploadFile, headers: Headers | None = None): return headers['x-mine']")

    response = server.client.post("/it/run", files={"file": A}, headers={"x-mine": "yes"})
    assert response.json() == {"result": "yes"}


@pytest.mark.parametrize(
    ("files", "fields", "loc", "message"),
    [
        ({}, {"x": "1"}, ["body", "file"], "required"),
        ({"file": A}, {}, ["body", "x"], "required"),
        ({"file": A}, {"x": "many"}, ["body", "x"], "valid integer"),
        ({"file": A}, {"x": "1", "m": '{"number": "many"}'}, ["body", "m", "number"], "valid integer"),
        ({"file": A}, {"x": "1", "m": "{"}, ["body", "m"], "valid dictionary"),
        ({"file": A, "x": B}, {}, ["body", "x"], "integer"),
        ({}, {"file": "text", "x": "1"}, ["body", "file"], "a file is expected"),
        ({"file": ("", b"")}, {"x": "1"}, ["body", "file"], "required"),
        ([("file", A), ("file", A)], {"x": "1"}, ["body", "file"], "one file is expected, 2 came"),
    ],
)
def test_what_does_not_fit_is_422_and_names_the_field(server: LiveServer, files, fields, loc, message):
    serve(server, "def run_api(self, file: UploadFile, x: int, m: Model | None = None): return 1")
    response = send(server, files, **fields)

    assert response.status_code == 422
    (detail,) = [detail for detail in response.json()["detail"] if detail["loc"] == loc]
    assert message in detail["msg"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"<x/>", "application/xml", 415),
        (b"aaa", "text/plain", 415),
        (b"aaa", "multipart/form-data", 400),
        (b"aaa", "multipart/form-data; boundary=b", 400),
        (b"--b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
        (b"--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n\xff", "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\xff\r\n--b--\r\n',
         "multipart/form-data; charset=undefined; boundary=b", 415),
        (b"{", "application/json", 422),
        (b"", "application/json", 422),
        (b'{"file": "text"}', "application/json", 422),
        (b"%ff=%00&&&=", "application/x-www-form-urlencoded", 422),
    ],
)  # fmt: skip
def test_a_body_that_is_no_form_is_a_clear_4xx(server: LiveServer, content: bytes, kind: str, status: int):
    serve(server, "def run_api(self, file: UploadFile): return 1")
    response = server.client.post("/it/run", content=content, headers={"content-type": kind})

    assert response.status_code == status
    assert response.json()["detail"]


def test_a_method_without_files_says_that_it_takes_json(server: LiveServer):
    serve(server, "def run_api(self, x: int): return 1")
    response = server.client.post("/it/run", files={"x": A})

    assert response.status_code == 415
    assert "takes JSON" in response.json()["detail"]


KEEP = """
async def run_api_async(self, file: UploadFile, how: str):
    type(self).kept = file
    if how == "raise":
        raise ValueError("it broke")
    if how == "stream":
        return self.words(file)
    return "done"

async def words(self, file):
    yield "a"
    yield "open" if not file.file.closed else "closed"

def run_chat_completion(self, model, messages, body):
    return str(self.kept.file.closed)
"""


def kept_is_closed(server: LiveServer) -> bool:
    body = {"messages": [{"role": "user", "content": "?"}]}
    answer = server.client.post("/it/chat", json=body).json()
    return bool(answer["choices"][0]["message"]["content"] == "True")


@pytest.mark.parametrize(("how", "text"), [("return", "done"), ("raise", "it broke"), ("stream", "aopen")])
def test_files_are_open_to_the_last_byte_and_closed_then(server: LiveServer, how: str, text: str):
    serve(server, KEEP)

    assert text in send(server, {"file": A}, how=how).text
    eventually(lambda: kept_is_closed(server), "the file to be closed")


def test_files_are_closed_when_the_client_goes_away_in_the_middle(server: LiveServer):
    serve(
        server,
        """
async def run_api_async(self, file: UploadFile):
    import asyncio
    type(self).kept = file
    while True:
        yield "a"
        await asyncio.sleep(0.01)

def run_chat_completion(self, model, messages, body):
    return str(self.kept.file.closed)
""",
    )
    with server.client.stream("POST", "/it/run", files={"file": A}) as response:
        parts = response.iter_raw()  # dropped, it would close the connection
        next(parts)
        assert not kept_is_closed(server)
    eventually(lambda: kept_is_closed(server), "the file to be closed")


def test_many_uploads_at_once_do_not_mix(server: LiveServer):
    serve(server, "def run_api(self, file: UploadFile, n: int): return [n, file.file.read().decode()]")
    answers: dict[int, Any] = {}

    def upload(number: int) -> None:
        files = {"file": ("x", str(number).encode() * 1000)}
        answers[number] = httpx.post(server.url + "/it/run", files=files, data={"n": number}, timeout=60).json()

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: {"result": [number, str(number) * 1000]} for number in range(20)}


def test_the_request_model_shows_files_as_binary():
    class Wrapper:
        def run_api(self, files: list[UploadFile], picture: UploadFile | None = None, n: int = 1) -> None: ...

    operation = inspect_method(Wrapper().run_api, HTTP_TYPES)
    shown = operation.arguments.json_schema()["properties"]
    assert operation.uploads == {"files", "picture"}
    binary = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    assert shown["files"]["items"] == binary
    assert binary in shown["picture"]["anyOf"]


def test_a_file_response_passes_through(server: LiveServer, tmp_path: Path):
    path = tmp_path / "picture.png"
    path.write_bytes(bytes(range(256)) * 1000)
    serve(server, "def run_api(self) -> FileResponse: return FileResponse(PATH, filename='out.png')", path=str(path))

    whole = server.client.post("/it/run", json={})
    assert whole.content == path.read_bytes()
    assert whole.headers["content-type"] == "image/png"
    assert "out.png" in whole.headers["content-disposition"]


def test_a_file_response_without_its_file_is_a_clear_500(server: LiveServer):
    serve(server, "def run_api(self): return FileResponse('/nowhere/a.png')")
    response = server.client.post("/it/run", json={})

    assert response.status_code == 500
    assert "/nowhere/a.png" in response.json()["detail"]


def test_a_streaming_response_keeps_its_revision_until_its_last_byte(server: LiveServer, tmp_path: Path):
    gate, gone = tmp_path / "gate", tmp_path / "gone"
    definition = """
def run_api(self, file: UploadFile | None = None):
    async def parts():
        import asyncio, os
        yield b"one "
        while not os.path.exists(GATE):
            await asyncio.sleep(0.01)
        yield b"two"
    return StreamingResponse(parts(), media_type="audio/wav", background=BackgroundTask(lambda: None))

def teardown(self):
    Path(GONE).touch()
"""
    serve(server, definition, gate=str(gate), gone=str(gone))
    with server.client.stream("POST", "/it/run", files={"file": A}) as response:
        parts = response.iter_raw()
        assert next(parts) == b"one "
        serve(server, "def run_api(self): return 'new'")
        assert not gone.exists()
        gate.touch()
        assert b"".join(parts) == b"two"
        assert response.headers["content-type"] == "audio/wav"
    eventually(gone.exists, "the old revision to be torn down")


MESSAGE: Any = {"role": "user", "meta": {}, "name": None, "content": [{"text": "hi"}]}


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("numpy.float32(1.5)", 1.5),
        ("numpy.int64(3)", 3),
        ("numpy.bool_(True)", True),
        ("numpy.array([[1.0, numpy.nan]])", [[1.0, None]]),
        ("{numpy.str_('a'): numpy.datetime64('2026-01-02')}", {"a": "2026-01-02"}),
        ("[float('nan'), float('inf')]", [None, None]),
        ("Holder([ChatMessage.from_user('hi')])", {"message": [MESSAGE]}),
        ("Holder(Holder(numpy.int8(1)))", {"message": {"message": 1}}),
    ],
)  # fmt: skip
def test_results_of_numpy_and_haystack_are_json(server: LiveServer, expression: str, result: Any):
    serve(server, f"def run_api(self): return {expression}")
    response = server.client.post("/it/run", json={})

    assert json.loads(response.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) == {
        "result": result
    }


@pytest.mark.parametrize("expression", ["object()", "[ChatMessage]", "b'\\xff'", "numpy.array([object()])"])
def test_a_result_that_cannot_be_json_is_a_clear_500(server: LiveServer, expression: str):
    serve(server, f"def run_api(self): return {expression}")
    response = server.client.post("/it/run", json={})

    assert response.status_code == 500
    assert "JSON" in response.json()["detail"]
