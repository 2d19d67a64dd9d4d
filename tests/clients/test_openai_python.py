"""The official Python package, plain and asynchronous."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.clients.conftest import MODELS, WEATHER
from tests.live_server import LiveServer

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=base_url, api_key="not needed") as client:
        yield client


def test_a_whole_answer(client: OpenAI):
    completion = client.chat.completions.create(model="words", messages=HELLO)

    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "You said: hello")
    assert (choice.finish_reason, completion.model, completion.object) == ("stop", "words", "chat.completion")
    assert completion.usage is not None
    assert completion.usage.total_tokens == 7


@pytest.mark.parametrize("ask", [None, False, True])
def test_a_streamed_answer_with_usage_where_it_is_asked_for(client: OpenAI, ask: bool | None):
    options: Any = openai.omit if ask is None else {"include_usage": ask}
    chunks = list(client.chat.completions.create(model="words", messages=HELLO, stream=True, stream_options=options))

    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == "You said: hello"
    assert [choice.delta.role for chunk in chunks for choice in chunk.choices if choice.delta.role] == ["assistant"]
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    usages = [chunk.usage.total_tokens for chunk in chunks if chunk.usage]
    assert usages == ([7] if ask else [])


def test_the_stream_helper(client: OpenAI):
    with client.chat.completions.stream(model="words", messages=HELLO) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()

    assert "".join(deltas) == "You said: hello"
    assert final.choices[0].message.content == "You said: hello"


def test_the_stream_helper_with_tools(client: OpenAI):
    with client.chat.completions.stream(model="tools", messages=HELLO, tools=[WEATHER]) as stream:  # type: ignore[list-item]
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()

    assert [(event.name, json.loads(event.arguments)) for event in done] == [("weather", {"city": "Berlin"})]
    assert final.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_a_round_of_tools(client: OpenAI, stream: bool):
    messages: list[Any] = [{"role": "user", "content": "How is the weather?"}]
    tools: Any = [WEATHER]
    if stream:
        with client.chat.completions.stream(model="tools", messages=messages, tools=tools) as events:
            message: Any = events.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(model="tools", messages=messages, tools=tools).choices[0].message
    (call,) = message.tool_calls
    assert (call.id, call.type, call.function.name) == ("call_1", "function", "weather")

    messages += [message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    answer = client.chat.completions.create(model="tools", messages=messages, tools=tools)

    assert answer.choices[0].message.content == "It is sunny."


SOURCE = {
    "source": {"id": "d1", "name": "house.md"},
    "document": ["Breakfast is at eight"],
    "metadata": [{"file_path": "house.md", "name": "house.md", "source": "d1"}],
}
EVENTS = [
    {"type": "source", "data": SOURCE},
    {"type": "status", "data": {"description": "done", "done": True}},
]


def test_a_whole_answer_carries_its_sources_and_events(client: OpenAI):
    completion = client.chat.completions.create(model="sources", messages=HELLO)
    assert completion.choices[0].message.content == "At eight [1]"
    assert completion.model_extra == {"events": EVENTS}

    response = client.responses.create(model="sources", input="hello")
    assert response.output_text == "At eight [1]"
    assert response.to_dict()["events"] == EVENTS


def test_a_streamed_answer_carries_them_in_their_places(client: OpenAI):
    chunks = list(client.chat.completions.create(model="sources", messages=HELLO, stream=True))
    order = [chunk.model_extra["event"] if chunk.model_extra else chunk.choices[0].delta.content for chunk in chunks]
    assert order == ["", EVENTS[0], "At ", EVENTS[1], "eight [1]", None]

    with client.responses.stream(model="sources", input="hello") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().to_dict()["events"] == EVENTS


def test_an_answer_without_events_has_no_such_field(client: OpenAI):
    assert client.chat.completions.create(model="words", messages=HELLO).model_extra == {}
    assert "events" not in client.responses.create(model="words", input="hello").to_dict()


def test_reasoning(client: OpenAI):
    message = client.chat.completions.create(model="thinker", messages=HELLO).choices[0].message
    assert (message.content, message.to_dict()["reasoning_content"]) == ("Done.", "Let me think.")

    chunks = client.chat.completions.create(model="thinker", messages=HELLO, stream=True)
    deltas = [chunk.choices[0].delta.to_dict() for chunk in chunks if chunk.choices]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["Let me think."]


def test_errors_are_of_the_right_class_and_not_asked_for_again(client: OpenAI, models: LiveServer):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="words", messages=[])
    assert (bad.value.type, bad.value.param) == ("invalid_request_error", "messages")
    before = models.run("failing")
    with pytest.raises(openai.InternalServerError, match="no luck today"):
        client.chat.completions.create(model="failing", messages=HELLO)
    with pytest.raises(openai.InternalServerError, match="no luck today"):
        client.chat.completions.create(model="failing", messages=HELLO, stream=True)
    assert models.run("failing") == before + 2
    with pytest.raises(openai.InternalServerError) as missing:
        client.chat.completions.create(model="keeper", messages=HELLO)
    assert missing.value.status_code == 501
    stream = client.chat.completions.create(model="midway", messages=HELLO, stream=True)
    received = []
    with pytest.raises(openai.APIError, match="no luck today"):
        received += [chunk.choices[0].delta.content for chunk in stream]


def test_models(client: OpenAI):
    listed = {model.id: model.created for model in client.models.list()}
    assert set(listed) == set(MODELS) - {"keeper"}
    assert {model.id: model.created for model in client.models.list()} == listed
    assert client.models.retrieve("words").created == listed["words"]
    for name in ("nobody", "keeper"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(name)


def test_responses(client: OpenAI):
    response = client.responses.create(model="words", input="hello")
    assert (response.output_text, response.status) == ("You said: hello", "completed")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 4)

    events = list(client.responses.create(model="words", input=HELLO, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "You said: hello"

    with client.responses.stream(model="words", input="hello") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == "You said: hello"


def test_responses_with_tools_reasoning_and_errors(client: OpenAI):
    (call,) = client.responses.create(model="tools", input="hello").output
    assert call.type == "function_call"
    assert (call.call_id, call.name, json.loads(call.arguments)) == ("call_1", "weather", {"city": "Berlin"})

    thinking, message = client.responses.create(model="thinker", input="hello").output
    assert thinking.type == "reasoning"
    assert thinking.summary[0].text == "Let me think."
    assert message.type == "message"

    with pytest.raises(openai.InternalServerError, match="no luck today"):
        client.responses.create(model="failing", input="hello")
    *_, last = client.responses.create(model="midway", input="hello", stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "no luck today" in last.response.error.message


def test_files(client: OpenAI):
    file = client.files.create(file=("notes.txt", b"some notes"), purpose="user_data")
    assert (file.filename, file.bytes, file.purpose, file.object) == ("notes.txt", 10, "user_data", "file")
    assert file.id in [listed.id for listed in client.files.list()]
    assert client.files.retrieve(file.id).filename == "notes.txt"
    assert client.files.content(file.id).read() == b"some notes"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


async def _everything(base_url: str) -> list[Any]:
    async with AsyncOpenAI(base_url=base_url, api_key="not needed") as client:
        whole = await client.chat.completions.create(model="words", messages=HELLO)
        stream = await client.chat.completions.create(model="words", messages=HELLO, stream=True)
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        async with client.chat.completions.stream(model="words", messages=HELLO) as helper:
            async for _ in helper:
                pass
            final = await helper.get_final_completion()
        response = await client.responses.create(model="words", input="hello")
        models = [model.id async for model in client.models.list()]
        file = await client.files.create(file=("a.txt", b"a"), purpose="user_data")
        many = await asyncio.gather(
            *(client.chat.completions.create(model="words", messages=HELLO) for _ in range(20)),
        )
        return [
            whole.choices[0].message.content,
            "".join(texts),
            final.choices[0].message.content,
            response.output_text,
            "words" in models,
            file.filename,
            {completion.choices[0].message.content for completion in many},
        ]


def test_the_asynchronous_client(base_url: str):
    said = "You said: hello"
    assert asyncio.run(_everything(base_url)) == [said, said, said, said, True, "a.txt", {said}]


def test_a_stream_that_is_closed_early_leaves_the_client_usable(client: OpenAI):
    for _ in range(5):
        stream = client.chat.completions.create(model="words", messages=HELLO, stream=True)
        next(iter(stream))
        stream.close()
    assert client.chat.completions.create(model="words", messages=HELLO).choices[0].message.content


def test_the_path_of_one_deployment_is_a_client_of_its_own(models: LiveServer):
    """Whatever model the client names there."""
    body = {"model": "gpt-4o", "messages": HELLO}
    answer = models.client.post("/words/chat", json=body).json()

    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("words", "You said: hello")
