"""The guide's nginx.conf, in a real nginx in front of a real server."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from starlette.requests import Request

from hayhooks import Settings, create_app
from tests.cli.processes import started
from tests.cli.test_run import SLOW_STREAM
from tests.deployment.nginx import Nginx, needs_nginx, nginx
from tests.live_server import ECHO, LiveServer, eventually, replace, serving
from tests.network import connected, free_port

pytestmark = needs_nginx

MIB = 1024 * 1024

GATED = """
import asyncio
from pathlib import Path

from hayhooks import BasePipelineWrapper, SSEStream


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, gate: str):
        return SSEStream(self.words(gate))

    async def run_chat_completion_async(self, model, messages, body):
        return self.words(messages[-1]["content"])

    async def words(self, gate):
        for number in range(3):
            yield f"word{number}"
            while not Path(f"{gate}-{number}").exists():
                await asyncio.sleep(0.005)
"""

UPLOAD = """
from starlette.datastructures import UploadFile

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self, files: list[UploadFile]) -> int:
        return sum(file.size for file in files)
"""


@contextmanager
def proxied(server: LiveServer, tmp_path: Path, **changes: str) -> Iterator[Nginx]:
    with nginx(tmp_path, httpx.URL(server.url).port or 0, changes=changes) as proxy:
        eventually(lambda: httpx.get(proxy.url + "/healthz").status_code == 200)
        yield proxy


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/gated/run", {"gate": "GATE"}),
        ("/v1/chat/completions", {"model": "gated", "stream": True, "messages": [{"role": "user", "content": "GATE"}]}),
    ],
)
@pytest.mark.parametrize("buffering", ["off", "on"])
def test_a_stream_arrives_piece_by_piece(server: LiveServer, tmp_path: Path, path: str, body: Any, buffering: str):
    """Each piece is only sent when the one before has arrived; without the line too, as hayhooks asks for it."""
    changes = {"proxy_buffering off;": f"proxy_buffering {buffering};"}
    server.serve("gated", GATED)
    body = json.loads(json.dumps(body).replace("GATE", str(tmp_path / "gate")))
    with (
        proxied(server, tmp_path, **changes) as proxy,
        httpx.stream("POST", proxy.url + path, json=body, timeout=30) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "x-accel-buffering" not in response.headers  # it was for nginx
        text = ""
        for piece in response.iter_text():
            text += piece
            for number in range(3):
                if f"word{number}" in text:
                    (tmp_path / f"gate-{number}").touch()
        assert "word2" in text


def test_request_ids_pass_both_ways_and_stand_in_the_log(server: LiveServer, tmp_path: Path):
    with proxied(server, tmp_path) as proxy:
        mine = httpx.get(proxy.url + "/status", headers={"X-Request-Id": "mine-1"})
        new = httpx.get(proxy.url + "/status")

        assert mine.headers["x-request-id"] == "mine-1"
        assert len(new.headers["x-request-id"]) == 32
        eventually(lambda: new.headers["x-request-id"] in proxy.access_log())
        assert " mine-1\n" in proxy.access_log()


def test_an_upload_passes_to_the_limit_and_beyond_it_gets_a_413(server: LiveServer, tmp_path: Path):
    server.serve("upload", UPLOAD)
    with proxied(server, tmp_path) as proxy:
        sent = httpx.post(proxy.url + "/upload/run", files={"files": b"x" * 20 * MIB}, timeout=60)
        assert sent.json() == {"result": 20 * MIB}

        assert _announce(proxy, 1024 * MIB).startswith("HTTP/1.1 100 Continue")
        assert _announce(proxy, 1024 * MIB + 1).startswith("HTTP/1.1 413 ")
    assert Settings.model_fields["max_upload_size"].default == 1024 * MIB


def _announce(proxy: Nginx, size: int) -> str:
    """What a client hears that asks whether it may send *size* bytes."""
    head = f"POST /upload/run HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n\r\n"
    with connected(proxy.port) as connection:
        connection.sendall(head.encode())
        return connection.recv(100).decode()


def test_no_request_is_lost_to_deploys(server: LiveServer, tmp_path: Path):
    server.serve("echo", answer="0")
    with proxied(server, tmp_path) as proxy, asking(proxy, "/echo/run") as answers:
        for version in "12345":
            server.serve("echo", answer=version)
            _some_more(answers)
            assert answers[-1].json() == {"result": version}
    assert {answer.status_code for answer in answers} == {200}


def test_the_server_knows_client_scheme_and_host(root: Path, tmp_path: Path):
    app = create_app(Settings(pipelines_dir=root, _env_file=None))

    @app.get("/where")
    def where(request: Request) -> dict[str, Any]:
        return {"client": request.client and request.client.host, "url": str(request.url)}

    authority = trustme.CA()
    certificate = authority.issue_cert("hayhooks.example.com", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    port = free_port()
    changes = {
        "# listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "# ssl_certificate /etc/ssl/hayhooks.pem": f"ssl_certificate {tmp_path / 'chain.pem'}",
        "# ssl_certificate_key /etc/ssl/private/hayhooks.key": f"ssl_certificate_key {tmp_path / 'key.pem'}",
    }
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with serving(root, app) as server, proxied(server, tmp_path, **changes):
        headers = {"Host": "hayhooks.example.com", "X-Forwarded-For": "192.0.2.1"}  # which is a lie
        with httpx.Client(transport=httpx.HTTPTransport(verify=context, local_address="127.0.0.2")) as client:
            told = client.get(f"https://127.0.0.1:{port}/where", headers=headers).json()

    assert told == {"client": "127.0.0.2", "url": "https://hayhooks.example.com/where"}


def test_below_a_path_of_the_proxy(tmp_path: Path):
    changes = {"location / {": "location /ai/ {", "proxy_pass http://hayhooks;": "proxy_pass http://hayhooks/;"}
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'hi '\n" + ECHO)
    with (
        started(tmp_path, "run", "--root-path", "/ai") as server,
        nginx(tmp_path, server.port, changes=changes) as proxy,
    ):
        answer = httpx.post(proxy.url + "/ai/echo/run", json={"text": "you"})
        models = httpx.get(proxy.url + "/ai/v1/models").json()["data"]

        assert answer.json() == {"result": "hi you"}
        assert [model["id"] for model in models] == ["echo"]
        assert httpx.get(proxy.url + "/echo/run").status_code == 404


def test_two_servers_are_updated_one_after_the_other_and_nobody_notices(tmp_path: Path):
    """Each is stopped while it streams and both are asked; what it began it ends, and the other takes the rest."""
    pipelines, ports = tmp_path / "pipelines", (free_port(), free_port())
    replace(pipelines / "echo/pipeline_wrapper.py", "ANSWER = 'here'\n" + ECHO)
    replace(pipelines / "slow/pipeline_wrapper.py", f"LEFT = {str(tmp_path / 'left')!r}\n" + SLOW_STREAM)
    with ExitStack() as running:
        servers = [running.enter_context(started(tmp_path, "run", port=port)) for port in ports]
        with nginx(tmp_path, *ports) as proxy, asking(proxy, "/echo/run") as answers:
            for old in servers:
                gate = tmp_path / f"gate-{old.port}"
                with httpx.stream("POST", old.url + "/slow/run", json={"gate": str(gate)}, timeout=30) as stream:
                    pieces = stream.iter_text()
                    assert next(pieces) == "began "
                    old.process.terminate()
                    _some_more(answers)
                    gate.touch()
                    assert "".join(pieces) == "ended"
                assert old.process.wait(timeout=30) == 0
                _some_more(answers)
                running.enter_context(started(tmp_path, "run", port=old.port))
                _some_more(answers)
    assert {answer.status_code for answer in answers} == {200}


def _some_more(answers: list[httpx.Response]) -> None:
    enough = len(answers) + 50
    eventually(lambda: len(answers) >= enough, "more answers")


@contextmanager
def asking(proxy: Nginx, path: str) -> Iterator[list[httpx.Response]]:
    """Ask from several threads until the block ends; the answers come into the list."""
    answers: list[httpx.Response] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=proxy.url, timeout=30) as client:
            while not stop.is_set():
                try:
                    answers.append(client.post(path, json={}))
                except httpx.HTTPError as error:
                    answers.append(httpx.Response(599, text=repr(error)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: answers)
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=30)
