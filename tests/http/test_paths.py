"""Paths as proxies and people write them: below a root path that is not stripped, with slashes too many."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from hayhooks import Settings, create_app
from hayhooks.observability.request_record import RequestRecord
from tests.live_server import LiveServer, serving

ROOT = "/ai"
KEY = "a-key"


@pytest.fixture(scope="module")
def below(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server below a root path, with routes of its application, and two deployments."""
    root = tmp_path_factory.mktemp("pipelines")
    app = create_app(Settings(pipelines_dir=root, root_path=ROOT, _env_file=None))
    app.add_route("/mine", lambda _: PlainTextResponse("mine"), methods=["GET", "POST"])
    app.router.routes.append(Mount("/sub", routes=[Route("/", lambda _: PlainTextResponse("sub"))]))
    with serving(root, app) as server:
        server.serve("echo", answer="here")
        yield server


@pytest.mark.parametrize("prefix", ["", ROOT])
@pytest.mark.parametrize(
    "path",
    [
        *("/v1/models", "/v1/models/", "//v1/models", "/v1//models", "//v1///models//", "/models/", "/status/"),
        *("/status/echo/", "/status//echo", "/healthz/", "//readyz", "/openapi.json/", "/echo/schema/", "/metrics/"),
        *("/docs", "/redoc", "//docs", "/docs//start.js", "/mine/", "//mine", "/sub/"),
    ],
)
def test_slashes_too_many_reach_the_same_endpoint(below: LiveServer, prefix: str, path: str):
    plain = "/" + "/".join(part for part in path.split("/") if part)
    expected = below.client.get(plain if plain != "/sub" else "/sub/").status_code
    assert expected == 200
    answer = below.client.get(below.url + prefix + path, follow_redirects=True)  # whole: httpx takes //x for a host
    assert answer.status_code == expected


@pytest.mark.parametrize("prefix", ["", ROOT])
@pytest.mark.parametrize("path", ["/echo/run", "/echo/run/", "//echo/run", "/echo//run", "//echo//run//"])
def test_requests_with_a_body_are_served_at_once(below: LiveServer, prefix: str, path: str):
    response = below.client.post(below.url + prefix + path, json={})
    assert response.json() == {"result": "here"}
    assert response.headers.get_list("X-Hayhooks-Revision", split_commas=True) == [
        below.state("echo")["revision"]
    ]  # the path is looked at twice, the deployment serves once


def test_a_page_is_where_its_links_lead(below: LiveServer):
    for path in ("/docs/", "/ai/docs/", "/docs//", "/redoc/"):
        redirect = below.client.get(path)
        assert redirect.status_code in (307, 308)
        page = below.client.get(path, follow_redirects=True)
        assert page.status_code == 200
        assert str(page.url).removeprefix(below.url) == path.rstrip("/")


def test_a_mounted_directory_without_its_slash_is_redirected_below_the_root_path(below: LiveServer):
    for path in ("/sub?x=1", "/ai/sub?x=1"):
        response = below.client.get(path)
        assert (response.status_code, response.headers["location"]) == (307, "/ai/sub/?x=1")
    assert below.client.get(below.url + "//evil.example/../nothing").status_code == 404


def test_errors_name_the_paths_that_clients_ask_for(below: LiveServer):
    assert "nothing is served at /ai/docs/none/x; /ai/status lists" in below.client.get("/docs/none/x").text
    assert "it has /ai/echo/run" in below.client.get("/echo/none").text


def test_the_servers_of_the_document_are_the_root_path(below: LiveServer):
    for path in ("/openapi.json", "/ai/openapi.json"):
        assert below.client.get(path).json()["servers"] == [{"url": ROOT}]


def test_the_openai_client_finds_its_api_below_a_root_path_that_is_not_stripped(below: LiveServer):
    for path in ("/v1/chat/completions", "/ai/v1/chat/completions", "/ai/v1/chat/completions/"):
        error = below.client.post(path, json={"model": "none", "messages": [{"role": "user", "content": "x"}]})
        assert (error.status_code, error.json()["error"]["code"]) == (404, "model_not_found")


def test_a_deployment_with_the_name_of_the_root_path_keeps_its_paths(root: Path):
    with serving(root, root_path=ROOT) as server:
        server.serve("ai", answer="of ai")
        server.serve("echo", answer="of echo")
        assert server.run("ai") == "of ai"
        assert httpx.post(server.url + "/ai/ai/run", json={}).json() == {"result": "of ai"}
        assert httpx.post(server.url + "/ai/echo/run", json={}).json() == {"result": "of echo"}
        assert httpx.get(server.url + "/ai/status").json()["status"] == "Up!"


@pytest.mark.parametrize("path", ["/healthz", "/ai/healthz", "/ai/readyz"])
def test_probes_need_no_key_where_the_root_path_is_not_stripped(root: Path, path: str):
    with serving(root, root_path=ROOT, api_keys=[KEY]) as server:
        server.eventually(lambda: server.client.get(path).status_code == 200)
        assert server.client.get("/ai/status").status_code == 401
        assert server.client.get("/ai//status/").status_code == 401
        assert server.client.get("/ai/healthz/").status_code == 401  # only the plain paths are open


PREFLIGHT = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}


@pytest.mark.parametrize("network", ["Private", "Local"])
def test_the_preflight_of_a_public_page_is_answered_by_a_setting(root: Path, network: str):
    headers = {**PREFLIGHT, f"Access-Control-Request-{network}-Network": "true"}
    with serving(root, cors_allow_private_network=True) as server:
        allowed = server.client.options("/echo/run", headers=headers)
        assert (allowed.status_code, allowed.headers[f"Access-Control-Allow-{network}-Network"]) == (200, "true")
        assert f"Access-Control-Allow-{network}-Network" not in server.client.options("/x", headers=PREFLIGHT).headers


def test_a_public_page_is_not_let_in_unless_the_setting_says_so(shared_server: LiveServer):
    for network in ("Private", "Local"):
        headers = {**PREFLIGHT, f"Access-Control-Request-{network}-Network": "true"}
        answer = shared_server.client.options("/echo/run", headers=headers)
        assert f"Access-Control-Allow-{network}-Network" not in answer.headers


@pytest.mark.parametrize("prefix", ["", ROOT])
def test_records_have_the_path_below_the_root_path(root: Path, prefix: str):
    records: list[RequestRecord] = []
    app = create_app(Settings(pipelines_dir=root, root_path=ROOT, _env_file=None), on_request=records.append)
    with serving(root, app) as server:
        for path in ("/status", "/nothing/run", "/"):
            server.client.get(prefix + path)
    assert [record.path for record in records] == ["/status", "/nothing/run", "/"]
