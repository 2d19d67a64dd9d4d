"""OpenAI's Files, by the bytes and by the official client."""

import asyncio
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.cli.processes import started
from tests.live_server import LiveServer

KEEPER = """
import io
from pathlib import Path

from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.files = {}

    def run_file_upload(self, filename: str | None, content_type: str | None, content: bytes, purpose: str) -> dict:
        self.files["file-1"] = content
        return {"id": "file-1", "filename": filename, "status": content_type, "purpose": purpose}

    def run_file_list(self, limit: int | None = None):
        yield from [self.run_file_retrieve(file_id) for file_id in list(self.files)[:limit]]

    def run_file_retrieve(self, file_id):
        if file_id in self.files:
            size = len(self.files[file_id])
            return {"id": file_id, "object": "file", "bytes": size, "created_at": 1, "filename": "a", "purpose": "b"}

    def run_file_content(self, file_id):
        return self.files.get(file_id)

    def run_file_delete(self, file_id):
        return self.files.pop(file_id, None) is not None
"""

HEAD = KEEPER[: KEEPER.index("    def setup")] + "    def setup(self):\n        pass\n\n    DEF\n"

A: Any = {"file": ("a.txt", b"aaa", "text/plain")}
PURPOSE = {"purpose": "user_data"}


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


def serve(server: LiveServer, name: str, definition: str) -> None:
    server.serve(name, HEAD.replace("DEF", definition.replace("\n", "\n    ")))


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        yield client


def test_the_official_client_keeps_reads_and_deletes_a_file(server: LiveServer, client: openai.OpenAI):
    server.serve("it", KEEPER)

    uploaded = client.files.create(file=("a.txt", b"hello", "text/plain"), purpose="user_data")
    assert (uploaded.id, uploaded.object, uploaded.bytes) == ("file-1", "file", 5)
    assert (uploaded.filename, uploaded.purpose, uploaded.status) == ("a.txt", "user_data", "text/plain")
    assert uploaded.created_at > 0
    assert [file.id for file in client.files.list(limit=5)] == ["file-1"]
    assert client.files.retrieve("file-1").bytes == 5
    assert client.files.content("file-1").read() == b"hello"
    assert client.files.delete("file-1").deleted
    assert client.files.list().data == []
    for act in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="file-1") as raised:
            act("file-1")
        assert raised.value.code == "file_not_found"


async def asynchronously(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        return (await client.files.create(file=io.BytesIO(b"hello"), purpose="assistants")).id


def test_the_asynchronous_client_uploads_too(server: LiveServer):
    server.serve("it", KEEPER)
    assert asyncio.run(asynchronously(server.url)) == "file-1"


@pytest.mark.parametrize("path", ["/v1/files", "/files", "/it/files"])
def test_every_path_takes_the_file(server: LiveServer, path: str):
    server.serve("it", KEEPER)
    response = server.client.post(path, files=A, data=PURPOSE)

    assert response.json()["id"] == "file-1"
    assert response.headers["x-hayhooks-revision"] == server.state("it")["revision"]
    assert server.client.get(f"{path}/file-1/content").content == b"aaa"
    assert server.client.delete(f"{path}/file-1").json() == {"id": "file-1", "object": "file", "deleted": True}
    assert server.client.get(f"{path}/file-1").status_code == 404
    assert server.client.get(path).json()["data"] == []


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("def run_file_upload(self, file: UploadFile): return {'id': file.file.read().decode()}", {"id": "aaa"}),
        ("async def run_file_upload(self, file): return {'id': (await file.read()).decode()}", {"id": "aaa"}),
        ("def run_file_upload(self, content, file): return (content + file.file.read()).decode()", {"id": "aaaaaa"}),
        ("def run_file_upload(self, **all): return {'id': all['content'].decode(), 'keys': sorted(all)}",
         {"id": "aaa", "keys": ["body", "content", "content_type", "file", "filename", "model", "purpose"]}),
        ("def run_file_upload(self, body, model): return {'body': body, 'model': model}",
         {"body": {"purpose": "user_data", "extra": "1"}, "model": "it"}),
        ("def run_file_upload(self, headers: Headers | None = None): return headers['x-mine']", {"id": "yes"}),
        ("def run_file_upload(self): return None", {"bytes": 3, "filename": "a.txt", "object": "file", **PURPOSE}),
        ("def run_file_upload(self): return 'file-7'", {"id": "file-7", "bytes": 3}),
    ],
)  # fmt: skip
def test_a_wrapper_takes_what_it_names_and_the_rest_is_filled_in(server: LiveServer, definition: str, expected: Any):
    serve(server, "it", definition)
    response = server.client.post("/v1/files", files=A, data={**PURPOSE, "extra": "1"}, headers={"x-mine": "yes"})

    answer = response.json()
    assert {name: answer.get(name) for name in expected} == expected
    assert {"id", "object", "bytes", "created_at", "filename", "purpose"} <= answer.keys()


def test_among_several_the_model_chooses(server: LiveServer, client: openai.OpenAI):
    for name in ("one", "two"):
        listing = f"def run_file_list(self): return [{{'id': '{name}'}}]"
        serve(server, name, f"def run_file_upload(self): return '{name}'\n{listing}")
    serve(server, "neither", "def run_api(self): return 1")

    with pytest.raises(openai.BadRequestError, match="one, two") as several:
        client.files.create(file=b"a", purpose="user_data")
    assert several.value.param == "model"
    assert client.files.create(file=b"a", purpose="user_data", extra_body={"model": "two"}).id == "two"
    assert client.files.list(extra_query={"model": "two"}).data[0].id == "two"
    assert server.client.post("/one/files", files=A, data=PURPOSE).json()["id"] == "one"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.files.create(file=b"a", purpose="user_data", extra_body={"model": "three"})
    assert unknown.value.code == "model_not_found"
    response = server.client.post("/v1/files", files=A, data={**PURPOSE, "model": "neither"})
    assert response.status_code == 501


@pytest.mark.parametrize("path", ["/v1/files", "/files", "/it/files"])
def test_where_nobody_keeps_files_it_is_501_and_not_tried_again(server: LiveServer, path: str):
    serve(server, "it", "def run_api(self): return 1")
    for response in (
        server.client.post(path, files={"file": ("big", b"x" * 5_000_000)}, data=PURPOSE),
        server.client.get(path),
        server.client.delete(f"{path}/file-1"),
        server.client.get(f"{path}/file-1/content"),
    ):
        assert response.status_code == 501
        assert response.headers["x-should-retry"] == "false"
        error = response.json()["error"]
        assert error["code"] == "not_implemented"
        assert "implement" in error["message"]
    assert server.state("it")["endpoints"] == ["/it/run"]


def test_endpoints_of_a_keeper_are_told(server: LiveServer):
    server.serve("it", KEEPER)

    assert "/it/files" in server.state("it")["endpoints"]


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"files": A}, "purpose"),
        ({"data": PURPOSE}, "file"),
        ({"files": {"file": (None, b"text")}, "data": PURPOSE}, "file"),
        ({"json": {"file": "x", "purpose": "y"}}, "file"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, "file"),
        ({"content": b""}, "file"),
        ({"files": {**A, "purpose": ("p", b"p")}}, "purpose"),
        ({"files": {**A, "model": ("m", b"m")}, "data": PURPOSE}, "model"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, None),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, None),
    ],
)
@pytest.mark.parametrize("path", ["/v1/files", "/files", "/it/files"])
def test_an_upload_that_is_not_right_is_400_and_names_the_field(
    server: LiveServer, path: str, request_: Any, param: Any
):
    server.serve("it", KEEPER)
    response = server.client.post(path, **request_)

    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["param"] == param
    assert response.json()["detail"]


def test_a_limit_that_is_no_number_is_400(server: LiveServer):
    server.serve("it", KEEPER)

    assert server.client.get("/v1/files?limit=x").json()["error"]["param"] == "limit"


@pytest.mark.parametrize("path", ["/v1/files", "/files", "/it/files"])
def test_another_method_is_405_with_openais_error(server: LiveServer, path: str):
    server.serve("it", KEEPER)
    response = server.client.put(path, content=b"x")

    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert server.client.head(path).status_code == 200


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("def run_file_upload(self): raise ValueError('it broke')", "it broke"),
        ("def run_file_upload(self): return 3", "return a dict"),
        ("def run_file_upload(self): return object()", "JSON"),
        ("def run_file_upload(self, unknown): return 3", "unknown"),
    ],
)
def test_a_wrapper_that_fails_is_500_and_not_tried_again(server: LiveServer, definition: str, message: str):
    serve(server, "it", definition)
    response = server.client.post("/v1/files", files=A, data=PURPOSE)

    assert response.status_code == 500
    assert response.headers["x-should-retry"] == "false"
    assert message in response.json()["error"]["message"]
    assert response.json()["error"]["type"] == "server_error"


def test_what_a_wrapper_raises_for_http_passes_in_openais_shape(server: LiveServer):
    serve(server, "it", "def run_file_upload(self): raise HTTPException(413, 'too big')")
    response = server.client.post("/v1/files", files=A, data=PURPOSE)

    assert response.status_code == 413
    assert response.json()["error"]["message"] == "too big"


@pytest.mark.parametrize(
    ("result", "content", "kind"),
    [
        ("'text'", b"text", "text/plain; charset=utf-8"),
        ("b'\\xff'", b"\xff", "application/octet-stream"),
        ("Path(__file__)", b"class PipelineWrapper", "text/x-python; charset=utf-8"),
        ("iter_('a', 'b')", b"ab", "text/plain; charset=utf-8"),
    ],
)
def test_content_may_be_text_bytes_a_path_or_a_stream(server: LiveServer, result: str, content: bytes, kind: str):
    result = result.replace("iter_('a', 'b')", "(c for c in 'ab')")
    serve(server, "it", f"def run_file_content(self, file_id): return {result}")
    response = server.client.get("/v1/files/x/content")

    assert content in response.content
    assert response.headers["content-type"] == kind


def test_content_that_is_none_of_these_is_500(server: LiveServer):
    serve(server, "it", "def run_file_content(self, file_id): return Path('/nowhere')")

    assert "nowhere" in server.client.get("/v1/files/x/content").json()["error"]["message"]


MEGABYTES = 100


def peak_megabytes(pid: int) -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) // 1024


def much() -> Iterator[bytes]:
    """A form with a file of MEGABYTES."""
    yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n\r\n'
    for _ in range(MEGABYTES * 16):
        yield b"x" * 65536
    yield b"\r\n--b--\r\n"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("path", ["/v1/files", "/it/run"])
def test_a_large_upload_is_not_held_in_memory(tmp_path: Path, path: str):
    folder = tmp_path / "pipelines/it"
    folder.mkdir(parents=True)
    definition = (
        "def count(self, file): return sum(len(part) for part in iter(lambda: file.file.read(65536), b''))\n"
        "    def run_file_upload(self, file): return {'bytes': self.count(file)}\n"
        "    def run_api(self, file: UploadFile): return {'bytes': self.count(file)}"
    )
    (folder / "pipeline_wrapper.py").write_text(HEAD.replace("DEF", definition))
    headers = {"content-type": "multipart/form-data; boundary=b"}
    with started(tmp_path, "run") as server:
        assert httpx.post(server.url + path, files=A, data=PURPOSE, timeout=60).status_code == 200
        before = peak_megabytes(server.process.pid)
        answer = httpx.post(server.url + path, content=much(), headers=headers, timeout=120).json()
        after = peak_megabytes(server.process.pid)

    assert answer.get("result", answer)["bytes"] == MEGABYTES * 1024 * 1024
    assert after - before < MEGABYTES / 4
