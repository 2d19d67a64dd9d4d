"""The OpenAPI document of the live generation, and what it promises."""

import json
import re
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from hayhooks.endpoints import BUILTIN
from hayhooks.http.dispatch import build_generation
from hayhooks.kernel.state import Snapshot
from hayhooks.openapi.describe import DocumentedRoute
from tests.live_server import ECHO, LiveServer, also_at, serving
from tests.openapi.varied import (
    EVENTS,
    HAYSTACK,
    OPENAI,
    OTHER_ITEM,
    STREAM,
    TYPED,
    UNTYPED,
    UPLOAD_IF_ANY,
    UPLOADS,
    VARIED,
    serve_varied,
    wrapper,
)

BROKEN_SCHEMA = """
from pydantic import BaseModel


class Odd(BaseModel):
    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema, handler):
        raise RuntimeError("no schema today")


class PipelineWrapper(Base):
    def run_api(self, odd: Odd | None = None, times: int = 1) -> int:
        return times
"""

NO_JSON_IN_SCHEMA = """
from typing import Annotated
from pydantic import Field


class PipelineWrapper(Base):
    def run_api(self, odd: Annotated[int, Field(json_schema_extra={"examples": [object()]})] = 1) -> int:
        return odd
"""

CALLABLE = """
from collections.abc import Callable
from pydantic import BaseModel


class PipelineWrapper(Base):
    def run_api(self, function: Callable | None = None, times: int = 1) -> dict[str, Callable]:
        return times
"""


RAISING = """
import asyncio
from hayhooks import BasePipelineWrapper
from starlette.exceptions import HTTPException


class PipelineWrapper(BasePipelineWrapper):
    request_timeout = 0.5

    def setup(self): ...

    async def run_api_async(self, text: str) -> str:
        if text == "sleep":
            await asyncio.sleep(60)
        raise ValueError("no such page") if text == "raise" else HTTPException(402, "the text of the exception")

    async def run_chat_completion_async(self, model, messages, body):
        return await self.run_api_async(messages[0]["content"])
"""


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


def document(server: LiveServer) -> Any:
    return server.client.get("/openapi.json").raise_for_status().json()


def operations(server: LiveServer) -> list[Any]:
    return [operation for item in document(server)["paths"].values() for operation in item.values()]


def operation(server: LiveServer, path: str, method: str = "post") -> Any:
    return document(server)["paths"][path][method]


def resolved(document: Any, schema: Any) -> Any:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def test_the_document_of_every_kind_of_wrapper_is_valid(own_server: LiveServer):
    serve_varied(own_server)

    paths = document(own_server)

    validate(paths)
    assert paths["openapi"].startswith("3.1.")
    assert set(paths["paths"]) >= {f"/{name}/run" for name in VARIED if name != "größe-1.0"} | {
        "/größe-1.0/chat",
        "/größe-1.0/responses",
        "/größe-1.0/files",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/models",
        "/v1/files",
        "/status",
        "/healthz",
        "/readyz",
        "/draw/{name}",
    }


def schemathesis(server: LiveServer, *options: str) -> int:
    """Have Schemathesis ask for everything in the document, and agree; how many operations it has tested."""
    config = str(Path(__file__).with_name("schemathesis.toml"))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", config]
    common = [
        "--generation-deterministic",
        "--max-examples",
        "3",
        "--workers",
        "1",  # with two its generators, which are not made for threads, failed once
        "--no-color",
    ]

    found = subprocess.run(
        [*command, "run", *common, *options],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        cwd=server.root.parent,
    )

    assert found.returncode == 0, found.stdout + found.stderr
    tested = re.search(r"Tested: (\d+)", found.stdout)
    assert tested is not None
    return int(tested[1])


@pytest.mark.slow
def test_schemathesis_finds_no_500_and_no_undocumented_answer(root: Path):
    """With a key where one is needed, so that every operation says how it is asked."""
    with serving(root, api_keys=["secret"]) as server:
        server.client.headers["Authorization"] = "Bearer secret"
        serve_varied(server)

        tested = schemathesis(
            server,
            f"{server.url}/openapi.json",
            *("--header", "Authorization: Bearer secret"),
            *("--phases", "examples,coverage,fuzzing"),
        )

        assert tested == len(operations(server)) - 1  # not the document itself


@pytest.mark.slow
def test_schemathesis_without_a_key_gets_401(root: Path, tmp_path: Path):
    """Without a key schemathesis gets the documented 401 from everything but the probes."""
    with serving(root, api_keys=["secret"]) as server:
        server.client.headers["Authorization"] = "Bearer secret"
        serve_varied(server)
        whole = document(server)
        refused = [operation for item in whole["paths"].values() for operation in item.values() if needs_key(operation)]
        for operation in refused:
            operation["responses"] = {"401": operation["responses"]["401"]}
        saved = tmp_path / "openapi.json"
        saved.write_text(json.dumps(whole))

        tested = schemathesis(
            server,
            *(str(saved), "--url", server.url, "--phases", "examples,fuzzing"),
            *("--checks", "status_code_conformance,content_type_conformance,response_schema_conformance"),
        )

        assert tested == len(refused) + 2


def needs_key(operation: Any) -> bool:
    return bool(operation.get("security", True))


def test_operation_ids_are_names_for_code_and_each_has_its_own(own_server: LiveServer):
    for name in ("a-b", "a.b", "a_b", "größe"):
        own_server.write(name, OPENAI)
    own_server.eventually(lambda: len(own_server.status()["pipelines"]) == 4)

    ids = [operation["operationId"] for operation in operations(own_server)]

    assert len(set(ids)) == len(ids)
    assert all(id.isidentifier() and id.isascii() for id in ids), ids
    assert "chat_a_b" in ids


def test_descriptions_are_the_docstrings(server: LiveServer):
    server.serve("typed", TYPED)
    whole = document(server)
    run = whole["paths"]["/typed/run"]["post"]
    request = resolved(whole, run["requestBody"]["content"]["application/json"]["schema"])

    assert (run["summary"], run["description"], run["tags"]) == ("Weigh the items.", "All of them.", ["typed"])
    assert {"name": "typed", "description": "Counts *items*."} in whole["tags"]
    assert request["properties"]["share"]["description"] == "of a hundred."
    assert request["properties"]["share"]["maximum"] == 100
    assert request["required"] == ["items"]
    item = resolved(whole, request["properties"]["items"]["items"])
    assert item["properties"]["name"]["description"] == "What it is called."


def test_models_of_one_name_in_two_wrappers_stay_apart(server: LiveServer):
    server.serve("first", TYPED)
    server.serve("second", OTHER_ITEM)

    schemas = document(server)["components"]["schemas"]

    assert "price" in schemas["first.Item-Input"]["properties"]
    assert set(schemas["second.Item"]["properties"]) == {"weight"}


@pytest.mark.parametrize(
    ("body", "taken", "given"),
    [
        (TYPED, {"application/json"}, {"application/json"}),
        (UPLOADS, {"multipart/form-data"}, {"application/json"}),
        (UPLOAD_IF_ANY, {"multipart/form-data", "application/json"}, {"application/json"}),
        (STREAM, {"application/json"}, {"text/plain"}),
        (EVENTS, {"application/json"}, {"text/event-stream"}),
        (UNTYPED, {"application/json"}, {"application/json", "text/plain", "text/event-stream", "*/*"}),
    ],
    ids=["typed", "uploads", "upload if any", "stream", "events", "untyped"],
)
def test_content_types_are_those_of_the_method(server: LiveServer, body: str, taken: set[str], given: set[str]):
    server.serve("it", wrapper(body))

    run = operation(server, "/it/run")

    assert set(run["requestBody"]["content"]) == taken
    assert set(run["responses"]["200"]["content"]) == given


def test_uploads_are_what_browsers_show_a_file_chooser_for(server: LiveServer):
    server.serve("some", UPLOADS)
    server.serve("one", UPLOAD_IF_ANY)
    binary = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}

    some = operation(server, "/some/run")["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    one = operation(server, "/one/run")["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]

    assert some["files"]["items"] == binary
    assert some["files"]["minItems"] == 1
    assert some["files"]["examples"] == [[]]  # else Swagger's UI sends the text "string" for files that nobody chose
    assert binary.items() <= one["picture"].items()


def test_chat_answers_whole_or_as_events_and_names_a_model_that_there_is(server: LiveServer):
    server.serve("talks", OPENAI)

    by_model, by_path = operation(server, "/v1/chat/completions"), operation(server, "/talks/chat")

    assert set(by_model["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert by_path["summary"] == "Talk."
    (example,) = by_model["requestBody"]["content"]["application/json"]["schema"]["examples"]
    assert example["model"] == "talks"
    assert server.client.post("/v1/chat/completions", json=example).status_code == 200
    (example,) = by_path["requestBody"]["content"]["application/json"]["schema"]["examples"]
    assert server.client.post("/talks/chat", json=example).status_code == 200


def test_the_example_of_each_error_is_what_the_server_sends(root: Path):
    """For both forms of errors; ``NAME`` is the deployment that is asked for."""
    with serving(root, max_body_size=1000) as server:
        server.serve("NAME", RAISING)
        server.serve("keeps", wrapper("class PipelineWrapper(Base):\n    def run_file_retrieve(self, file_id): ..."))
        whole = document(server)
        chat = "/v1/chat/completions"
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("422", "/NAME/run", {"json": {}}),
            ("413", "/NAME/run", {"content": bytes(1001)}),
            ("413", "/NAME/chat", {"content": bytes(1001)}),
            ("415", "/NAME/run", {"content": b"{}", "headers": {"Content-Encoding": "br"}}),
            ("415", "/NAME/chat", {"content": b"{}", "headers": {"Content-Encoding": "br"}}),
            ("500", "/NAME/run", {"json": {"text": "raise"}}),
            ("500", "/NAME/chat", {"json": {"messages": [{"role": "user", "content": "raise"}]}}),
            ("504", "/NAME/run", {"json": {"text": "sleep"}}),
            ("504", "/NAME/chat", {"json": {"messages": [{"role": "user", "content": "sleep"}]}}),
            ("default", "/NAME/run", {"json": {"text": "refuse"}}),
            ("default", "/NAME/chat", {"json": {"messages": [{"role": "user", "content": "refuse"}]}}),
            ("400", chat, {"content": b"x"}),
            ("400", "/NAME/responses", {"content": b"x"}),
            ("404", chat, {"json": {"model": "nobody", "messages": [{"role": "user", "content": "x"}]}}),
            ("501", chat, {"json": {"model": "keeps", "messages": [{"role": "user", "content": "x"}]}}),
            ("501", "/v1/responses", {"json": {"model": "keeps", "input": "x"}}),
            ("404", "/v1/files/{file_id}", {}),
            ("501", "/v1/files/{file_id}/content", {}),
        ]
        told = {(status, path): _sent(server, path, **request) for status, path, request in asked}

    for (status, path), answer in told.items():
        operation = whole["paths"].get(path) or whole["paths"][path.replace("/NAME/responses", "/v1/responses")]
        response = next(iter(operation.values()))["responses"][status]
        if "$ref" in response:
            response = whole["components"]["responses"][response["$ref"].rpartition("/")[2]]
        example = response["content"]["application/json"]["example"]
        for known in ("nobody", "keeps"):
            answer = answer.replace(f"'{known}'", "'NAME'")
        assert re.sub(r"[\d,.]*\d", "0", json.dumps(example)) == re.sub(r"[\d,.]*\d", "0", answer), (status, path)


def _sent(server: LiveServer, path: str, **request: Any) -> str:
    """What the server answers to a request, as the document's examples are written."""
    method = "POST" if request else "GET"
    return json.dumps(server.client.request(method, path.format(file_id="file-1"), **request).json())


def test_only_what_a_wrapper_implements_is_shown(server: LiveServer):
    server.serve("echo", answer="")
    server.serve("keeps", wrapper("class PipelineWrapper(Base):\n    def run_file_list(self):\n        return []\n"))

    paths = document(server)["paths"]

    assert {path for path in paths if path.startswith("/echo")} == {"/echo/run", "/echo/chat", "/echo/schema"}
    assert set(paths["/keeps/files"]) == {"get"}


def test_haystacks_data_is_described_as_it_is_sent(server: LiveServer):
    server.serve("data", HAYSTACK)
    whole = document(server)
    request = resolved(
        whole, whole["paths"]["/data/run"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    )
    (example,) = request["properties"]["documents"]["items"]["examples"]

    answer = server.client.post("/data/run", json={"documents": [example], "message": {"role": "user", "content": "x"}})

    assert answer.json()["result"][0]["content"] == example["content"]


@pytest.mark.parametrize("body", [BROKEN_SCHEMA, NO_JSON_IN_SCHEMA, CALLABLE], ids=["raises", "no JSON", "callable"])
def test_what_has_no_json_schema_takes_nothing_else_with_it(server: LiveServer, body: str):
    server.serve("odd", wrapper(body))
    server.serve("typed", TYPED)

    whole = document(server)

    validate(whole)
    assert "typed.Item-Input" in whole["components"]["schemas"]
    assert whole["paths"]["/odd/run"]["post"]["responses"]["200"]
    assert server.client.get("/odd/schema").status_code == 200


def test_the_document_follows_the_directory(own_server: LiveServer):
    own_server.serve("echo", answer="")
    before = document(own_server)["paths"]
    own_server.remove("echo")
    own_server.eventually(lambda: not own_server.status()["pipelines"])

    assert "/echo/run" in before
    assert "/echo/run" not in document(own_server)["paths"]


def test_a_new_generation_describes_only_what_is_new(server: LiveServer):
    server.serve("old", TYPED)
    document(server)
    kept = server.app.switch.live.snapshot.deployments["old"].runtime.cache.copy()
    server.serve("new", TYPED)

    document(server)

    assert kept
    made = server.app.switch.live.snapshot.deployments["old"].runtime.cache
    assert all(made[key] is value for key, value in kept.items())


def test_yaml_is_the_same_document(server: LiveServer):
    serve_varied(server)

    answer = server.client.get("/openapi.yaml")

    assert answer.headers["content-type"] == "application/yaml"
    assert yaml.safe_load(answer.text) == document(server)


@pytest.mark.parametrize("path", ["/openapi.json", "/openapi.yaml", "/echo/schema"])
def test_who_has_it_already_gets_304_until_it_changes(server: LiveServer, path: str):
    server.serve("echo", answer="")
    etag = server.client.get(path).headers["etag"]

    again = server.client.get(path, headers={"If-None-Match": etag})
    server.serve("echo", ECHO.replace("text: str", "words: str").replace("+ text", "+ words"), answer="new")

    assert (again.status_code, again.content) == (304, b"")
    assert server.client.get(path, headers={"If-None-Match": etag}).status_code == 200


def test_the_schema_of_one_deployment_stands_for_itself(server: LiveServer):
    server.serve("typed", TYPED)

    schema = server.client.get("/typed/schema").raise_for_status().json()
    (run,) = schema["operations"]
    request = run["request"]["application/json"]
    validator = Draft202012Validator(request)
    Draft202012Validator.check_schema(request)

    assert (schema["name"], run["method"], run["path"]) == ("typed", "POST", "/typed/run")
    assert validator.is_valid({"items": [{"name": "a", "price": 1, "parts": [{"name": "b", "price": 2}]}]})
    assert not validator.is_valid({"items": [{"name": "a", "price": 1, "parts": [{"name": "b", "price": -2}]}]})
    answer = server.client.post("/typed/run", json={"items": [{"name": "a", "price": 1}]}).json()
    assert Draft202012Validator(run["response"]["application/json"]).is_valid(answer)


def test_the_schema_of_a_name_that_is_not_there_is_a_404(server: LiveServer):
    assert server.client.get("/nobody/schema").status_code == 404


def test_the_server_is_below_the_root_path_and_the_mount(tmp_path: Path):
    root = tmp_path / "pipelines"
    root.mkdir()
    with serving(root) as server:
        assert "servers" not in document(server)  # tools join "/" and "/echo/run" to "//echo/run"
        app = Starlette(routes=[Mount("/ai", server.app)])
        with also_at(app, "/proxy") as url:
            assert httpx.get(f"{url}/ai/openapi.json").json()["servers"] == [{"url": "/proxy/ai"}]


@pytest.mark.parametrize("path", ["/x", "/x/", "/x//"])
def test_a_slash_at_the_end_of_the_root_path_is_none_of_the_servers(root: Path, path: str):
    with serving(root, root_path=path) as server:
        assert document(server)["servers"] == [{"url": "/x"}]


def test_keys_are_said_to_be_needed_where_they_are(root: Path):
    with serving(root) as server:
        whole = document(server)
        assert "security" not in whole
        assert "securitySchemes" not in whole["components"]
    with serving(root, api_keys=["secret"]) as server:
        headers = {"Authorization": "Bearer secret"}
        whole = server.client.get("/openapi.json", headers=headers).json()
        assert whole["security"] == [{"bearerAuth": []}]
        assert list(whole["components"]["securitySchemes"]) == ["bearerAuth"]
        assert whole["paths"]["/healthz"]["get"]["security"] == []
        assert "secret" not in str(whole)


def test_the_names_of_the_pages_cannot_be_deployed(own_server: LiveServer):
    for name in ("docs", "redoc", "openapi.json", "openapi.yaml", "draw"):
        own_server.write(name, answer="")

    own_server.eventually(lambda: [entry["state"] for entry in own_server.status()["deployments"]] == ["failed"] * 5)


def test_every_endpoint_is_described():
    routes = [route for route in build_generation(Snapshot(), BUILTIN).router.routes if isinstance(route, Route)]
    described = {route.path for route in routes if isinstance(route, DocumentedRoute)}
    pages = {"/", "/console/static/{file}", "/docs", "/docs/{file}", "/redoc", "/redoc/{file}"}
    protocols = {
        "/mcp",
        "/a2a/agents",
        "/.well-known/agent-card.json",
        "/.well-known/agent.json",
    }  # which describe themselves

    for route in routes:
        assert route.path in described | pages | protocols or f"/v1{route.path}" in described, route.path


@pytest.mark.parametrize("text", ["\\ud800", "\\x00\\x85\\u2028", "x" * 100_000, "<script>alert(1)</script>: - {"])
def test_any_docstring_can_be_told(server: LiveServer, text: str):
    in_source = text.replace("\\ud800", "")  # with which Python makes no class, and since 3.13 no function
    of_method = f'    def run_api(self, a: int = 1):\n        """{in_source}"""\n    run_api.__doc__ = """{text}"""\n'
    body = f'class PipelineWrapper(Base):\n    """{in_source}"""\n{of_method}'
    server.serve("odd", wrapper(body))

    whole = document(server)

    validate(whole)
    assert yaml.safe_load(server.client.get("/openapi.yaml").text) == whole
    assert server.client.get("/odd/schema").status_code == 200


def test_docstrings_that_hayhooks_wrote_are_not_the_users(server: LiveServer):
    server.serve("typed", wrapper("class PipelineWrapper(Base):\n    def run_api(self): ...\n"))

    assert operation(server, "/typed/run")["summary"] == "Run typed"
    assert "description" not in operation(server, "/typed/run")


def test_what_was_made_of_a_deployment_goes_with_it(server: LiveServer):
    server.serve("data", HAYSTACK)
    old = weakref.ref(server.app.switch.live.snapshot.deployments["data"].wrapper)
    for path in ("/openapi.json", "/openapi.yaml", "/data/schema", "/draw/data", "/draw/data?format=svg"):
        assert server.client.get(path).status_code == 200

    server.serve("data", OTHER_ITEM)

    # Of the others one may stay for ever: what served when the tests froze their imports.
    server.eventually(lambda: old() is None, "the old wrapper to go")
    assert "data" not in [each["name"] for each in server.status()["retired"]]


def test_many_that_ask_at_once_have_it_made_once(server: LiveServer):
    serve_varied(server)

    with ThreadPoolExecutor(10) as pool:
        answers = list(
            pool.map(lambda _: httpx.get(f"{server.url}/openapi.yaml", timeout=60).headers["etag"], range(20))
        )

    assert len(set(answers)) == 1
