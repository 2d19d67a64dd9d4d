"""Run it with pytest."""

from pathlib import Path

import pytest

import hayhooks.testing


@pytest.fixture(scope="module")
def client():
    with hayhooks.testing.client(Path(__file__).parent) as client:
        yield client


def test_what_is_uploaded_can_be_asked(client):
    rules = b"# Dogs\n\nDogs are welcome on the ground floor.\n\n# Meals\n\nBreakfast is from 7 to 9.\n"
    assert client.run(files=[("rules.md", rules), ("note.txt", b"The key is with the neighbours.")]) == {
        "rules.md": 2,
        "note.txt": 1,
    }

    answer = client.chat("Are dogs welcome?", stream=True)

    assert "ground floor" in answer.text
    assert answer.sources[0]["source"]["name"] == "rules.md"
    assert answer.usage["total_tokens"] > 0


def test_a_file_of_the_same_name_is_replaced(client):
    client.run(files=[("weather.txt", b"It rains.")])
    client.run(files=[("weather.txt", b"The sun shines.")])

    assert "It rains" not in client.chat("Who says that it rains, or that the sun shines?").text


def test_a_file_that_is_no_text_is_refused(client):
    response = client.post(f"/{client.name}/run", files={"files": ("photo.jpg", b"\xff\xd8\xff")})

    assert response.status_code == 415
    assert response.json()["detail"] == "photo.jpg is not a text in UTF-8"


def test_a_chat_without_a_question_is_refused(client):
    response = client.post("/v1/chat/completions", json={"model": client.name, "messages": [{"role": "user"}]})

    assert response.status_code == 400
    assert "there is no question" in response.json()["error"]["message"]
