"""Run it with pytest."""

from pathlib import Path

import pytest

import hayhooks.testing


@pytest.fixture(scope="module")
def client():
    with hayhooks.testing.client(Path(__file__).parent) as client:
        yield client


def test_an_answer_comes_with_its_sources(client):
    result = client.run(question="Are dogs welcome?", top_k=2)

    assert "ground floor" in result["answer"]
    assert result["sources"][0]["file"] == "house_rules.md"


def test_a_stream_sends_the_sources_first(client):
    answer = client.chat("Are dogs welcome?", stream=True)

    assert "ground floor" in answer.text
    assert answer.sources[0]["source"]["name"] == "house_rules.md"
    assert answer.usage["total_tokens"] > 0
    assert "event" in answer.chunks[1]  # the first one says who speaks


@pytest.mark.parametrize(("then", "about"), [("And on Sundays?", "Breakfast"), ("And dogs?", "ground floor")])
def test_a_second_question_is_read_with_the_first(client, then, about):
    conversation = [
        {"role": "user", "content": "When is breakfast?"},
        {"role": "assistant", "content": "From 7 to 9."},
        {"role": "user", "content": then},
    ]

    assert about in client.chat(conversation).text


def test_what_the_documents_do_not_say(client):
    assert client.chat("Zebras?").text == "The documents do not say."


def test_a_chat_without_a_question_is_refused(client):
    response = client.post("/v1/chat/completions", json={"model": client.name, "messages": [{"role": "user"}]})

    assert response.status_code == 400
    assert "there is no question" in response.json()["error"]["message"]
