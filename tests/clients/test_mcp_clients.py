"""Clients of MCP that cannot live beside ours: mcp 1.x, fastmcp, and those of npm."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import npm_with, python_with, ran
from tests.live_server import LiveServer, replace, serving
from tests.wrappers import source

HERE = Path(__file__).parent / "mcp_clients"
TOOLS = {"tool", "stream", "waits", "list_pipelines", "pipeline_status"}
SUM = {"total": 3, "count": 2}
NO_LUCK = [True, "Pipeline execution failed: ValueError: no luck today"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with three tools."""
    root: Path = tmp_path_factory.mktemp("tools")
    gate = root.parent / "tools-gate"
    gate.touch()
    replace(root / "tool/pipeline_wrapper.py", source("tool"))
    replace(root / "tool/README.md", "# Adds")
    replace(root / "stream/pipeline_wrapper.py", f"GATE = {str(gate)!r}\n" + source("gated_stream"))
    replace(root / "waits/pipeline_wrapper.py", f"GATE = {str(gate.with_name('never'))!r}\n" + source("waits"))
    with serving(root) as server:
        server.eventually(lambda: len(server.status()["pipelines"]) == 3)
        yield server


@pytest.fixture(scope="module")
def npm() -> Path:
    """A folder with the packages of npm."""
    return npm_with(HERE)


def test_the_last_client_of_1_x(server: LiveServer) -> None:
    """List, call, structured output, progress, cancel, list_changed and resources, over HTTP and stdio."""
    python = python_with("mcp==1.30.0")
    command = [sys.executable, "-m", "hayhooks", "mcp", "run", "--pipelines-dir", str(server.root)]
    for found in json.loads(ran(python, HERE / "mcp_1.py", server.url, server.root, *command)):
        assert found["version"] == "2025-11-25"
        assert set(found["tools"]) == TOOLS
        assert found["structured"] == SUM
        assert found["error"] == NO_LUCK
        assert (found["stream"][0], "".join(found["stream"][1])) == ("first second", "first second")
        assert "Timed out" in found["timeout"]
        assert found["resources"] == ["hayhooks://stream/schema.json", "hayhooks://tool/README.md"]
        assert found["readme"] == "# Adds"
        assert found["changed"]
    server.eventually((server.root.parent / "gate-cancelled-1").exists)


def test_fastmcp(server: LiveServer) -> None:
    found = json.loads(ran(python_with("fastmcp==4.2.3"), HERE / "fast_mcp.py", server.url))
    assert set(found["tools"]) == TOOLS
    assert found["structured"] == SUM
    assert "numbers" in found["error"]
    assert (found["stream"][0], "".join(found["stream"][1])) == ("first second", "first second")
    assert found["readme"] == "# Adds"


def test_the_typescript_client(server: LiveServer, npm: Path) -> None:
    found = json.loads(ran("node", "check.mjs", server.url, str(server.root), cwd=npm))
    assert set(found["tools"]) == TOOLS
    assert found["structured"] == SUM
    assert found["error"] == NO_LUCK
    assert (found["stream"][0], "".join(found["stream"][1])) == ("first second", "first second")
    assert "abort" in found["cancelled"].lower()
    assert found["readme"] == "# Adds"
    assert found["changed"]
    server.eventually((server.root.parent / "gate-cancelled-3").exists)


def test_the_command_line_of_the_inspector(server: LiveServer, npm: Path) -> None:
    def inspect(*arguments: str) -> Any:
        command = ["npx", "--no-install", "@modelcontextprotocol/inspector", "--cli", f"{server.url}/mcp"]
        return json.loads(ran(*command, "--transport", "http", *arguments, cwd=npm))

    assert {tool["name"] for tool in inspect("--method", "tools/list")["tools"]} == TOOLS
    call = ["--method", "tools/call", "--tool-name", "tool", "--tool-arg", "numbers=[1,2]"]
    assert inspect(*call)["structuredContent"] == SUM
