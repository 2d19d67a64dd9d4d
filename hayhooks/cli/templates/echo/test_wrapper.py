"""Run it with pytest."""

from pathlib import Path

import pytest

import hayhooks.testing


@pytest.fixture(scope="module")
def client():
    with hayhooks.testing.client(Path(__file__).parent) as client:
        yield client


def test_it_says_what_you_say(client):
    assert client.run(text="hello") == "You said: hello"


def test_it_needs_a_text(client):
    assert client.post(f"/{client.name}/run", json={}).status_code == 422
