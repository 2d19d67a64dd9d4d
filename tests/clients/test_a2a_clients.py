"""Clients of A2A that cannot live beside ours: the last one of a2a-sdk 0.3, and the TypeScript SDK."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.environments import npm_with, python_with, ran
from tests.live_server import LiveServer, replace, serving
from tests.wrappers import source

HERE = Path(__file__).parent / "a2a_clients"
HELLO = "you said hello "
NO_LUCK = "ValueError: no luck at all"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with an agent, whose gate stays closed."""
    root: Path = tmp_path_factory.mktemp("agents")
    replace(root / "it/pipeline_wrapper.py", f"GATE = {str(root.parent / 'gate')!r}\n" + source("agent"))
    with serving(root) as server:
        server.eventually(lambda: server.status()["pipelines"])
        yield server


def test_the_last_client_of_0_3(server: LiveServer) -> None:
    """Card, send, stream, get, cancel, and an error."""
    found = json.loads(ran(python_with("a2a-sdk==0.3.26"), HERE / "a2a_0.py", f"{server.url}/it"))
    assert found == {
        "card": ["it", "0.3", True],
        "sent": ["completed", HELLO, None],
        "streamed": ["completed", HELLO, True],
        "task": True,
        "cancelled": "canceled",
        "failed": ["failed", NO_LUCK],
    }


def test_the_typescript_client(server: LiveServer) -> None:
    """It resolves the card's path from the URL, which ends with a slash."""
    assert json.loads(ran("node", "check.mjs", f"{server.url}/it/", cwd=npm_with(HERE))) == {
        "sent": ["TASK_STATE_COMPLETED", HELLO],
        "streamed": ["TASK_STATE_COMPLETED", HELLO],
        "task": True,
        "cancelled": "TASK_STATE_CANCELED",
        "failed": ["TASK_STATE_FAILED", NO_LUCK],
    }
