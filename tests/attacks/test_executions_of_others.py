"""Keys and owners: nobody reads, answers or ends what others have ordered."""

from collections.abc import Iterator

import httpx
import pytest

from tests.live_server import LiveServer, eventually, serving

OWNED = """
from haystack import Pipeline
from pydantic import BaseModel
from hayhooks import BasePipelineWrapper, get_last_user_input_text

class Work(BaseModel):
    text: str = ""

class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()

    def durable_owner_id(self, request):
        return request.headers.get("x-user", "nobody")

    async def run_durable_async(self, context, request: Work):
        await context.suspend({"kind": "approval"})

    def run_api(self, text: str = "") -> str:
        return text

    def run_response(self, model, input_items, body):
        return f"{len(input_items)} items, at last {get_last_user_input_text(input_items)}"
"""

ALL, HERS, HIS, READER = (f"key-{number}-0123456789abcdef" for number in range(4))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    state = tmp_path_factory.mktemp("state")
    keys = state / "keys"
    keys.write_text(f"all:{ALL}\nher:{HERS}:call=hers\nhim:{HIS}:call=his\nreader:{READER}:read\n")
    root = tmp_path_factory.mktemp("pipelines")
    with serving(root, api_keys_file=keys, state_dir=str(state), durable_poll_ms=50) as server:
        server.client.headers["Authorization"] = f"Bearer {ALL}"
        server.serve("hers", OWNED)
        server.serve("his", OWNED)
        server.serve("plain", OWNED.replace("run_durable_async", "not_durable"))
        yield server


def ask(server: LiveServer, key: str, method: str, path: str, user: str = "ann", **request: object) -> httpx.Response:
    headers = {
        "Authorization": f"Bearer {key}",
        "x-user": user,
        **({"Prefer": "respond-async"} if "run" in path else {}),
    }
    return server.client.request(method, path, headers=headers, **request)  # type: ignore[arg-type]


def response_of(server: LiveServer, **body: object) -> str:
    """Create a response of "hers" and wait for its end; return its id."""
    created = ask(server, HERS, "POST", "/v1/responses", json={"model": "hers", "input": "a secret", **body}).json()
    path = f"/v1/responses/{created['id']}"
    eventually(lambda: ask(server, HERS, "GET", path).json()["status"] == "completed")
    return str(created["id"])


@pytest.mark.parametrize("key", [HIS, READER])
@pytest.mark.parametrize(
    ("method", "action"),
    [("GET", ""), ("GET", "?stream=true"), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")],
)
def test_a_response_is_hidden_from_keys_of_other_deployments(server: LiveServer, key: str, method: str, action: str):
    response_id = response_of(server, background=True)

    assert ask(server, key, method, f"/v1/responses/{response_id}{action}").status_code in (403, 404)
    assert ask(server, key, method, f"/hers/responses/{response_id}{action}").status_code == 403
    assert ask(server, HIS, method, f"/his/responses/{response_id}{action}").status_code == 404
    assert ask(server, HERS, "GET", f"/v1/responses/{response_id}").status_code == 200


@pytest.mark.parametrize(("key", "model", "user"), [(HIS, "his", "ann"), (HERS, "hers", "bob")])
def test_a_conversation_of_others_is_not_gone_on_with(server: LiveServer, key: str, model: str, user: str):
    response_id = response_of(server, store=True)
    body = {"model": model, "input": "more", "previous_response_id": response_id}

    answer = ask(server, key, "POST", "/v1/responses", user, json=body).json()
    own = ask(server, HERS, "POST", "/v1/responses", json={**body, "model": "hers"}).json()

    assert answer["output"][0]["content"][0]["text"] == "1 items, at last more"
    assert own["output"][0]["content"][0]["text"] == "3 items, at last more"


@pytest.mark.parametrize("path", ["run-durable", "run"])
@pytest.mark.parametrize(
    ("method", "action"),
    [("GET", ""), ("GET", "/stream"), ("POST", "/cancel"), ("POST", "/resume"), ("POST", "/retry"), ("DELETE", "")],
)
def test_an_execution_is_hidden_from_other_owners_and_keys(server: LiveServer, path: str, method: str, action: str):
    order = ask(server, HERS, "POST", f"/hers/{path}", json={"text": "a secret"})
    link = order.json()["links"]["self"]

    assert order.status_code == 202
    assert ask(server, HERS, method, link + action, "bob").status_code == 404
    assert ask(server, HIS, method, link + action).status_code == 403
    assert ask(server, READER, method, link + action).status_code == 403
    assert ask(server, HIS, method, link.replace("hers", "his") + action).status_code == 404
    assert ask(server, HERS, "GET", link).status_code == 200


def test_owners_are_kept_apart_where_there_is_no_durable_method(server: LiveServer):
    link = ask(server, ALL, "POST", "/plain/run", json={"text": "a secret"}).json()["links"]["self"]

    assert ask(server, ALL, "GET", link, "bob").status_code == 404
    assert ask(server, ALL, "GET", link).status_code == 200
    assert ask(server, ALL, "POST", "/plain/run", "", json={}).status_code == 500  # an owner of no length


def test_the_list_of_all_is_for_who_may_read(server: LiveServer):
    ask(server, HERS, "POST", "/hers/run", json={"text": "a secret"})
    listed = ask(server, READER, "GET", "/executions")

    assert listed.status_code == 200
    assert "secret" not in listed.text
    assert "ann" not in listed.text
    assert ask(server, HERS, "GET", "/executions").status_code == 403
    assert ask(server, HERS, "GET", "/hers/executions", "bob").json()["executions"] == []
