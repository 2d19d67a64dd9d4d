"""Agents of A2A, by the official client: cards, messages, tasks."""

import pytest

from tests.integrations.a2a_client import send, state_of, stream, text_of
from tests.live_server import LiveServer, SharedServer
from tests.wrappers import source

AGENT = source("agent")
CARD = ".well-known/agent-card.json"


@pytest.fixture
def server(shared_server: SharedServer) -> LiveServer:
    return shared_server


@pytest.fixture
def agent(server: LiveServer, tmp_path) -> str:
    """The URL of an agent, "it"."""
    server.serve("it", AGENT, gate=str(tmp_path / "gate"))
    return f"{server.url}/it"


def test_a_card_tells_of_the_agent(server: LiveServer, agent: str) -> None:
    """In the shape of protocol 1.0, and in that of 0.3 for older clients."""
    card = server.client.get(f"/it/{CARD}").json()
    assert (card["name"], card["description"], card["version"]) == ("it", "Answers.", server.state("it")["revision"])
    assert card["capabilities"] == {"streaming": True, "pushNotifications": False}
    assert card["supportedInterfaces"][0]["url"] == card["url"] == f"{agent}/a2a"
    assert [skill["description"] for skill in card["skills"]] == ["Answers."]


def test_a_message_is_answered_by_a_task(agent: str) -> None:
    task = send(agent, "hello")
    assert (state_of(task), text_of(task)) == ("completed", "you said hello ")
    assert [len(artifact.parts) for artifact in task.artifacts] == [1]


def test_a_stream_follows_the_states(agent: str) -> None:
    kinds = [response.WhichOneof("payload") for response in stream(agent, "hello")]
    assert kinds[0] == "task"
    assert kinds[1] == kinds[-1] == "status_update"
    assert "artifact_update" in kinds[2:-1]
