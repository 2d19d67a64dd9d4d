"""Agents beside the rest of the server: without the extra, at its start and stop, under deploys, behind a prefix."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from a2a.client import Client
from a2a.types import GetTaskRequest, TaskState

from tests.cli.processes import started
from tests.integrations.a2a_client import all_of, connected, request, send, state_of, text_of
from tests.live_server import LiveServer, also_at, serving
from tests.wrappers import source

AGENT = source("agent")

MISSING = """
import sys
sys.modules["a2a"] = None
from starlette.testclient import TestClient
from hayhooks import Settings, create_app

with TestClient(create_app(Settings(pipelines_dir="."))) as client:
    while client.get("/status/it").status_code != 200:
        pass
    for path in ("/it/.well-known/agent-card.json", "/a2a/agents", "/.well-known/agent-card.json"):
        answer = client.get(path)
        print(answer.status_code, answer.json()["detail"])
    for path in ("/it/a2a", "/it/"):
        answer = client.post(path, json={})
        print(answer.status_code, answer.json()["detail"])
print("a2a" in sys.modules and sys.modules["a2a"])
"""

AT_REST = """
import sys
from starlette.testclient import TestClient
from hayhooks import Settings, create_app

with TestClient(create_app(Settings(pipelines_dir="."))) as client:
    while client.get("/status/it").status_code != 200:
        pass
    client.post("/it/chat", json={"messages": [{"role": "user", "content": "hello"}]}).raise_for_status()
    print([name for name in sys.modules if name.partition(".")[0] in ("a2a", "google")])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has the agent "it", which waits for the file "gate" beside it."""
    (tmp_path / "it").mkdir()
    (tmp_path / "it/pipeline_wrapper.py").write_text(f"GATE = {str(tmp_path / 'gate')!r}\n{AGENT}")
    return tmp_path


def printed(code: str, cwd: Path) -> str:
    """What *code* prints in a process of its own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd, timeout=60).stdout


def test_without_the_extra_it_is_named(folder: Path) -> None:
    assert printed(MISSING, folder) == '501 A2A needs an extra: pip install "hayhooks[a2a]"\n' * 5 + "None\n"


def test_the_sdk_is_not_imported_before_a_client_comes(folder: Path) -> None:
    assert printed(AT_REST, folder) == "[]\n"


def test_a_card_has_the_urls_that_its_client_can_reach(own_server: LiveServer) -> None:
    """Behind a proxy that strips a prefix."""
    own_server.serve("it", AGENT, gate="")
    with also_at(own_server.app, root_path="/ai") as url:
        cards = httpx.get(f"{url}/a2a/agents").json()["agents"]
        assert cards[0]["url"] == f"{url}/ai/it/a2a"
        proxied = {"Host": "agents.example", "X-Forwarded-Proto": "https"}
        card = httpx.get(f"{url}/it/.well-known/agent-card.json", headers=proxied).json()
        assert card["url"] == "https://agents.example/ai/it/a2a"
        assert text_of(send(f"{url}/ai/it", "hello")) == "you said hello "


def test_failed_tasks_roll_a_revision_back(root: Path) -> None:
    """Only the requests to the pipeline count: those of JSON-RPC that carry them are answered."""
    with serving(root, trial_seconds=60) as server:
        server.serve("it", AGENT, gate="")
        good = server.state("it")["revision"]
        server.serve("it", AGENT.replace("answer(messages, body)", "answer(no_such_name)"), gate="")
        states = [state_of(send(f"{server.url}/it", "hello")) for _ in range(5)]
        assert states == ["failed"] * 5
        server.eventually(
            lambda: server.client.get("/it/schema").headers["x-hayhooks-revision"] == good, "the rollback"
        )
        assert state_of(send(f"{server.url}/it", "hello")) == "completed"


@pytest.mark.slow
def test_a_hundred_overwrites_lose_no_message(own_server: LiveServer) -> None:
    """Clients that send and stream all the time get whole answers, of one revision or the next."""
    own_server.serve("it", AGENT, gate="")
    done = threading.Event()
    answered = [0, 0]

    async def talk(streaming: bool) -> None:
        async with connected(f"{own_server.url}/it", streaming=streaming, deadline_s=60) as client:
            while not done.is_set():
                responses = await all_of(client.send_message(request("hello")))
                task_id = responses[0].task.id
                task = await client.get_task(GetTaskRequest(id=task_id))
                assert state_of(task) == "completed", task
                assert text_of(task).startswith("you said hello")
                answered[streaming] += 1

    async def talk_in_both_ways() -> None:
        await asyncio.gather(talk(False), talk(True))

    with ThreadPoolExecutor(1) as pool:
        talking = pool.submit(lambda: asyncio.run(talk_in_both_ways()))
        try:
            for index in range(100):
                own_server.serve("it", AGENT.replace("messages[-1]['content']", f"'hello in {index}'"), gate="")
        finally:
            done.set()
        talking.result(timeout=60)
    assert min(answered) > 10


@pytest.mark.parametrize("ends_in_time", [True, False])
def test_a_stop_waits_for_streams_within_the_graceful_timeout(folder: Path, ends_in_time: bool) -> None:
    """Those that end by then are whole; then the tasks are cancelled."""
    (folder / "pipelines").mkdir()
    (folder / "it").rename(folder / "pipelines/it")

    async def states(client: Client) -> list[int]:
        found: list[int] = []
        async for response in client.send_message(request("wait")):
            found.append(response.status_update.status.state)
            if response.HasField("artifact_update"):
                begun.release()
        return found

    async def follow() -> Sequence[list[int] | BaseException]:
        async with connected(f"{process.url}/it") as one, connected(f"{process.url}/it") as other:
            following = asyncio.gather(states(one), states(other), return_exceptions=True)
            for _ in range(2):
                await asyncio.to_thread(begun.acquire)
            process.process.send_signal(signal.SIGTERM)
            if ends_in_time:
                await asyncio.to_thread(process.prints, "Waiting for connections to close")
                await asyncio.to_thread((folder / "gate").touch)
            return await following

    begun = threading.Semaphore(0)
    timeout_s = "20" if ends_in_time else "1"
    with started(folder, "run", GRACEFUL_SHUTDOWN_TIMEOUT=timeout_s) as process:
        httpx.get(f"{process.url}/status/it")
        found = asyncio.run(follow())
        assert process.process.wait(timeout=60) == 0
    if ends_in_time:
        assert [each[-1] for each in found if isinstance(each, list)] == [TaskState.TASK_STATE_COMPLETED] * 2
    else:
        assert (folder / "closed").exists()
