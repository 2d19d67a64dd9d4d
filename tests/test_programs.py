"""Programs that embed the original hayhooks, which is a FastAPI application: their routes, routers and documents."""

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from hayhooks import Settings, create_app, run_app
from hayhooks.app import Hayhooks
from tests.cli.processes import environment
from tests.live_server import ECHO, eventually, replace, serving
from tests.network import free_port

fastapi = pytest.importorskip("fastapi")  # of the dependency group "dev"


@pytest.fixture
def app(root: Path) -> Hayhooks:
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    return create_app(Settings(pipelines_dir=root, _env_file=None))


def test_typed_parameters_are_filled_by_fastapi(app: Hayhooks, root: Path):
    @app.get("/check/{user_id}")
    async def check(user_id: str, limit: int = 10):
        return {"user_id": user_id, "limit": limit}

    @app.post("/check", status_code=201)
    def add(names: list[str], request: Request):
        return [*names, request.url.path, request.app is app]

    @app.get("/unannotated/{name}")
    def unannotated(name):
        return name

    with serving(root, app) as server:
        assert server.client.get("/check/me?limit=3").json() == {"user_id": "me", "limit": 3}
        wrong = server.client.get("/check/me?limit=many")
        assert (wrong.status_code, wrong.json()["detail"][0]["loc"]) == (422, ["query", "limit"])
        added = server.client.post("/check", json=["a"])
        assert (added.status_code, added.json()) == (201, ["a", "/check", True])
        assert server.client.get("/unannotated/x").json() == "x"
        assert server.client.put("/check", json=[]).status_code == 405
        assert server.client.get("/check/me/more").status_code == 404
        assert server.run("echo", text="x") == "echo x"


@pytest.mark.parametrize("annotation", ["Request", '"Request"', "fastapi.Request"])
def test_a_request_alone_is_given_as_before(app: Hayhooks, root: Path, annotation: str):
    namespace: dict[str, Any] = {"Request": Request, "fastapi": fastapi}
    exec(f"async def mine(anything: {annotation}):\n    return anything.path_params", namespace)
    app.get("/mine/{name}")(namespace["mine"])

    with serving(root, app) as server:
        assert server.client.get("/mine/x").json() == {"name": "x"}


def test_what_a_request_alone_fills_needs_no_fastapi(app: Hayhooks, root: Path):
    def logged(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return call

    @app.get("/defaults")
    def defaults(request, flag=True):
        return [request.url.path, flag]

    namespace: dict[str, Any] = {}
    exec("from __future__ import annotations\ndef unknown(request: types.Request): return request.url.path", namespace)
    app.get("/variadic")(logged(lambda request: request.url.path))
    app.get("/unknown")(namespace["unknown"])

    with serving(root, app) as server:
        assert server.client.get("/defaults").json() == ["/defaults", True]
        assert server.client.get("/variadic").json() == "/variadic"
        assert server.client.get("/unknown").json() == "/unknown"


def test_errors_of_fastapis_routes_are_answered_as_all_others(app: Hayhooks, root: Path):
    class MineError(Exception):
        pass

    @app.exception_handler(MineError)
    async def on_mine(request: Request, error: Exception):
        return JSONResponse({"mine": str(error)}, status_code=418)

    @app.get("/raise/{what}")
    def raise_(what: str):
        raise {"http": fastapi.HTTPException(403, "no"), "mine": MineError("own")}.get(what) or ValueError(what)

    with serving(root, app) as server:
        assert server.client.get("/raise/http").json() == {"detail": "no"}
        own = server.client.get("/raise/mine")
        assert (own.status_code, own.json()) == (418, {"mine": "own"})
        broken = server.client.get("/raise/other", headers={"Origin": "http://a"})
        assert broken.status_code == 500
        assert broken.json() == {"detail": "Internal server error", "request_id": broken.headers["X-Request-Id"]}
        assert broken.headers["access-control-allow-origin"] == "*"


def test_an_own_handler_answers_what_fastapi_finds_invalid(app: Hayhooks, root: Path):
    @app.get("/number")
    def number(n: int):
        return n

    @app.exception_handler(fastapi.exceptions.RequestValidationError)
    async def on_invalid(request: Request, error: Exception):
        return PlainTextResponse("not a number", status_code=400)

    with serving(root, app) as server:
        assert server.client.get("/number?n=x").text == "not a number"
        assert server.client.get("/number?n=1").json() == 1


def test_routes_keep_their_order(app: Hayhooks, root: Path):
    @app.get("/items/first")
    def first():
        return "by Starlette"

    @app.get("/items/{item}")
    def typed(item: str):
        return f"by FastAPI: {item}"

    @app.get("/items/last")
    def last():
        return "never"

    with serving(root, app) as server:
        assert server.client.get("/items/first").json() == "by Starlette"
        assert server.client.get("/items/last").json() == "by FastAPI: last"


def test_a_router_of_fastapi_is_included_with_its_dependencies_and_lifespan(app: Hayhooks, root: Path):
    states = []

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        states.append("begun")
        yield
        states.append("ended")

    def user(request: Request):
        if "key" not in request.headers:
            raise fastapi.HTTPException(401, "who are you?")
        return request.headers["key"]

    router = fastapi.APIRouter(lifespan=lifespan)

    @router.get("/me")  # type: ignore[untyped-decorator]
    def me(name: str = fastapi.Depends(user)):
        return {"name": name}

    @router.websocket("/talk")  # type: ignore[untyped-decorator]
    async def talk(websocket: WebSocket):
        await websocket.accept()
        await websocket.close()

    app.include_router(router, prefix="/users", tags=["users"])
    app.include_router(router)

    with serving(root, app) as server:
        assert states == ["begun", "begun"]
        assert server.client.get("/users/me", headers={"key": "I"}).json() == {"name": "I"}
        assert server.client.get("/me", headers={"key": "I"}).json() == {"name": "I"}
        assert server.client.get("/users/me").json() == {"detail": "who are you?"}
        assert server.client.get("/users/nothing").status_code == 404
        assert server.run("echo", text="x") == "echo x"
    assert states == ["begun", "begun", "ended", "ended"]
    with TestClient(app) as client, client.websocket_connect("/talk") as websocket:
        assert websocket.receive() == {"type": "websocket.close", "code": 1000, "reason": ""}


def test_a_router_of_starlette_is_included_below_a_prefix(app: Hayhooks, root: Path):
    async def name(request: Request):
        return JSONResponse([request.url.path, request.path_params])

    async def talk(websocket: Any):
        await websocket.accept()

    routes = [
        Route("/one/{number:int}", name),
        Mount("/more", routes=[Route("/two/{word}", name)]),
        WebSocketRoute("/talk", talk),
    ]
    app.include_router(Router(routes), prefix="/echo")
    app.include_router(Router([Route("/bare", name)]))

    with serving(root, app) as server:
        assert server.client.get("/echo/one/1").json() == ["/echo/one/1", {"number": 1}]
        assert server.client.get("/echo/more/two/x").json() == ["/echo/more/two/x", {"word": "x"}]
        assert server.client.get("/bare").json() == ["/bare", {}]
        assert server.client.get("/one/1").status_code == 404
        assert (
            server.run("echo", text="the pipeline below the same prefix") == "echo the pipeline below the same prefix"
        )

    with pytest.raises(TypeError, match="include_router: tags: only for routers of FastAPI"):
        app.include_router(Router(routes), tags=["x"])
    with pytest.raises(ValueError, match="prefix 'x' must begin with '/'"):
        app.include_router(Router(routes), prefix="x")


def test_known_options_of_a_route_have_their_effect(app: Hayhooks, root: Path):
    @app.get("/page", response_class=HTMLResponse, status_code=203, tags=["pages"], summary="A page")
    def page():
        return "<p>hello"

    @app.api_route("/both", methods=["GET", "POST"], name="both", include_in_schema=False)
    def both(request):
        return {"url": str(request.url_for("both"))}

    @app.get("/model", response_model=dict[str, int])
    def model():
        return {"n": "1"}

    with serving(root, app) as server:
        answer = server.client.get("/page")
        assert (answer.status_code, answer.text) == (203, "<p>hello")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert server.client.post("/both").json()["url"].endswith("/both")
        assert server.client.get("/model").json() == {"n": 1}


def test_without_fastapi_a_typed_handler_is_refused_when_it_is_added(tmp_path: Path):
    code = """
        import importlib.util, sys
        find_spec = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *args: None if name == "fastapi" else find_spec(name, *args)
        from hayhooks import create_app
        app = create_app()

        async def check(user_id: str): ...
        def plain(request): ...

        for add in (lambda: app.get("/check/{user_id}")(check), lambda: app.get("/x", dependencies=[])(plain)):
            try:
                add()
            except TypeError as error:
                print(error)
        app.get("/fine", tags=["x"])(plain)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "/check/{user_id}: check(user_id: str) has parameters that FastAPI would fill, and it is not installed: "
        "pip install fastapi, or take one parameter, request, and read request.path_params, request.query_params "
        "or await request.json()",
        "/x: the options dependencies are FastAPI's, and it is not installed: pip install fastapi, or leave them out",
    ]


def test_the_openapi_document_may_be_replaced(app: Hayhooks, root: Path):
    original = app.openapi
    assert "/status" in original()["paths"]

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = original()
            schema["info"]["title"] = "mine"
            key = {"type": "apiKey", "in": "header", "name": "X-Key"}
            schema["components"].setdefault("securitySchemes", {})["ApiKey"] = key
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    with serving(root, app) as server:
        eventually(lambda: server.status()["pipelines"] == ["echo"])
        document = server.client.get("/openapi.json").json()
        assert document["info"]["title"] == "mine"
        assert "ApiKey" in document["components"]["securitySchemes"]
        assert "/echo/run" in document["paths"]
        assert "title: mine" in server.client.get("/openapi.yaml").text
        server.serve("more")
        assert "/more/run" in server.client.get("/openapi.json").json()["paths"]


def test_run_app_takes_an_application_and_an_address(tmp_path: Path, root: Path):
    port = free_port()
    code = f"from hayhooks import create_app, run_app; run_app(create_app(), host='127.0.0.1', port={port})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment(PORT="1")) as process:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: httpx.get(url + "/readyz").status_code == 200, "the server to be ready", 30)
        process.terminate()
    assert process.returncode == 0


def test_run_app_refuses_other_applications(app: Hayhooks):
    with pytest.raises(TypeError, match=r"FastAPI is not an application of create_app: serve it with uvicorn.run"):
        run_app(fastapi.FastAPI(), port=1)
    with pytest.raises(TypeError, match="give them to create_app"):
        run_app(app, threads=2)
