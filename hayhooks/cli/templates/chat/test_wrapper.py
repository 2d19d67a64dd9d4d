"""Run it with pytest."""

from pathlib import Path

import pytest

import hayhooks.testing


@pytest.fixture(scope="module")
def client():
    with hayhooks.testing.client(Path(__file__).parent) as client:
        yield client


def test_an_answer_is_the_same_streamed_and_whole(client):
    whole, streamed = client.chat("Who are you?"), client.chat("Who are you?", stream=True)

    assert whole.text.startswith("You asked: Who are you?")
    assert streamed.text == whole.text
    assert streamed.usage["total_tokens"] > 0


def test_a_conversation_goes_on(client):
    first = client.chat("Who are you?")
    conversation = [
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "And who am I?"},
    ]

    assert "That was question 2" in client.chat(conversation).text


def test_one_question_is_answered_as_text(client):
    assert client.run(question="Who are you?").startswith("You asked: Who are you?")
