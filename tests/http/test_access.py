"""Who may ask: API keys, allowed hosts; and how large a question may be."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import requests
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from hayhooks import Settings, create_app
from hayhooks.errors import StartError
from hayhooks.setting_fields import problems
from hayhooks.setting_types import ApiKey, read_keys
from tests.live_server import ECHO, LiveServer, eventually, replace, serving

KEY = "a-Key_of.letters~and/signs+=="
HEADER = {"Authorization": f"Bearer {KEY}"}
UPLOAD = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self, files: list = None) -> list:
        return [[file.filename, file.size] for file in files or []]

    def run_file_upload(self, filename):
        return {"filename": filename}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that wants one of two keys, with small limits, and everything deployed."""
    root = tmp_path_factory.mktemp("pipelines")
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    replace(root / "upload/pipeline_wrapper.py", UPLOAD)
    limits: dict[str, Any] = {"max_body_size": 1000, "max_upload_size": 5000, "max_upload_files": 3}
    with serving(root, api_keys=["another-key", KEY], **limits) as server:
        eventually(lambda: server.client.get("/readyz").status_code == 200)
        yield server


def status_of(server: LiveServer, authorization: bytes) -> int:
    """The status of an answer to a header that clients would not send."""
    with server.connected() as connection:
        connection.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\nAuthorization: " + authorization + b"\r\n\r\n")
        return int(connection.recv(1000).split()[1])


def routes_of(server: LiveServer) -> Iterator[tuple[str, str]]:
    """Every method and path that is routed, with something in the place of its parameters."""
    router: Any = server.app.switch.live.router
    for route in (route for route in router.routes if isinstance(route, Route)):
        path = route.path.replace("{name}", "echo").replace("{file_id}", "x")
        yield from ((method, path) for method in route.methods or {"GET"})
    for deployment in server.app.switch.live.snapshot.deployments.values():
        for route in deployment.endpoints.router.routes:
            path = f"/{deployment.name}{route.path.replace('{file_id}', 'x')}"
            yield from ((method, path) for method in route.methods or {"GET"})


# Keys


def test_without_a_key_every_route_but_the_probes_and_the_pages_is_refused(server: LiveServer):
    routes = set(routes_of(server))
    routes |= {("GET", path) for path in ("/", "/nothing", "/echo", "/docs", "/healthz/", "/healthz/x", "//healthz")}
    routes |= {("POST", "/healthz"), ("OPTIONS", "/status"), ("POST", "/echo/healthz")}
    open_to_all = set()
    for method, path in routes:
        response = httpx.request(method, server.url + path, content=b"{}" if method == "POST" else None)
        if path in ("/docs/{file}", "/redoc/{file}", "/console/static/{file}") and method in ("GET", "HEAD"):
            assert response.status_code == 404
        elif response.status_code == 200:
            open_to_all.add((method, path))
        else:
            assert response.status_code == 401, (method, path)
            assert response.headers["WWW-Authenticate"] == "Bearer"
            code = -32600 if path == "/mcp" else "invalid_api_key"  # JSON-RPC has numbers
            assert method == "HEAD" or response.json()["error"]["code"] == code

    assert len(routes) > 20
    unguarded = ("/", "/healthz", "/readyz", "/docs", "/redoc")
    assert open_to_all == {(method, path) for method in ("GET", "HEAD") for path in unguarded}


def test_without_a_key_no_route_of_the_application_is_reached_at_the_address_of_a_page(root: Path):
    app = create_app(Settings(pipelines_dir=root, api_keys=[KEY], _env_file=None))
    called = []

    @app.get("/docs")
    async def docs(request: Request) -> PlainTextResponse:
        called.append(request)
        return PlainTextResponse("mine")

    with serving(root, app) as server:
        assert "swagger" in httpx.get(server.url + "/docs").text
        assert not called
        assert httpx.get(server.url + "/docs", headers={"Authorization": f"Bearer {KEY}"}).text == "mine"


def test_the_refusal_is_what_openais_clients_read_everywhere(server: LiveServer):
    message = "API key missing: send the header 'Authorization: Bearer KEY'"
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    for path in ("/status", "/echo/run", "/v1/models"):
        assert server.client.get(path).json() == {"error": error, "detail": message}


def test_openais_client_is_let_in_by_either_key_and_told_otherwise(server: LiveServer):
    for key in ("another-key", KEY):
        with openai.OpenAI(base_url=server.url + "/v1", api_key=key) as client:
            answer = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "x"}])
        assert answer.choices[0].message.content == "echo "

    with (
        openai.OpenAI(base_url=server.url + "/v1", api_key="wrong-key", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="not valid") as raised,
    ):
        client.models.list()
    assert raised.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    "value", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER {KEY}", f"Bearer   {KEY}", f"  Bearer {KEY}  "]
)
def test_the_scheme_may_be_written_in_any_case_with_any_spaces(server: LiveServer, value: str):
    assert status_of(server, value.encode()) == 200


ODD = [
    "",
    "Bearer",
    "Bearer ",
    KEY,
    f"Basic {KEY}",
    f"Bearer{KEY}",
    f"Bearer\t{KEY}",
    f"Bearer {KEY} {KEY}",
    f"Bearer {KEY},",
    f"Bearer {KEY}, Bearer {KEY}",
    f'Bearer "{KEY}"',
    f"Bearer {KEY[:-1]}",
    f"Bearer {KEY}=",
    f"Bearer {KEY.upper()}",
    "Bearer another-key, " + KEY,
    "Bearer ünïcödé",
    "Bearer \xff\xfe",
    "Bearer " + KEY * 1000,
    "Bearer " + "x" * 60_000,
]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_anything_else_is_refused(server: LiveServer, value: str):
    assert status_of(server, value.encode("latin-1")) == 401


def test_two_headers_are_refused_though_one_of_them_would_do(server: LiveServer):
    headers = [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")]

    assert server.client.get("/status", headers=headers).status_code == 401


@examples(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=100).filter(lambda value: not set(value) & set(b"\r\n\0")))
def test_no_header_that_is_made_up_lets_in_or_breaks_anything(server: LiveServer, value: bytes):
    assert status_of(server, b"Bearer " + value) in (400, 401)  # 400: it is no HTTP at all


def test_a_key_in_another_place_is_none(server: LiveServer):
    for path in (f"/status?api_key={KEY}", f"/status?Authorization=Bearer%20{KEY}"):
        assert server.client.get(path, headers={"X-Api-Key": KEY, "Cookie": f"key={KEY}"}).status_code == 401


def test_browsers_may_read_the_refusal_and_ask_before_without_a_key(server: LiveServer):
    refused = server.client.get("/status", headers={"Origin": "http://a"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
    assert len(refused.headers["X-Request-Id"]) == 24

    asking = {"Origin": "http://a", "Access-Control-Request-Method": "POST"}
    asking["Access-Control-Request-Headers"] = "authorization"
    preflight = server.client.options("/v1/chat/completions", headers=asking)
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"]


def test_below_a_root_path_and_mounted_the_probes_alone_are_open(root: Path):
    with TestClient(create_app(Settings(pipelines_dir=root, api_keys=[KEY])), root_path="/proxy") as client:
        assert [client.get(f"/proxy{path}").status_code for path in ("/healthz", "/status")] == [200, 401]
        assert client.get("/proxy/status", headers=HEADER).status_code == 200

    app = create_app(Settings(pipelines_dir=root, api_keys=[KEY]))

    @asynccontextmanager
    async def lifespan(_: Starlette):
        async with app.router.lifespan_context(app):
            yield

    with TestClient(Starlette(routes=[Mount("/ai", app)], lifespan=lifespan)) as client:
        assert [client.get(path).status_code for path in ("/ai/healthz", "/ai/status")] == [200, 401]
        assert client.get("/ai/status", headers=HEADER).status_code == 200


def test_own_routes_middleware_and_websockets_are_behind_the_keys(root: Path):
    app = create_app(Settings(pipelines_dir=root, api_keys=[KEY]))
    seen = []

    @app.middleware("http")
    async def mine(request, call_next):
        seen.append(request.url.path)
        return await call_next(request)

    @app.get("/mine")
    def secret():
        return "secret"

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("secret")
        await websocket.close()

    app.router.routes.append(WebSocketRoute("/socket", socket))
    with serving(root, app) as server:
        assert server.client.get("/mine").status_code == 401
        assert seen == []
        assert server.client.get("/mine", headers=HEADER).json() == "secret"
        url = server.url.replace("http", "ws") + "/socket"
        with pytest.raises(InvalidStatus) as raised, connect(url):
            raise AssertionError("it was let in")
        assert raised.value.response.status_code == 401
        with connect(url, additional_headers=HEADER) as connection:
            assert connection.recv() == "secret"


def test_a_server_that_cannot_answer_a_websocket_with_a_status_closes_it(root: Path):
    app = create_app(Settings(pipelines_dir=root, api_keys=[KEY]))
    sent: list[Any] = []

    async def nothing() -> Any:
        raise AssertionError("nothing is to be received")

    async def send(message: Any) -> None:
        sent.append(message)

    with TestClient(app) as client:
        assert client.portal is not None
        scope = {"type": "websocket", "path": "/socket", "headers": [], "app": app, "root_path": ""}
        client.portal.call(app, scope, nothing, send)
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket", headers=HEADER):
            raise AssertionError("there is none")
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_keys_are_shown_nowhere(root: Path, logged: list[str]):
    """Keys stand in no log no status no repr no traceback and no process title."""
    settings = Settings(pipelines_dir=root, api_keys=[KEY], ssl_keyfile_password="a-password", show_tracebacks=True)
    replace(root / "broken/pipeline_wrapper.py", ECHO.replace("return ANSWER + text", "raise ValueError(text)"))
    with serving(root, create_app(settings)) as server:
        server.client.headers.update(HEADER)
        server.eventually(lambda: server.status()["pipelines"])
        told = [server.client.post("/broken/run", json={"text": "x"}).text, server.client.get("/status").text]
        told.append(server.client.get("/status", headers={"Authorization": f"Bearer {KEY}x"}).text)

    assert "Traceback" in told[0]
    everything = "".join([*told, *logged, repr(settings), str(settings), repr(vars(server.app.keys)["_keys"])])
    assert KEY not in everything
    assert "a-password" not in everything


# The file with keys


def test_keys_file_is_followed(root: Path, tmp_path: Path, logged: list[str]):
    """A file of keys is followed and what is wrong with it changes nothing."""
    file = tmp_path / "keys"
    file.write_text("# ours\n\nfirst-key\n")

    def valid(server: LiveServer) -> list[str]:
        known = ("first-key", "second-key", "third-key", KEY)
        answers = {key: server.client.get("/status", headers={"Authorization": f"Bearer {key}"}) for key in known}
        return [key for key, answer in answers.items() if answer.status_code == 200]

    def complaints() -> int:
        return sum("stay valid" in line for line in logged)

    with serving(root, api_keys=[KEY], api_keys_file=file) as server:
        assert valid(server) == ["first-key", KEY]
        replace(file, "second-key\r\n  third-key  \r\n")
        eventually(lambda: valid(server) == ["second-key", "third-key", KEY])

        file.unlink()
        eventually(lambda: complaints() == 1)
        replace(file, "# nothing\n")
        eventually(lambda: complaints() == 2)
        replace(file, "two words\n")
        eventually(lambda: complaints() == 3)
        assert valid(server) == ["second-key", "third-key", KEY]

        replace(file, "first-key\n")
        eventually(lambda: valid(server) == ["first-key", KEY])
    assert complaints() == 3
    assert not any("-key" in line or "two words" in line for line in logged)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        ("", "no key"),
        ("# x\n\n", "no key"),
        ("a b\n", "visible ASCII"),
        ("kéy\n", "visible ASCII"),
    ],
)
def test_a_server_does_not_start_without_the_keys_that_it_was_told_of(
    root: Path, tmp_path: Path, content: str | None, reason: str
):
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)

    with pytest.raises(StartError, match=reason) as raised:
        create_app(Settings(pipelines_dir=root, api_keys_file=file))
    assert str(file) in str(raised.value)


def test_a_file_of_keys_is_found_where_the_server_was_started(root: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("keys").write_text("first-key\n")
    app = create_app(Settings(pipelines_dir=root, api_keys_file=Path("keys")))
    monkeypatch.chdir(root)
    with serving(root, app) as server:
        replace(tmp_path / "keys", "second-key\n")
        eventually(lambda: server.client.get("/status", headers={"Authorization": "Bearer second-key"}).is_success)


def test_a_file_of_keys_may_begin_with_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbffirst-key\r\n")

    assert read_keys(tmp_path / "keys") == [ApiKey("first-key")]


@pytest.mark.parametrize("value", ["", "  ", ",", '[""]', "a b", "kéy", "[1]", '["a\\n"]', "[secret-key"])
def test_keys_that_cannot_be_meant_so_stop_the_start_and_are_not_repeated(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("HAYHOOKS_API_KEYS", value)
    with pytest.raises(ValueError, match="api_keys") as raised:
        Settings(_env_file=None)

    (problem,) = problems(Settings, raised.value)  # type: ignore[arg-type]
    assert problem.startswith(f"HAYHOOKS_API_KEYS={'***' if value else ''!r}: must be a list")
    assert "secret" not in problem + str(raised.value)


def test_an_empty_list_says_that_there_are_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HAYHOOKS_API_KEYS", "[]")

    assert Settings(_env_file=None).valid_keys() == []


# Hosts


def test_only_by_an_allowed_name_the_server_answers_but_to_the_probes(root: Path):
    with serving(root, allowed_hosts=["api.example.com", "*.internal", "[::1]"]) as server:

        def status(host: str, path: str = "/status") -> int:
            return server.client.get(path, headers={"Host": host}).status_code

        for host in ("api.example.com", "API.example.com:1416", "a.internal", "a.b.internal:80", "[::1]:1416"):
            assert status(host) == 200, host
        for host in (
            "example.com",
            "evil.com",
            "internal",
            "xinternal",
            "api.example.com.evil.com",
            "127.0.0.1",
            "a b",
            "a b.internal",
            "x@y.internal",
            "a.internal:80:90",
            "[::1",
            "",
        ):
            assert status(host) == 400, host
            assert status(host, "/healthz") == status(host, "/readyz") == 200
        refused = server.client.get("/v1/models", headers={"Host": "evil.com", "Origin": "http://a"})
        message = "Host 'evil.com' is not allowed (HAYHOOKS_ALLOWED_HOSTS)"
        assert refused.json()["error"]["message"] == message
        assert refused.headers["access-control-allow-origin"] == "*"
        assert server.client.get("/status", headers={"Host": "evil.com"}).json() == {"detail": message}


@pytest.mark.parametrize("hosts", ["", "a.*", "*a.com", "https://a.com", "a.com:80", "a b"])
def test_hosts_that_cannot_be_meant_so_stop_the_start(monkeypatch: pytest.MonkeyPatch, hosts: str):
    monkeypatch.setenv("HAYHOOKS_ALLOWED_HOSTS", hosts)
    with pytest.raises(ValueError, match="allowed_hosts") as raised:
        Settings(_env_file=None)

    assert problems(Settings, raised.value)[0].startswith("HAYHOOKS_ALLOWED_HOSTS=")  # type: ignore[arg-type]


# Bodies

TOO_LARGE = "The body is larger than the 1,000 bytes that are allowed (HAYHOOKS_MAX_BODY_SIZE)"


def post(server: LiveServer, path: str, **request: Any) -> httpx.Response:
    return httpx.post(server.url + path, headers=HEADER, timeout=30, **request)


@pytest.mark.parametrize("path", ["/echo/run", "/v1/chat/completions", "/echo/chat", "/v1/responses"])
@pytest.mark.parametrize("chunked", [False, True])
def test_body_over_the_limit_is_refused(server: LiveServer, path: str, chunked: bool):
    """A body over the limit is refused by name and the next request is answered."""
    body = b'{"text": "%s"}' % (b"x" * 989)
    answer = post(server, path, content=iter([body[:600], body[600:]]) if chunked else body)

    assert (answer.status_code, answer.json()["detail"]) == (413, TOO_LARGE)
    assert ("error" in answer.json()) is (path != "/echo/run")
    assert post(server, "/echo/run", json={"text": "x" * 900}).json() == {"result": "echo " + "x" * 900}


def test_a_form_may_be_larger_but_only_where_files_are_taken(server: LiveServer):
    file = {"files": ("a", b"x" * 4000)}
    assert post(server, "/upload/run", files=file).json() == {"result": [["a", 4000]]}
    for path in ("/v1/chat/completions", "/echo/run"):
        assert post(server, path, files=file).json()["detail"] == TOO_LARGE

    too_large = post(server, "/upload/run", files={"files": ("a", b"x" * 6000)})
    assert too_large.status_code == 413
    assert "5,000 bytes that are allowed (HAYHOOKS_MAX_UPLOAD_SIZE)" in too_large.json()["detail"]
    text = post(server, "/upload/run", data={"x": "x" * 2000})
    assert (text.status_code, text.json()["detail"]) == (413, TOO_LARGE)


def test_a_form_may_have_so_many_files_and_fields(server: LiveServer):
    too_many = post(server, "/upload/run", files=[("files", ("a", b"x"))] * 4)
    assert (too_many.status_code, too_many.json()["detail"]) == (
        413,
        "The form has more files than 3 (HAYHOOKS_MAX_UPLOAD_FILES)",
    )
    assert post(server, "/upload/run", files=[("files", ("a", b"x"))] * 3).status_code == 200


def test_countless_fields_and_levels_are_4xx(root: Path):
    """A form of countless fields and a json of countless levels are the clients errors."""
    replace(root / "upload/pipeline_wrapper.py", UPLOAD)
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    with serving(root) as server:
        eventually(lambda: len(server.status()["pipelines"]) == 2)
        fields = "&".join(f"f{number}=1" for number in range(100_000))
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        assert server.client.post("/upload/run", content=fields, headers=kind).status_code == 413
        parts = [(f"f{number}", (None, "1")) for number in range(2_000)]
        assert server.client.post("/upload/run", files=parts).status_code == 413
        long = server.client.post("/upload/run", files=[("field", (None, "x" * 2_000_000))])
        assert (long.status_code, long.json()["detail"]) == (413, "A field of the form is larger than 1,048,576 bytes")
        for bomb in (b"[" * 199_999, b'{"a":' * 99_999, b'{"text":' + b"[" * 99_999 + b"]" * 99_999 + b"}"):
            assert server.client.post("/echo/run", content=bomb).status_code == 422
            assert server.client.post("/v1/chat/completions", content=bomb).status_code == 400
        huge = b'{"model": "echo", "messages": %s}' % (b"9" * 1_000_000)
        assert server.client.post("/v1/chat/completions", content=huge).status_code == 400


@pytest.mark.parametrize("client", ["curl", "curl without expect", "httpx", "requests"])
@pytest.mark.parametrize("chunked", [False, True])
def test_clients_get_the_answer_to_what_is_far_too_large(
    server: LiveServer, tmp_path: Path, client: str, chunked: bool
):
    url, size = server.url + "/v1/chat/completions", 40_000_000
    pieces = iter([b"x" * 1_000_000] * 40)
    if client == "httpx":
        content: Any = pieces if chunked else b"x" * size
        answer = httpx.post(url, headers=HEADER, content=content, timeout=30).text
    elif client == "requests":
        answer = requests.post(url, headers=HEADER, data=pieces if chunked else b"x" * size, timeout=30).text
    else:
        (tmp_path / "body").write_bytes(b"x" * size)
        headers = [f"Authorization: Bearer {KEY}", *(["Transfer-Encoding: chunked"] if chunked else [])]
        headers += ["Expect:"] if "without" in client else []
        command = ["curl", "-s", *(part for header in headers for part in ("-H", header))]
        command += ["--data-binary", f"@{tmp_path / 'body'}", url]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert TOO_LARGE in answer


def test_who_waits_for_leave_to_send_sends_nothing_that_is_too_large(server: LiveServer, tmp_path: Path):
    (tmp_path / "body").write_bytes(b"x" * 5_000_000)
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %{size_upload}", "-H", "Expect: 100-continue"]
    command += [
        "-H",
        f"Authorization: Bearer {KEY}",
        "--data-binary",
        f"@{tmp_path / 'body'}",
        server.url + "/echo/run",
    ]

    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "413 0"


def test_no_limit_is_none(root: Path):
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    with serving(root, max_body_size=0) as server:
        eventually(lambda: server.status()["pipelines"])
        assert len(server.run("echo", text="x" * 5_000_000)) == 5_000_005


def test_middleware_that_reads_the_body_meets_the_limit_too(root: Path):
    app = create_app(Settings(pipelines_dir=root, max_body_size=1000))

    @app.middleware("http")
    async def mine(request, call_next):
        await request.body()
        return await call_next(request)

    with serving(root, app) as server:
        answer = server.client.post("/echo/run", content=b"x" * 1001)
        assert (answer.status_code, answer.json()) == (413, {"detail": TOO_LARGE})


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "a\\..\\b", "~/x", ".", "a/b", "x" * 300])
def test_the_name_of_a_file_is_text_and_nothing_else(server: LiveServer, tmp_path: Path, name: str):
    before = set(tmp_path.parent.rglob("*"))

    assert post(server, "/upload/run", files={"files": (name, b"x")}).json() == {"result": [[name, 1]]}
    purpose = {"purpose": "x", "model": "upload"}
    assert post(server, "/v1/files", files={"file": (name, b"x")}, data=purpose).json()["filename"] == name
    assert set(tmp_path.parent.rglob("*")) == before


def test_a_zero_byte_in_the_name_of_a_file_breaks_nothing(server: LiveServer):
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a\0b"\r\n\r\nx\r\n--b--\r\n'
    kind = {**HEADER, "Content-Type": "multipart/form-data; boundary=b"}

    answer = httpx.post(server.url + "/upload/run", content=head, headers=kind)

    assert answer.status_code in (200, 400)


# Errors


FAILING = """
from hayhooks import BasePipelineWrapper, SSEStream


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self, kind: str = ""):
        if kind:
            return self.breaks() if kind == "text" else SSEStream(self.breaks())
        raise ValueError("boom")

    def breaks(self):
        yield "began"
        raise ValueError("boom")

    def run_chat_completion(self, model, messages, body):
        raise ValueError("boom")

    def run_response(self, model, input_items, body):
        raise ValueError("boom")

    def run_file_list(self):
        raise ValueError("boom")
"""


def test_no_answer_shows_a_traceback_that_nobody_asked_for(root: Path):
    replace(root / "failing/pipeline_wrapper.py", FAILING)
    app = create_app(Settings(pipelines_dir=root, _env_file=None))

    @app.get("/mine")
    def mine():
        raise ValueError("boom")

    with serving(root, app) as server:
        eventually(lambda: server.status()["pipelines"])
        messages = [{"role": "user", "content": "x"}]
        chat = {"model": "failing", "messages": messages, "input": "x"}
        answers = [
            server.client.post("/failing/run", json={}),
            server.client.post("/failing/run", json={"kind": "sse"}),
            *(
                server.client.post(path, json=chat)
                for path in ("/v1/chat/completions", "/v1/responses", "/failing/chat")
            ),
            server.client.post("/v1/chat/completions", json={**chat, "stream": True}),
            server.client.get("/v1/files"),
            server.client.get("/mine"),
        ]

    # The second is a stream that has begun when its pipeline fails.
    assert [answer.status_code for answer in answers] == [500, 200, *[500] * 6]
    assert "began" in answers[1].text
    for answer in answers:
        for trace in ("Traceback", "pipeline_wrapper.py", "hayhooks/", ".py"):
            assert trace not in answer.text


def test_many_that_are_refused_do_not_keep_others_from_being_served(server: LiveServer):
    stop = threading.Event()
    statuses: list[int] = []

    def refused() -> None:
        while not stop.is_set():
            statuses.append(httpx.post(server.url + "/echo/run", content=b"x" * 100_000).status_code)

    threads = [threading.Thread(target=refused) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: statuses)
        for _ in range(20):
            began = time.monotonic()
            assert post(server, "/echo/run", json={"text": "x"}).json() == {"result": "echo x"}
            assert time.monotonic() - began < 30
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {401}
