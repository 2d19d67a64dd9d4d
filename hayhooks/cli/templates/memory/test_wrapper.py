"""Run it with pytest."""

from pathlib import Path

import pytest

import hayhooks.testing


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMORY_DATABASE", str(tmp_path / "memory.sqlite"))


@pytest.fixture
def client(database):
    with hayhooks.testing.client(Path(__file__).parent) as client:
        yield client


def test_a_session_goes_on(client):
    client.run(session="anna", message="I like tea.")
    result = client.run(session="anna", message="What do I like?")

    assert result["reply"] == "You said 'What do I like?', and before that 'I like tea.'."
    assert result["messages"] == 4
    assert result["usage"]["total_tokens"] > 0


def test_sessions_know_nothing_of_each_other(client):
    client.run(session="anna", message="I like tea.")

    assert "tea" not in client.run(session="ben", message="What do I like?")["reply"]


def test_a_restart_forgets_nothing(database):
    for message in ("I like tea.", "What do I like?"):
        with hayhooks.testing.client(Path(__file__).parent) as client:
            reply = client.run(session="anna", message=message)["reply"]

    assert "I like tea." in reply


def test_a_client_may_keep_the_conversation(client):
    conversation = [
        {"role": "user", "content": "I like tea."},
        {"role": "assistant", "content": "Noted."},
        {"role": "user", "content": "What do I like?"},
    ]
    answer = client.chat(conversation, stream=True)

    assert "I like tea." in answer.text
    assert answer.usage["total_tokens"] > 0
