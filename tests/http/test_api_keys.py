"""Keys with names, scopes and rates: what each may do, how often, and where its name is seen."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from hayhooks import Settings
from hayhooks.cli.client import Server
from hayhooks.setting_types import ApiKey, read_keys
from tests.live_server import LiveServer, eventually, replace, serving

CHAT = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self, text: str = "") -> str:
        return text

    def run_chat_completion(self, model, messages, body):
        return "an answer"
"""
KEYS = """
plain-key
all:all-key
desk:desk-key:call=desk,hand*
calls:calls-key:call
reads:reads-key:read
both:both-key:call=desk read
slow:slow-key:call read rate=3/day
slow:other-slow-key:rate=3/day
"""
NAMES = ("desk", "handbook", "secret")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Three pipelines behind a file of keys."""
    root = tmp_path_factory.mktemp("pipelines")
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(KEYS)
    for name in NAMES:
        replace(root / name / "pipeline_wrapper.py", CHAT)
    with serving(root, api_keys_file=file) as server:
        eventually(lambda: server.client.get("/readyz").status_code == 200)
        yield server


def asked(server: LiveServer, key: str, method: str, path: str, **more: object) -> httpx.Response:
    return server.client.request(method, path, headers={"Authorization": f"Bearer {key}"}, **more)  # type: ignore[arg-type]


def called(server: LiveServer, key: str) -> list[str]:
    """The pipelines that *key* may call, each way that there is to call one."""
    chat = {"messages": [{"role": "user", "content": "x"}]}
    callable_names = []
    for name in NAMES:
        answers = [
            asked(server, key, "POST", f"/{name}/run", json={"text": "x"}),
            asked(server, key, "POST", f"/{name}/chat", json=chat),
            asked(server, key, "POST", "/v1/chat/completions", json={"model": name, **chat}),
            asked(server, key, "POST", "/chat/completions", json={"model": name, **chat}),
            asked(server, key, "POST", "/v1/responses", json={"model": name, "input": "x"}),
            asked(server, key, "GET", f"/v1/models/{name}"),
        ]
        statuses = {answer.status_code for answer in answers}
        assert statuses in ({200}, {403}), [answer.text for answer in answers]
        if statuses == {200}:
            callable_names.append(name)
    return callable_names


@pytest.mark.parametrize(
    ("key", "names", "reads"),
    [
        ("plain-key", NAMES, True),
        ("all-key", NAMES, True),
        ("desk-key", ("desk", "handbook"), False),
        ("calls-key", NAMES, False),
        ("reads-key", (), True),
        ("both-key", ("desk",), True),
    ],
)
def test_a_key_does_what_its_scopes_say_and_nothing_else(
    server: LiveServer, key: str, names: tuple[str, ...], *, reads: bool
):
    assert called(server, key) == list(names)
    expected = 200 if reads else 403
    for path in ("/status", "/status/desk", "/metrics", "/openapi.json", "/draw/desk", "/status/desk/revisions"):
        status = asked(server, key, "GET", path).status_code
        assert status in ({200, 404, 501} if reads else {403}), path
    assert asked(server, key, "GET", "/status").status_code == expected
    listed = asked(server, key, "GET", "/v1/models")
    assert listed.status_code == (200 if names else 403)
    if names:
        assert [model["id"] for model in listed.json()["data"]] == list(names)
    assert server.client.get("/readyz").status_code == 200  # needs none


def test_the_refusal_names_key_pipeline_and_scopes_in_openais_form(server: LiveServer):
    answer = asked(server, "desk-key", "POST", "/secret/run", json={})

    assert answer.json()["error"] == {
        "message": "The API key 'desk' may not call 'secret': its scopes are 'call=desk,hand*'",
        "type": "invalid_request_error",
        "param": None,
        "code": "insufficient_scope",
    }
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="desk-key", max_retries=0) as client,
        pytest.raises(openai.PermissionDeniedError, match="may not call 'secret'"),
    ):
        client.chat.completions.create(model="secret", messages=[{"role": "user", "content": "x"}])


def test_a_key_learns_nothing_of_pipelines_that_it_may_not_call(server: LiveServer):
    replace(server.root / "broken/pipeline_wrapper.py", "raise RuntimeError('a secret')")
    replace(server.root / "hand-broken/pipeline_wrapper.py", "raise RuntimeError('its own')")
    eventually(lambda: asked(server, "all-key", "GET", "/status/hand-broken").json()["state"] == "failed")
    for name in ("broken", "secrat"):
        bodies: dict[str, dict[str, object]] = {
            f"/{name}/run": {},
            "/v1/chat/completions": {"model": name, "messages": []},
        }
        for path, body in bodies.items():
            answer = asked(server, "desk-key", "POST", path, json=body)
            assert answer.status_code in (400, 403), answer.text
            assert "a secret" not in answer.text
            assert "'secret'" not in answer.text
    own = asked(server, "desk-key", "POST", "/hand-broken/run", json={})
    assert (own.status_code, "its own" in own.text) == (503, True)
    doubled = asked(server, "desk-key", "POST", f"{server.url}//desk//run", json={})
    assert doubled.status_code == 200, doubled.text
    assert asked(server, "reads-key", "GET", "/v1/models%0a").status_code == 403
    assert asked(server, "desk-key", "GET", "/").status_code == 200  # which needs no key
    long = asked(server, "desk-key", "GET", "/v1/models/" + "a" * 50_000)
    assert (long.status_code, len(long.content) < 1_000) == (403, True)


def test_a_key_has_its_own_rate(server: LiveServer):
    statuses = [asked(server, "slow-key", "POST", "/desk/run", json={}).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    refused = asked(server, "slow-key", "GET", "/status")
    assert 1 <= int(refused.headers["retry-after"]) <= 86_400
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert "'slow' allows 3 requests in 86,400 s" in refused.text
    assert asked(server, "other-slow-key", "POST", "/desk/run", json={}).status_code == 200
    assert asked(server, "all-key", "POST", "/desk/run", json={}).status_code == 200


def test_the_name_is_in_the_log_and_the_metrics(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, logged: list[str]
):
    replace(tmp_path / "desk/pipeline_wrapper.py", CHAT)
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("desk app:no\n")
    with pytest.raises(ValueError, match="line 1: the name before the key"):
        read_keys(file)
    file.write_text("desk-app:the-key\n")
    with serving(tmp_path, api_keys_file=file) as server:
        eventually(lambda: asked(server, "the-key", "POST", "/desk/run", json={}).status_code == 200)
        metrics = asked(server, "the-key", "GET", "/metrics").text
    assert 'hayhooks_key_requests_total{key="desk-app",status="200"} ' in metrics
    assert not any("the-key" in line for line in logged)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("desk:", "visible ASCII"),
        (":key", "the name before the key"),
        ("d sk:key", "the name before the key"),
        ("desk:key:cal", "must be scopes, with spaces between them: call, call=NAME,OTHER"),
        ("desk:key:call=", "must be scopes"),
        ("desk:key:call=a,,b", "must be scopes"),
        ("desk:key:read=x", "must be scopes"),
        ("desk:key:rate=0/second", "must be scopes"),
        ("desk:key:rate=5/week", "must be scopes"),
        ("plain\nother:plain", "line 2: an earlier line has the same key"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_without_its_key(tmp_path: Path, line: str, reason: str):
    (tmp_path / "keys").write_text(line)
    with pytest.raises(ValueError, match=r"line [12]: ") as raised:
        read_keys(tmp_path / "keys")
    assert reason in str(raised.value)
    assert "key:" not in str(raised.value)
    assert "cal'" not in str(raised.value)


def test_commands_use_the_key_that_may_do_most(tmp_path: Path):
    (tmp_path / "keys").write_text("a:only-calls:call\nb:everything\nc:limited:rate=1/day")
    settings = Settings(pipelines_dir=tmp_path, api_keys_file=tmp_path / "keys", _env_file=None)

    assert Server(settings).headers()["Authorization"] == "Bearer everything"
    assert json.dumps(repr(settings.valid_keys())).count("only-calls") == 0
    assert [key.scopes for key in settings.valid_keys()] == ["call read", "call read", "call"]
    assert ApiKey("k", calls=("a*", "b")).scopes == "call=a*,b read"
