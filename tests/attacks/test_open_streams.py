"""A response that lasts keeps no deployment alive but its own: others are replaced and freed beside it."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.test_idle_connections import KEEPER, get, post
from tests.live_server import LiveServer, serving

DRIPS = """
import asyncio
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): ...

    async def run_api(self):
        await asyncio.sleep(600)

    async def run_chat_completion_async(self, model, messages, body):
        while True:
            yield "drip "
            await asyncio.sleep(0.1)
"""
CHAT = {"model": "drips", "messages": [{"role": "user", "content": "x"}], "stream": True}
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
INITIALIZE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


def rpc(path: str, method: str, headers: str, **params: object) -> bytes:
    head, _, body = post(path, jsonrpc="2.0", id=1, method=method, params=params).partition(b"\r\n\r\n")
    return head + f"\r\nAccept: application/json, text/event-stream\r\n{headers}\r\n\r\n".encode() + body


MESSAGE = {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": "x"}]}
LASTING = {
    "events": get("/events"),
    "run": post("/drips/run"),
    "chat": post("/drips/chat", **CHAT),
    "chat by model": post("/v1/chat/completions", **CHAT),
    "responses": post("/v1/responses", model="drips", input="x", stream=True),
    "MCP's notices": rpc(
        "/mcp",
        "subscriptions/listen",
        "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen",
        _meta=META,
        notifications={"toolsListChanged": True},
    ),
    "MCP's session": rpc("/mcp", "initialize", "X-Nothing: x", **INITIALIZE),
    "A2A's task": rpc("/drips/a2a", "SendStreamingMessage", "A2A-Version: 1.0", message=MESSAGE),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with serving(tmp_path_factory.mktemp("pipelines"), removal_grace_ms=0) as server:
        server.serve("drips", DRIPS)
        yield server


@pytest.mark.parametrize("kind", LASTING)
def test_it_keeps_no_other_deployment(server: LiveServer, tmp_path: Path, kind: str):
    server.serve("app", KEEPER, version=kind, gone=str(tmp_path / "old"))
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(LASTING[kind])
        if kind == "run":
            server.eventually(lambda: 'in_flight{pipeline="drips"} 1' in server.client.get("/metrics").text)
        else:
            assert connection.recv(9).startswith(b"HTTP/1.1 "), kind
            assert json.dumps(connection.recv(3).decode()) == '"200"'
        server.serve("app", KEEPER, version=f"new {kind}", gone=str(tmp_path / "new"))
        server.eventually((tmp_path / "old").exists, "the old wrapper to be freed")
