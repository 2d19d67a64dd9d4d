"""Responses that are stored: in the background, retrieved, streamed again, canceled, deleted; with OpenAI's client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.live_server import LiveServer, eventually, serving

SLOW = """
import asyncio
from pathlib import Path
from hayhooks import BasePipelineWrapper, get_last_user_input_text

class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_response_async(self, model, input_items, body):
        text = get_last_user_input_text(input_items)
        if text == "how many":
            return str(len(input_items))
        if text == "fail":
            raise ValueError("no such page")
        async def words():
            for number, word in enumerate(text.split()):
                while number == 2 and not Path(GATE).exists():
                    await asyncio.sleep(0.01)
                yield word + " "
        return words()
"""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, gate: Path) -> Iterator[LiveServer]:
    root = tmp_path_factory.mktemp("pipelines")
    state = tmp_path_factory.mktemp("state")
    with serving(root, state_dir=str(state), durable_poll_ms=50, durable_concurrency=4) as server:
        server.serve("it", SLOW, gate=str(gate))
        yield server


@pytest.fixture
def client(stored: LiveServer, gate: Path) -> Iterator[openai.OpenAI]:
    gate.unlink(missing_ok=True)
    with openai.OpenAI(base_url=f"{stored.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_response_in_the_background_is_retrieved(client: openai.OpenAI, gate: Path):
    response = client.responses.create(model="it", input="a b c", background=True)
    eventually(lambda: client.responses.retrieve(response.id).status == "in_progress")
    gate.touch()
    eventually(lambda: client.responses.retrieve(response.id).status == "completed")
    done = client.responses.retrieve(response.id)

    assert (response.status, response.background, response.output) == ("queued", True, [])
    assert (done.id, done.background, done.output_text, done.model) == (response.id, True, "a b c ", "it")
    assert done.created_at == response.created_at
    items = client.responses.input_items.list(response.id).data
    assert items[0].content[0].text == "a b c"  # type: ignore[union-attr, index]


def test_a_stream_goes_on_where_its_client_left(client: openai.OpenAI, gate: Path):
    stream = client.responses.create(model="it", input="a b c d", background=True, stream=True)
    seen = []
    for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta" and event.delta == "b ":
            break
    stream.close()  # which cancels nothing
    gate.touch()
    response_id = next(event.response.id for event in seen if event.type == "response.created")
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number))
    again = list(client.responses.retrieve(response_id, stream=True))

    assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
    numbers = [event.sequence_number for event in (*seen, *rest)]
    assert numbers == list(range(len(numbers)))
    assert [event.sequence_number for event in again] == numbers
    text = "".join(event.delta for event in (*seen, *rest) if event.type == "response.output_text.delta")
    assert text == "a b c d "
    assert (rest[-1].type, rest[-1].response.id) == ("response.completed", response_id)  # type: ignore[union-attr]


def test_the_clients_own_reader_of_streams_goes_on(client: openai.OpenAI, gate: Path):
    gate.touch()
    with client.responses.stream(model="it", input="a b c d", background=True) as stream:
        response_id = next(event.response.id for event in stream if event.type == "response.created")
        first = next(event for event in stream if event.type == "response.output_text.delta")
    with client.responses.stream(response_id=response_id, starting_after=first.sequence_number) as rest:
        events = list(rest)

    assert events[0].sequence_number > first.sequence_number
    assert events[-1].type == "response.completed"
    assert (events[-1].response.id, events[-1].response.output_text) == (response_id, "a b c d ")


def test_input_items_have_pages(client: openai.OpenAI):
    items: Any = [{"role": "user", "content": str(number)} for number in range(25)]
    response = client.responses.create(model="it", input=items, store=True)

    def contents(**query: Any) -> list[Any]:
        listed: Any = client.responses.input_items.list(response.id, **query)
        return [item.content for item in listed]

    numbers = [str(number) for number in range(25)]
    page = client.responses.input_items.list(response.id)
    assert (len(page.data), page.has_more) == (20, True)
    assert contents() == numbers[::-1]
    assert contents(order="asc", limit=10) == numbers
    for query in ({"limit": 0}, {"after": "nobody"}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError, match=next(iter(query))):
            contents(**query)


def test_a_streamed_answer_is_stored_before_its_end_is_told(client: openai.OpenAI):
    *_, last = client.responses.create(model="it", input="a b", store=True, stream=True)
    assert last.type == "response.completed"
    stored = client.responses.retrieve(last.response.id)
    after = client.responses.create(model="it", input="how many", previous_response_id=stored.id)

    assert (stored.output_text, stored.status, after.output_text) == ("a b ", "completed", "3")


@pytest.mark.parametrize("length", [100_000, 450_000])
def test_a_long_answer_comes_whole(client: openai.OpenAI, length: int):
    events = list(client.responses.create(model="it", input="x" * length, background=True, stream=True))

    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "x" * length + " "
    assert sum(len(event.delta) for event in events if event.type == "response.output_text.delta") == length + 1


def test_a_response_is_canceled_and_deleted(client: openai.OpenAI, gate: Path):
    response = client.responses.create(model="it", input="a b c", background=True)
    eventually(lambda: client.responses.retrieve(response.id).status == "in_progress")

    assert client.responses.cancel(response.id).status == "cancelled"
    eventually(lambda: client.responses.retrieve(response.id).status == "cancelled")
    assert client.responses.cancel(response.id).status == "cancelled"
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError) as error:
        client.responses.retrieve(response.id)
    assert error.value.code == "response_not_found"


def test_a_failure_is_told(client: openai.OpenAI):
    response = client.responses.create(model="it", input="fail", background=True)
    eventually(lambda: client.responses.retrieve(response.id).status == "failed")
    failed = client.responses.retrieve(response.id)

    assert failed.error is not None
    assert "no such page" in failed.error.message
    with pytest.raises(openai.BadRequestError, match="cannot be streamed"):
        client.responses.retrieve(response.id, stream=True)


def test_a_whole_answer_is_stored_and_followed(client: openai.OpenAI):
    first = client.responses.create(model="it", input="a b", store=True)
    second = client.responses.create(model="it", input="how many", store=True, previous_response_id=first.id)
    third = client.responses.create(model="it", input="how many", previous_response_id=second.id)
    stored = client.responses.retrieve(first.id)

    assert (stored.output_text, stored.id) == ("a b ", first.id)
    assert (second.output_text, third.output_text) == ("3", "5")
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(first.id)
    client.responses.delete(first.id)


@pytest.mark.parametrize(
    ("body", "param"), [({"background": True, "store": False}, "store"), ({"background": "yes"}, "background")]
)
def test_what_cannot_be_stored_is_refused(stored: LiveServer, body: dict[str, object], param: str):
    answer = stored.client.post("/v1/responses", json={"model": "it", "input": "a", **body})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_deployment_has_the_same_paths(client: openai.OpenAI, stored: LiveServer):
    response = client.responses.create(model="it", input="a b", background=True)
    path = f"{stored.url}/it/responses/{response.id}"

    eventually(lambda: stored.client.get(path).json()["status"] == "completed")
    assert stored.client.get(f"{path}/input_items").json()["has_more"] is False
    assert stored.client.delete(path).json() == {"id": response.id, "object": "response", "deleted": True}
    assert stored.client.get(path).status_code == 404
