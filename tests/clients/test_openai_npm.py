"""The official npm package."""

import json
from pathlib import Path

import pytest

from tests.clients.conftest import MODELS, WEATHER
from tests.clients.environments import npm_with, ran

NPM = Path(__file__).parent / "npm"
SAID = "You said: hello"


@pytest.mark.slow
def test_everything_that_people_do_with_it(base_url: str):
    found = json.loads(ran("node", "check.mjs", base_url, json.dumps([WEATHER]), cwd=npm_with(NPM, required=True)))

    assert found["whole"] == [SAID, "stop", 7]
    assert (found["streamed"], found["usage"]) == (SAID, 7)
    assert (found["helper"], found["snapshots"]) == (SAID, 3)
    assert [(call["name"], json.loads(call["arguments"])) for call in found["calls"]] == [
        ("weather", {"city": "Berlin"})
    ]
    assert found["ran"] == "It is sunny."
    assert found["unknown"][:3] == ["NotFoundError", 404, "model_not_found"]
    assert found["bad"][:2] == ["BadRequestError", 400]
    for name in ("failing", "failingStream"):
        assert found[name][:2] == ["InternalServerError", 500]
        assert "no luck today" in found[name][3]
    assert found["before"] == "So far "
    assert found["midway"][0]
    assert "no luck today" in found["midway"][1]
    assert found["response"] == found["finalResponse"] == SAID
    assert found["events"] == ["response.created", "response.completed"]
    assert set(found["models"]) == set(MODELS) - {"keeper"}
    assert found["file"] == ["notes.txt", 10]
