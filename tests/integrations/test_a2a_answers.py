"""What agents make of answers that are no text, of wrappers of the other API, and of too many tasks."""

from pathlib import Path

import pytest
from a2a.client import Client
from a2a.types import CancelTaskRequest, Part, Task
from google.protobuf.json_format import MessageToDict

from hayhooks.integrations import a2a_server
from tests.integrations.a2a_client import all_of, request, send, state_of, text_of, with_client
from tests.live_server import LiveServer, SharedServer
from tests.wrappers import source

RESPONDS = """
from hayhooks import BasePipelineWrapper

class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_response(self, model, input_items, body):
        return f"{len(input_items)} items"
"""


@pytest.fixture
def server(shared_server: SharedServer) -> LiveServer:
    return shared_server


def parts_of(task: Task) -> list[Part]:
    """The parts of all artifacts."""
    return [part for artifact in task.artifacts for part in artifact.parts]


def test_answers_that_are_no_text(server: LiveServer) -> None:
    """A response of the wrapper's own is data, a text or a file; calls of tools are data; nothing is an empty text."""
    server.serve("it", source("odd_answers"))
    url = f"{server.url}/it"
    assert [MessageToDict(part.data) for part in parts_of(send(url, "json"))] == [{"a": [1]}]
    assert [part.text for part in parts_of(send(url, "text"))] == ["plain"]
    assert [part.text for part in parts_of(send(url, "no json"))] == ["{"]
    assert [(part.raw, part.media_type) for part in parts_of(send(url, "image"))] == [(b"\x89PNG", "image/png")]
    assert [part.text for part in parts_of(send(url, "empty"))] == [""]
    (calls, text) = parts_of(send(url, "calls"))
    (call,) = MessageToDict(calls.data)["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Berlin"}'}
    assert text.text == ""

    for asked, reason in (("refused", "not today"), ("artifact", "must have an A2A artifact")):
        task = send(url, asked)
        assert state_of(task) == "failed"
        assert reason in task.status.message.parts[0].text


def test_a_wrapper_that_only_responds_is_an_agent(server: LiveServer) -> None:
    server.serve("it", RESPONDS)
    assert text_of(send(f"{server.url}/it", "hello")) == "1 items"


def test_beyond_the_limit_a_task_is_rejected(
    server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks run on without their clients, so their number has a limit; one that has ended makes room."""
    monkeypatch.setattr(a2a_server, "MAX_RUNNING", 1)
    server.serve("it", source("agent"), gate=str(tmp_path / "gate"))

    async def talk(client: Client) -> list[Task]:
        (running,) = await all_of(client.send_message(request("wait", returns_at_once=True)))
        (rejected,) = await all_of(client.send_message(request("hello")))
        await client.cancel_task(CancelTaskRequest(id=running.task.id))
        (answered,) = await all_of(client.send_message(request("hello")))
        return [rejected.task, answered.task]

    rejected, answered = with_client(f"{server.url}/it", talk, streaming=False)
    assert state_of(rejected) == "rejected"
    assert text_of(rejected) == "This server runs 1 tasks already, and no more"
    assert state_of(answered) == "completed"
