"""Clients are told of changes, sessions are bounded, and open streams do not hold up a stop."""

import asyncio
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client
from mcp.client.subscriptions import ToolsListChanged
from mcp_types import ToolListChangedNotification

from hayhooks.integrations import mcp_sessions
from tests.cli.processes import started
from tests.integrations.mcp_client import with_client
from tests.live_server import LiveServer, SharedServer, eventually, serving
from tests.wrappers import source

ACCEPT = {"Accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


@pytest.fixture
def server(shared_server: SharedServer) -> LiveServer:
    return shared_server


def begin_session(client: httpx.Client) -> str:
    """Begin a session as clients of 2025 do; return its id."""
    answer = client.post("/mcp", json=INITIALIZE, headers=ACCEPT)
    assert answer.status_code == 200, answer.text
    session = answer.headers["mcp-session-id"]
    client.post("/mcp", json=INITIALIZED, headers={**ACCEPT, "mcp-session-id": session})
    return session


def list_tools(client: httpx.Client, session: str) -> httpx.Response:
    """List the tools in a session."""
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    return client.post("/mcp", json=message, headers={**ACCEPT, "mcp-session-id": session})


def test_a_client_of_2026_hears_of_changes(server: LiveServer) -> None:
    """A deploy, an edit and a removal; what fails to load changes nothing."""

    async def listen(client: Client) -> list[set[str]]:
        seen: list[set[str]] = []

        async def next_change(change: Any) -> None:
            await asyncio.to_thread(change)
            assert isinstance(await anext(events), ToolsListChanged)
            seen.append({tool.name for tool in (await client.list_tools()).tools if "_" not in tool.name})

        async with client.listen(tools_list_changed=True) as changes:
            events = aiter(changes)
            await next_change(lambda: server.write("new", answer="1"))
            await next_change(lambda: server.write("new", answer="2"))
            await next_change(lambda: server.remove("new"))
        return seen

    server.serve("it", answer="")
    assert with_client(server.url, listen) == [{"it", "new"}, {"it", "new"}, {"it"}]


def test_a_client_of_2025_hears_of_changes(server: LiveServer) -> None:
    heard = asyncio.Queue[str]()

    async def handle(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            heard.put_nowait(message.method)

    async def listen(client: Client) -> set[str]:
        capabilities = client.server_capabilities
        assert capabilities.tools is not None
        assert capabilities.tools.list_changed
        deadline = time.monotonic() + 60
        number = 0
        while heard.empty():  # the stream of the session opens by itself
            assert time.monotonic() < deadline
            server.write("new", answer=number)
            number += 1
            await asyncio.sleep(0.2)
        return {tool.name for tool in (await client.list_tools()).tools}

    assert "new" in with_client(server.url, listen, "legacy", message_handler=handle)


def test_a_change_is_heard_of_at_once(server: LiveServer) -> None:
    """Within 50 ms of its publication, on a machine with nothing else to do; the median of five has to be near that."""

    async def listen(client: Client) -> None:
        took: list[float] = []
        async with client.listen(tools_list_changed=True) as changes:
            events = aiter(changes)
            while len(took) < 5 or statistics.median(took[-5:]) >= 0.25:
                assert len(took) < 50, took
                published: list[float] = []
                with server.app.hooks.use(on_publish=lambda _, at=published: at.append(time.monotonic())):
                    await asyncio.to_thread(server.write, "new", answer=str(len(took)))
                    await anext(events)
                    took.append(time.monotonic() - published[-1])

    with_client(server.url, listen)


def test_a_session_ends_by_itself_where_there_are_too_many(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was idle for longest; one that has a stream open stays."""
    monkeypatch.setattr(mcp_sessions, "MAX_SESSIONS", 3)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        followed = begin_session(client)
        with client.stream("GET", "/mcp", headers={**ACCEPT, "mcp-session-id": followed}) as stream:
            assert stream.status_code == 200
            sessions = [begin_session(client) for _ in range(4)]
            found = [list_tools(client, session).status_code for session in (followed, *sessions)]
    assert found == [200, 404, 404, 200, 200]


def test_an_idle_session_ends(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_sessions, "IDLE_S", -10.0)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        first = begin_session(client)
        second = begin_session(client)
        assert [list_tools(client, each).status_code for each in (first, second)] == [404, 200]


def test_a_new_session_does_not_end_one_that_has_only_begun(server: LiveServer) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        begun = [client.post("/mcp", json=INITIALIZE, headers=ACCEPT).headers["mcp-session-id"] for _ in range(3)]
        assert [list_tools(client, session).status_code for session in begun] == [200, 200, 200]


def test_an_unknown_session_is_a_404(server: LiveServer) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert list_tools(client, "0" * 32).status_code == 404
        session = begin_session(client)
        ended = client.delete("/mcp", headers={**ACCEPT, "mcp-session-id": session})
        assert (ended.status_code, list_tools(client, session).status_code) == (200, 404)


def test_a_session_belongs_to_its_key(root: Path) -> None:
    keys = root.parent / "keys"
    keys.write_text("ada:0123456789abcdef0123:call\nbob:abcdef0123456789abcd:call")
    with serving(root, api_keys_file=keys) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        client.headers["Authorization"] = "Bearer 0123456789abcdef0123"
        session = begin_session(client)
        assert list_tools(client, session).status_code == 200
        server.client.headers["Authorization"] = "Bearer 0123456789abcdef0123"
        headers = {**ACCEPT, "mcp-session-id": session}
        with client.stream("GET", "/mcp", headers=headers) as notices:
            other = {**headers, "Authorization": "Bearer abcdef0123456789abcd"}
            with httpx.Client(base_url=server.url, timeout=60, headers=other) as another:
                assert list_tools(another, session).status_code == 404
            server.write("new", answer="1")
            assert any("tools/list_changed" in line for line in notices.iter_lines())  # its owner still hears of them


@pytest.fixture
def stopping(root: Path) -> Iterator[LiveServer]:
    with serving(root) as server:
        yield server


def test_open_streams_do_not_hold_up_a_stop(stopping: LiveServer, tmp_path: Path) -> None:
    """The streams of notices of both eras end at once, in order; a call that runs may end."""
    stopping.serve("it", source("waits"), gate=str(tmp_path / "gate"))
    ended: list[str] = []

    async def listen_2026(client: Client) -> None:
        async with client.listen(tools_list_changed=True) as changes:
            begun.release()
            async for _ in changes:
                pass
        ended.append("2026")

    async def follow_2025() -> None:
        async with httpx.AsyncClient(base_url=stopping.url, timeout=60) as client:
            answer = await client.post("/mcp", json=INITIALIZE, headers=ACCEPT)
            headers = {**ACCEPT, "mcp-session-id": answer.headers["mcp-session-id"]}
            async with client.stream("GET", "/mcp", headers=headers) as stream:
                begun.release()
                async for _ in stream.aiter_bytes():
                    pass
            ended.append("2025")

    async def call(client: Client) -> Any:
        return (await client.call_tool("it", {"number": 7})).structured_content

    begun = threading.Semaphore(0)
    with ThreadPoolExecutor() as pool:
        streams = [
            pool.submit(with_client, stopping.url, listen_2026),
            pool.submit(asyncio.run, follow_2025()),
        ]
        calls = [pool.submit(with_client, stopping.url, call, mode) for mode in ("auto", "legacy")]
        for _ in streams:
            assert begun.acquire(timeout=60)
        stopping.eventually((tmp_path / "gate-begun-7").exists)
        stopping.app.begin_stop()
        for stream in streams:
            stream.result(timeout=60)
        assert set(ended) == {"2025", "2026"}
        (tmp_path / "gate").touch()
        assert [each.result(timeout=60) for each in calls] == [{"result": 7}, {"result": 7}]


@pytest.mark.slow
def test_a_signal_lets_calls_end(root: Path, tmp_path: Path) -> None:
    """In a process of its own, for clients of both eras."""
    (root / "it").mkdir()
    (root / "it/pipeline_wrapper.py").write_text(f"GATE = {str(tmp_path / 'gate')!r}\n" + source("waits"))

    async def call(client: Client, number: int) -> Any:
        await client.list_tools()  # else the client asks for the output schema afterwards
        return (await client.call_tool("it", {"number": number})).structured_content

    with started(tmp_path, "run", "--pipelines-dir", str(root)) as process, ThreadPoolExecutor() as pool:
        calls = [
            pool.submit(with_client, process.url, partial(call, number=number), mode)
            for number, mode in enumerate(("auto", "legacy"))
        ]
        for number in range(2):
            eventually((tmp_path / f"gate-begun-{number}").exists)
        process.process.send_signal(signal.SIGTERM)
        process.prints("stopping waits")
        (tmp_path / "gate").touch()
        assert [each.result(timeout=60) for each in calls] == [{"result": 0}, {"result": 1}]
        assert process.process.wait(timeout=60) == 0


@pytest.mark.slow
def test_no_call_fails_while_a_deployment_is_overwritten(server: LiveServer) -> None:
    """A hundred times, under clients of both eras that call all the time."""
    server.serve("it", answer="0")
    done = threading.Event()

    async def call_until_done(client: Client) -> list[str]:
        answers, is_last = [], False
        while not is_last:
            is_last = done.is_set()  # this call begins after the last overwrite
            result = await client.call_tool("it", {})
            assert not result.is_error, result
            answers.append(result.structured_content["result"])
        return answers

    with ThreadPoolExecutor() as pool:
        calling = [
            pool.submit(with_client, server.url, call_until_done, mode, deadline_s=300) for mode in ("auto", "legacy")
        ]
        try:
            for number in range(1, 101):
                server.serve("it", answer=str(number))
        finally:
            done.set()
        for answers in (each.result(timeout=60) for each in calling):
            assert answers[-1] == "100"
            assert answers == sorted(answers, key=int)
            assert len(set(answers)) > 10
