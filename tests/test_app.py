import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.testclient import TestClient

from hayhooks import Settings, create_app
from tests.cli.processes import environment
from tests.live_server import ECHO, LiveServer, eventually, replace, serving
from tests.network import free_port


@pytest.fixture
def app(root: Path):
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    return create_app(Settings(pipelines_dir=root))


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
def test_routes_are_added_by_decorators_and_a_dict_becomes_json(app, method: str):
    @getattr(app, method)("/mine/{name}")
    def mine(request):
        return {"name": request.path_params["name"]}

    @getattr(app, method)("/plain")
    async def plain():
        return PlainTextResponse("as it is")

    with TestClient(app) as client:
        assert client.request(method, "/mine/x").json() == {"name": "x"}
        assert client.request(method, "/plain").text == "as it is"


def test_own_routes_win_over_pipelines(app):
    @app.post("/echo/run")
    def mine():
        return "mine"

    with TestClient(app) as client:
        assert client.post("/echo/run", json={}).json() == "mine"
        assert client.post("/echo/chat", json={"messages": [{"role": "user"}]}).status_code == 200


def test_middleware_sees_every_request_and_its_errors_are_responses(app):
    @app.middleware("http")
    async def mine(request, call_next):
        if request.url.path == "/broken":
            raise ValueError("mine")
        response = await call_next(request)
        response.headers["X-Mine"] = "yes"
        return response

    with TestClient(app) as client:
        response = client.post("/echo/run", json={"text": "x"})
        assert (response.json(), response.headers["X-Mine"]) == ({"result": "echo x"}, "yes")
        broken = client.get("/broken", headers={"Origin": "http://a"})
        assert broken.status_code == 500
        assert broken.headers["access-control-allow-origin"] == "*"
        assert broken.json()["request_id"] == broken.headers["X-Request-Id"]
        assert "mine" not in broken.text

    with pytest.raises(ValueError, match="only 'http' exists"):
        app.middleware("websocket")


def test_mounted_it_serves_with_its_lifespan_run(app):
    @asynccontextmanager
    async def lifespan(_: Starlette):
        async with app.router.lifespan_context(app):
            yield

    with TestClient(Starlette(routes=[Mount("/ai", app)], lifespan=lifespan)) as client:
        assert client.post("/ai/echo/run", json={"text": "x"}).json() == {"result": "echo x"}
        assert client.get("/ai/status").json()["pipelines"] == ["echo"]
        assert client.get("/ai/v1/models").json()["data"][0]["id"] == "echo"


def test_mounted_without_its_lifespan_it_says_so(app):
    with TestClient(Starlette(routes=[Mount("/ai", app)])) as client:
        for path in ("/ai/echo/run", "/ai/v1/chat/completions"):
            response = client.post(path, json={"model": "echo", "messages": [{"role": "user"}]})
            assert response.status_code == 503
            assert "lifespan" in response.json()["detail"]


def test_below_a_root_path_it_answers(root: Path):
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    app = create_app(Settings(pipelines_dir=root))
    with TestClient(app, root_path="/proxy") as client:
        assert client.post("/proxy/echo/run", json={"text": "x"}).json() == {"result": "echo x"}
        assert client.get("/proxy/status/echo").status_code == 200


def test_every_answer_has_a_request_id_the_clients_if_it_sends_one(server: LiveServer):
    for path, status in (("/status", 200), ("/nothing", 404), ("/v1/chat/completions", 405)):
        response = server.client.get(path)
        assert (response.status_code, len(response.headers["X-Request-Id"])) == (status, 24)
    assert server.client.get("/status", headers={"X-Request-Id": "mine"}).headers["X-Request-Id"] == "mine"


def test_browsers_may_read_errors_too(server: LiveServer):
    for path in ("/nothing/run", "/v1/models/nothing"):
        response = server.client.get(path, headers={"Origin": "http://a"})
        assert response.status_code == 404
        assert response.headers["access-control-allow-origin"] == "*"
    preflight = server.client.options(
        "/v1/chat/completions", headers={"Origin": "http://a", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 200


def test_cors_follows_the_settings(root: Path):
    with serving(root, cors_allow_origins=["http://a"]) as server:
        allowed = server.client.get("/status", headers={"Origin": "http://a"})
        refused = server.client.get("/status", headers={"Origin": "http://b"})

    assert allowed.headers["access-control-allow-origin"] == "http://a"
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    "target", [["hayhooks:create_app", "--factory"], ["hayhooks.app:create_app", "--factory"], ["mine:app"]]
)
def test_uvicorn_serves_a_factory_and_a_module(tmp_path: Path, target: list[str]):
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    replace(tmp_path / "mine.py", "from hayhooks import create_app\napp = create_app()\n")
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", *target, "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(LOG="ERROR")) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: httpx.get(url + "/healthz").status_code == 200, "uvicorn to start", 30)
            assert httpx.post(url + "/echo/run", json={"text": "x"}, timeout=30).json() == {"result": "echo x"}
        finally:
            process.terminate()


def test_run_app_serves_until_it_is_stopped(tmp_path: Path):
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    port = free_port()
    code = f"from hayhooks import run_app; run_app(port={port}); print('stopped')"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: httpx.get(url + "/readyz").status_code == 200, "the server to be ready", 30)
        process.terminate()
        assert process.communicate(timeout=30)[0] == "stopped\n"
    assert process.returncode == 0


HOSTILE = [
    "os.chdir('/')",
    "sys.stdout = sys.stderr = None",
    "warnings.simplefilter('error')",
    "logging.disable(logging.CRITICAL)",
]


@pytest.mark.parametrize("hostile", [HOSTILE, ["sys.stdout.close(); sys.stderr.close()"]], ids=["open", "closed"])
def test_a_wrapper_that_misbehaves_takes_nothing_down(tmp_path: Path, hostile: list[str]):
    port = free_port()
    (tmp_path / "pipelines").mkdir()
    code = f"from hayhooks import run_app; run_app(port={port})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"

        def serves(name: str, answer: str, statement: str) -> None:
            source = ECHO.replace("        pass", f"        {statement}")
            imports = "import logging, os, sys, warnings"
            replace(tmp_path / f"pipelines/{name}/pipeline_wrapper.py", f"{imports}\nANSWER = {answer!r}\n{source}")
            expected = {"result": f"{answer}x"}
            eventually(
                lambda: httpx.post(f"{url}/{name}/run", json={"text": "x"}).json() == expected, f"{name} to serve"
            )

        try:
            eventually(lambda: httpx.get(url + "/readyz").status_code == 200, "the server to be ready", 30)
            for number, statement in enumerate(hostile):
                serves("hostile", f"hostile {number} ", statement)
                serves("echo", f"new {number} ", "pass")
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize("key", [418, HTTPException])
@pytest.mark.parametrize("is_wrapped", [False, True], ids=["plain", "with middleware"])
def test_own_handlers_of_errors_are_asked_by_status_and_by_class(root: Path, key: Any, is_wrapped: bool):
    app = create_app(Settings(pipelines_dir=root))

    @app.get("/tea")
    def tea():
        raise HTTPException(418, "short and stout")

    async def pour(request: Request, error: Exception) -> Response:
        return Response(f"poured: {error}", status_code=200)

    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_exception_handler(key, pour)
    if is_wrapped:
        app.middleware("http")(pass_on)
    with TestClient(app) as client:
        assert client.get("/tea").text == "poured: 418: short and stout"
