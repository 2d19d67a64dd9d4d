"""Run it with pytest."""

from datetime import date, timedelta
from pathlib import Path

import pytest

import hayhooks.testing


@pytest.fixture(scope="module")
def client():
    with hayhooks.testing.client(Path(__file__).parent) as client:
        yield client


def test_it_calculates_with_its_tools(client):
    assert client.run(question="What is 17 * 3?") == "That makes 51."
    assert client.run(question=f"Days until {date.today() + timedelta(days=9)}?") == "That makes 9."


def test_its_tool_calls_are_events_and_not_the_clients(client):
    answer = client.chat("What is 17 * 3?", stream=True)

    assert answer.text == "That makes 51."
    assert answer.tool_calls == []
    assert answer.finish_reason == "stop"
    assert "multiply" in answer.events[0]["data"]["description"]
    assert answer.usage["total_tokens"] > 0


def test_a_conversation_goes_on(client):
    conversation = [
        {"role": "user", "content": "What is 17 * 3?"},
        {"role": "assistant", "content": "That makes 51."},
        {"role": "user", "content": "And 51 * 2?"},
    ]

    assert client.chat(conversation).text == "That makes 102."
