"""``hayhooks mcp``: over stdin and stdout, as the official client starts it; and without the extra."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp_types import ToolListChangedNotification

from tests.cli import processes
from tests.cli.commands import hayhooks
from tests.integrations.mcp_client import DEADLINE_S, ERAS, text_of
from tests.live_server import SharedServer, eventually, replace, serving
from tests.network import free_port
from tests.wrappers import source

COMMAND = [sys.executable, "-m", "hayhooks", "mcp"]
PRINTS = (
    source("tool")
    .replace("        pass", "        print('made')")
    .replace("        if not luck", "        print('called')\n        if not luck")
)

both_eras = pytest.mark.parametrize("mode", ERAS)


def talk(arguments: list[str], root: Path, mode: Any) -> list[Any]:
    """List the tools, call one, and hear of a change, over stdin and stdout."""
    parameters = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], *arguments], cwd=str(root.parent))
    heard = asyncio.Event()

    async def handle(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            heard.set()

    async def wait_for_change(client: Client) -> None:
        if mode == "legacy":
            heard.clear()
            replace(root / "tool" / "more.py", "")
            await heard.wait()
            return
        async with client.listen(tools_list_changed=True) as changes:
            replace(root / "tool" / "more.py", "")
            await anext(aiter(changes))

    async def connect() -> list[Any]:
        client = Client(parameters, mode=mode, cache=None, message_handler=handle)
        async with asyncio.timeout(DEADLINE_S), client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            result = await client.call_tool("tool", {"numbers": [1, 2]})
            wrong = await client.call_tool("tool", {})
            await wait_for_change(client)
            return [names, result.structured_content, text_of(wrong)]

    return asyncio.run(connect())


FOUND = [["tool", "list_pipelines", "pipeline_status"], {"total": 3, "count": 2}, "numbers: Field required"]


@pytest.mark.slow
@both_eras
def test_run_serves_the_directory_itself(root: Path, mode: str) -> None:
    """What wrappers print is not taken for a message."""
    replace(root / "tool" / "pipeline_wrapper.py", PRINTS)
    assert talk(["run", "--pipelines-dir", str(root)], root, mode) == FOUND


@pytest.mark.slow
@both_eras
def test_connect_is_a_bridge_to_a_server(shared_server: SharedServer, mode: str) -> None:
    shared_server.serve("tool", source("tool"))
    shared_server.eventually(lambda: shared_server.status()["pipelines"] in (["tool"], ["it", "tool"]))
    names, *rest = talk(["run", "--connect", shared_server.url], shared_server.root, mode)
    assert [set(names) - {"it"}, *rest] == [set(FOUND[0]), *FOUND[1:]]


@pytest.mark.slow
def test_a_signal_ends_it_at_once(root: Path) -> None:
    """Though its stdin is open."""
    command = [*COMMAND, "run", "--pipelines-dir", str(root)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        lines: list[str] = []
        threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True).start()
        eventually(lambda: any("There are no pipelines" in line for line in lines), "it to serve")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_connect_says_why_it_cannot(root: Path, tmp_path: Path) -> None:
    """Nobody answers, or the server refuses the key: the client that has started it could not tell."""
    with serving(root, api_keys=["0123456789abcdef0123"]) as server:
        for url, reason in (
            ("http://127.0.0.1:1", "No answer from http://127.0.0.1:1/mcp"),
            (server.url, f"{server.url}/mcp answers with 401: "),
        ):
            command = [*COMMAND, "run", "--connect", url, "--api-key", "wrong"]
            found = subprocess.run(command, stdin=-3, capture_output=True, text=True, check=False, cwd=tmp_path)
            assert found.returncode == 1
            assert found.stderr.startswith(f"Error: {reason}")
            assert "Traceback" not in found.stderr


@pytest.mark.slow
@both_eras
def test_connect_outlives_a_restart_of_the_server(root: Path, mode: str) -> None:
    """A call meanwhile is an error that names the URL; then the tools are there, and a client of 2025 hears of them."""
    replace(root / "tool" / "pipeline_wrapper.py", source("tool"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    parameters = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], "run", "--connect", url])
    heard = asyncio.Event()

    async def handle(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            heard.set()

    async def connect(servers: ExitStack) -> None:
        async with asyncio.timeout(DEADLINE_S), Client(parameters, mode=mode, message_handler=handle) as client:
            assert not (await client.call_tool("tool", {"numbers": [1, 2]})).is_error
            first.app.begin_stop()  # ends the stream of notices
            await asyncio.to_thread(servers.close)
            for _ in range(2):
                with pytest.raises(MCPError, match=f"No answer from {url}/mcp: ConnectError"):
                    await client.call_tool("tool", {"numbers": [1, 2]})
            heard.clear()
            await asyncio.to_thread(servers.enter_context, serving(root, port=port))
            if mode == "legacy":
                await heard.wait()
            result = await client.call_tool("tool", {"numbers": [1, 2]})
            assert result.structured_content == {"total": 3, "count": 2}

    with ExitStack() as servers:
        first = servers.enter_context(serving(root, port=port))
        asyncio.run(connect(servers))


def test_config_prints_the_entries_of_clients(tmp_path: Path) -> None:
    every = hayhooks("mcp", "config", cwd=tmp_path, PORT="8000", API_KEYS="0123456789abcdef0123")
    for name in ("claude-desktop", "claude-code", "cursor", "vscode"):
        assert name in every.stderr
    assert "http://127.0.0.1:8000/mcp" in every.stdout
    assert "0123456789abcdef0123" not in every.stdout

    one = json.loads(hayhooks("mcp", "config", "vscode", cwd=tmp_path, ROOT_PATH="/ai").stdout)
    assert one == {"servers": {"hayhooks": {"type": "http", "url": "http://127.0.0.1:1416/ai/mcp"}}}
    desktop = json.loads(hayhooks("mcp", "config", "claude-desktop", cwd=tmp_path).stdout)
    assert desktop["mcpServers"]["hayhooks"]["args"][-1] == str(tmp_path / "pipelines")


def test_run_has_no_address(tmp_path: Path) -> None:
    """As the original's has."""
    found = hayhooks("mcp", "run", "--port", "1417", cwd=tmp_path)
    assert found.returncode == 2
    assert "over HTTP the tools are at /mcp of hayhooks run" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("run --connect 127.0.0.1:21416", "begin it with http:// or https://, as http://127.0.0.1:21416"),
        ("run --connect http://127.0.0.1:1 --pipelines-dir .", "With --connect the tools are the server's"),
        ("run --api-key x", "--api-key is the key for the server of --connect URL"),
        ("run --pipelines-dir missing", "missing does not exist: create it, or give another --pipelines-dir"),
        ("run --pipelines-dir pipelines/it", "is the folder of one pipeline: give its parent, --pipelines-dir"),
        ("config claude-desktop --port 8000", "leave out --host, --port"),
        ("config cursor --pipelines-dir pipelines", "leave out --pipelines-dir"),
    ],
)
def test_mistakes_are_named(root: Path, arguments: str, reason: str) -> None:
    """None is ignored, and no directory is made."""
    replace(root / "it" / "pipeline_wrapper.py", source("tool"))
    found = hayhooks("mcp", *arguments.split(), cwd=root.parent)
    assert found.returncode in (1, 2)
    assert reason in " ".join(found.stderr.split())
    assert not (root.parent / "missing").exists()


def test_a_start_that_fails_says_why(root: Path) -> None:
    # In a process of its own, for the command leaves its end of stdin open.
    found = processes.hayhooks(
        "mcp", "run", "--pipelines-dir", str(root), cwd=root.parent, API_KEYS_FILE="/nonexistent"
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert "HAYHOOKS_API_KEYS_FILE=/nonexistent: No such file or directory" in found.stderr


MISSING = """
import sys
sys.modules["mcp_types"] = sys.modules["mcp"] = None
from starlette.testclient import TestClient
from hayhooks import Settings, create_app
from hayhooks.cli import main

with TestClient(create_app(Settings(pipelines_dir="."))) as client:
    answer = client.post("/mcp", json={})
    print(answer.status_code, answer.json()["detail"])
main(["mcp", "run"])
"""


def test_without_the_extra_it_is_named(tmp_path: Path) -> None:
    """Over HTTP and on the command line."""
    command = [sys.executable, "-c", MISSING]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    needed = 'MCP needs an extra: pip install "hayhooks[mcp]"'
    assert found.stdout == f"501 {needed}\n"
    assert f"Error: {needed}" in found.stderr
    assert found.returncode == 1


def test_the_sdk_is_not_imported_before_a_client_comes(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom starlette.testclient import TestClient\nfrom hayhooks import Settings, create_app\n"
        "with TestClient(create_app(Settings(pipelines_dir='.'))) as client:\n"
        "    client.get('/status')\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('mcp', 'mcp_types')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout == "[]\n"
