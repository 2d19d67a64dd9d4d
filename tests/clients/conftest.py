"""One server for all clients of a test process, with a model for everything that they do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live_server import LiveServer, replace, serving
from tests.wrappers import source

MODELS = {
    name: source(f"client_{name}") for name in ("words", "tools", "thinker", "failing", "midway", "keeper", "sources")
}
# It has the methods of one API alone.
MODELS["chats"] = MODELS["words"].partition("    async def run_response_async")[0]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that serves ``MODELS``."""
    root: Path = tmp_path_factory.mktemp("models")
    for name, wrapper in MODELS.items():
        replace(root / name / "pipeline_wrapper.py", wrapper)
    with serving(root) as server:
        server.eventually(lambda: server.status()["pipelines"] == sorted(MODELS))
        yield server


@pytest.fixture(scope="session")
def base_url(models: LiveServer) -> str:
    """What clients are told."""
    return f"{models.url}/v1"
