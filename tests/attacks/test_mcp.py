"""Hostile clients of ``/mcp``: what is no message, who is not there, and sessions without end."""

import json

import httpx
import pytest

from tests.attacks.measuring import Attacked
from tests.integrations.mcp_client import call, text_of
from tests.integrations.test_mcp_changes import ACCEPT, INITIALIZE, list_tools

VERSION_2026 = {**ACCEPT, "MCP-Protocol-Version": "2026-07-28"}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}

MALFORMED = [
    b"",
    b"{",
    b"[]",
    b"[{}]",
    b"null",
    b'"x"',
    b"{}",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"jsonrpc": "1.0", "id": 1, "method": "tools/list"}',
    b'{"jsonrpc": "2.0", "id": {}, "method": "tools/list"}',
    b'{"jsonrpc": "2.0", "id": 1, "method": 5}',
    b'{"jsonrpc": "2.0", "id": 1' + b"0" * 5_000 + b', "method": "ping"}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": []}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 7, "arguments": 3}}',
]


@pytest.mark.parametrize("headers", [ACCEPT, VERSION_2026, {**ACCEPT, "MCP-Protocol-Version": "9999-99-99"}])
def test_what_is_no_message_is_refused(attacked: Attacked, headers: dict[str, str]) -> None:
    for body in MALFORMED:
        answer = attacked.client.post("/mcp", content=body, headers={**headers, "Content-Type": "application/json"})
        assert answer.status_code == 400, body[:80]
        assert answer.json()["error"]["code"] < 0
    large = attacked.client.post("/mcp", content=b"x" * 5_000_000, headers=headers)
    assert (large.status_code, large.json()["id"]) == (413, None)
    assert large.json()["error"] == {"code": -32600, "message": large.json()["detail"]}


def test_many_values_leave_the_loop_free(attacked: Attacked) -> None:
    call(attacked.url, "list_pipelines")  # which imports the SDK
    many = b"[" + b"[]," * 1_300_000 + b"[]]"
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "it", "arguments": {"x": ' + many
    headers = {**ACCEPT, "Content-Type": "application/json"}
    cost = attacked.cost(lambda: attacked.client.post("/mcp", content=body + b"}}}", headers=headers))

    assert cost.result.status_code == 413
    assert "HAYHOOKS_MAX_JSON_VALUES" in cost.result.text
    cost.check(megabytes=100)


def ask_2026(client: httpx.Client, method: str, **params: object) -> httpx.Response:
    """Send a request of protocol version 2026-07-28."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
    name = {"mcp-name": str(params["name"])} if "name" in params else {}
    return client.post(
        "/mcp",
        content=json.dumps(message),
        headers={**VERSION_2026, "Content-Type": "application/json", "mcp-method": method, **name},
    )


def test_unknown_methods_and_tools(attacked: Attacked) -> None:
    """A tool's name is no path."""
    assert ask_2026(attacked.client, "no/such").json()["error"]["code"] == -32601
    for name in ("../it", "it/run", "it?stream=true", "it#", "status", "healthz", "mcp", "", "%2e%2e/it"):
        result = ask_2026(attacked.client, "tools/call", name=name, arguments={}).json()["result"]
        assert result["isError"], name
        assert "There is no tool" in result["content"][0]["text"]
    for name in ("../status", "it/../../metrics", ""):
        assert call(attacked.url, "pipeline_status", {"name": name}).is_error


def test_arguments_that_are_no_text(attacked: Attacked) -> None:
    """Half a character, and numbers that JSON does not have."""
    for value in ("\ud800", float("nan"), float("inf")):
        answer = ask_2026(attacked.client, "tools/call", name="it", arguments={"text": value, value and "\ud800": 1})
        assert answer.status_code == 200
        assert answer.json()["result"]["content"][0]["text"]


def test_sessions_of_others_are_not_there(attacked: Attacked) -> None:
    for session in ("0" * 32, "../", "x" * 5_000):
        assert list_tools(attacked.client, session).status_code == 404


@pytest.mark.slow
def test_a_thousand_sessions_that_are_dropped_cost_no_memory(attacked: Attacked) -> None:
    """Clients that leave without a word: the oldest sessions end when there are too many."""
    call(attacked.url, "list_pipelines")  # which imports the SDK

    def open_and_drop() -> None:
        for _ in range(20):
            with httpx.Client(base_url=attacked.url, timeout=60) as client:
                for _ in range(50):
                    assert client.post("/mcp", json=INITIALIZE, headers=ACCEPT).status_code == 200

    open_and_drop()  # as many as are kept
    assert attacked.cost(open_and_drop).grown_mb <= 20
    assert "it" in text_of(call(attacked.url, "list_pipelines"))
