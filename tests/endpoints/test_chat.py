"""OpenAI chat completions, by the bytes and by the official client."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server import LiveServer, eventually

HEAD = """
import asyncio, json, time
from pathlib import Path

from haystack import Pipeline
from haystack.components.agents import Agent
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage, StreamingChunk

from hayhooks import BasePipelineWrapper, async_streaming_generator, get_last_user_message, streaming_generator


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("llm", MockChatGenerator("one two three"))

    DEF
"""

SYNC = "def run_chat_completion(self, model, messages, body):\n    "
ASYNC = "async def run_chat_completion_async(self, model, messages, body):\n    "
MESSAGES: Any = [{"role": "user", "content": "hello"}]


def method(definition: str) -> str:
    return HEAD.replace("DEF", definition.replace("\n", "\n    "))


def serve(server: LiveServer, definition: str, **constants: Any) -> None:
    server.serve("it", method(definition), **constants)


def ask(server: LiveServer, path: str = "/v1/chat/completions", **body: Any) -> Any:
    return server.client.post(path, json={"model": "it", "messages": MESSAGES, **body})


def events(text: str) -> list[Any]:
    """The JSON of each event; the framing is checked on the way."""
    assert text.endswith("data: [DONE]\n\n")
    parts = text.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def content(chunks: list[Any]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


KINDS = {
    "def returns a string": SYNC + "return 'one two three'",
    "def returns a ChatMessage": SYNC + "return ChatMessage.from_assistant('one two three')",
    "def yields": SYNC + "yield from ['one ', 'two ', 'three']",
    "def returns a generator": SYNC + "return (word for word in ['one ', 'two ', 'three'])",
    "async def returns a string": ASYNC + "return 'one two three'",
    "async def yields": ASYNC + "yield 'one '\n    yield 'two '\n    yield 'three'",
    "async def returns an async generator": (
        ASYNC + "return self.words()\nasync def words(self):\n    yield 'one two '\n    yield 'three'"
    ),
    "async def returns a generator": ASYNC + "return (word for word in ['one ', 'two ', 'three'])",
    "chunks": SYNC + "yield StreamingChunk('one two three')\n    yield StreamingChunk('', finish_reason='stop')",
    "streaming_generator": SYNC
    + "return streaming_generator(self.pipeline, pipeline_run_args={'messages': [ChatMessage.from_user('x')]})",
    "async_streaming_generator": ASYNC
    + "return async_streaming_generator(self.pipeline, pipeline_run_args={'messages': [ChatMessage.from_user('x')]})",
    "an Agent": ASYNC
    + "return async_streaming_generator(Agent(chat_generator=MockChatGenerator('one two three')), "
    + "pipeline_run_args={'messages': [ChatMessage.from_user('x')]})",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_method_answers_whole_and_streamed(server: LiveServer, kind: str):
    serve(server, KINDS[kind])

    whole = ask(server, stream=False).json()
    (choice,) = whole["choices"]
    assert choice["message"] == {"role": "assistant", "content": "one two three"}
    assert (choice["finish_reason"], choice["index"]) == ("stop", 0)
    assert (whole["object"], whole["model"], whole["usage"]) == ("chat.completion", "it", None)

    chunks = events(ask(server, stream=True).text)
    assert content(chunks) == "one two three"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:])
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert not any("message" in chunk["choices"][0] or "usage" in chunk for chunk in chunks)


def test_the_bytes_on_the_wire_are_those_that_clients_split(server: LiveServer):
    serve(server, SYNC + "yield 'a'")
    response = ask(server, stream=True)

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert b"\r" not in response.content
    lines = {line.partition(b":")[0] for line in response.content.split(b"\n") if line}
    assert lines == {b"data"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/it/chat"])
def test_the_three_paths_answer_alike(server: LiveServer, path: str):
    serve(server, SYNC + "return model")

    assert ask(server, path).json()["choices"][0]["message"]["content"] == "it"


def test_on_a_pipelines_own_path_the_path_decides_the_model(server: LiveServer):
    serve(server, SYNC + "return json.dumps([model, body['model']])")
    for body in ({"messages": MESSAGES}, {"messages": MESSAGES, "model": "other"}):
        answer = server.client.post("/it/chat", json=body).json()
        assert answer["choices"][0]["message"]["content"] == '["it", "it"]'


@pytest.mark.parametrize("definition", [SYNC + "yield from ()", SYNC + "return ''", ASYNC + "return\n    yield"])
def test_an_empty_answer_has_a_role_a_finish_and_an_end(server: LiveServer, definition: str):
    serve(server, definition)

    first, last = [chunk["choices"][0] for chunk in events(ask(server, stream=True).text) if chunk["choices"][0]][::1][
        -2:
    ]
    assert (first["finish_reason"], last["finish_reason"], last["delta"]) == (None, "stop", {})
    assert ask(server).json()["choices"][0]["message"]["content"] == ""


def test_the_pipelines_own_finish_reason_is_told(server: LiveServer):
    serve(server, SYNC + "yield StreamingChunk('cut', finish_reason='length')")

    assert events(ask(server, stream=True).text)[-1]["choices"][0]["finish_reason"] == "length"
    assert ask(server).json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    "definition",
    [
        SYNC + "raise ValueError('it broke')",
        SYNC + "raise ValueError('it broke')\n    yield",
        ASYNC + "raise ValueError('it broke')",
        ASYNC + "raise ValueError('it broke')\n    yield",
        SYNC + "raise SystemExit('it broke')",
        ASYNC + "raise SystemExit('it broke')",
        SYNC + "return 7 # it broke",
        SYNC + "yield 7 # it broke",
        SYNC + "return None # it broke",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_at_once_is_500_and_not_to_be_retried(server: LiveServer, definition: str, stream: bool):
    serve(server, definition)
    response = ask(server, stream=stream)

    assert response.status_code == 500
    assert response.headers["x-should-retry"] == "false"
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, None)
    assert response.json()["detail"] == error["message"]
    assert "it broke" in error["message"] or "cannot be made of" in error["message"]


@pytest.mark.parametrize("how", ["raise ValueError('it broke')", "yield 7"])
@pytest.mark.parametrize("define", [SYNC, ASYNC])
def test_an_error_in_mid_stream_is_an_event_and_no_finish(server: LiveServer, define: str, how: str):
    serve(server, define + f"yield 'one'\n    {how}")
    *chunks, error = events(ask(server, stream=True).text)

    assert content(chunks) == "one"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert "choices" not in error
    assert error["error"]["type"] == "server_error"
    assert ask(server, stream=False).status_code == 500


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b"[]", None),
        (b"null", None),
        (b'{"messages": [{"role": "user"}]}', "model"),
        (b'{"model": 7, "messages": [{"role": "user"}]}', "model"),
        (b'{"model": "it"}', "messages"),
        (b'{"model": "it", "messages": []}', "messages"),
        (b'{"model": "it", "messages": "hello"}', "messages"),
        (b'{"model": "it", "messages": [1]}', "messages[0]"),
        (b'{"model": "it", "messages": [{"role": "user"}], "stream": "yes"}', "stream"),
    ],
)
def test_a_bad_body_is_400_and_names_the_field(server: LiveServer, body: bytes, param: str | None):
    serve(server, SYNC + "return 'never'")
    response = server.client.post("/v1/chat/completions", content=body, headers={"Origin": "http://a"})

    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert (param or "") in error["message"]
    assert response.headers["access-control-allow-origin"] == "*"


def test_an_unknown_model_is_404_and_named(server: LiveServer):
    response = ask(server, model="nothing")

    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "nothing" in error["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/it/chat"])
def test_a_pipeline_that_cannot_chat_is_501(server: LiveServer, path: str):
    serve(server, "def run_api(self): pass")
    response = ask(server, path)

    assert (response.status_code, response.headers["x-should-retry"]) == (501, "false")
    assert "error" in response.json()
    assert server.state("it")["endpoints"] == ["/it/run"]


def test_get_is_405_with_the_error_object(server: LiveServer):
    response = server.client.get("/v1/chat/completions", headers={"Origin": "http://a"})

    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert response.json()["error"]["message"] == response.json()["detail"] == "Method Not Allowed"
    assert response.headers["access-control-allow-origin"] == "*"


def test_what_the_client_sends_reaches_the_wrapper_unchanged(server: LiveServer):
    serve(server, SYNC + "return json.dumps(body)")
    messages = [
        {"role": "system", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "b"}}]},
        {"role": "odd", "extra": {"deep": [1]}},
    ]
    body = {"model": "it", "messages": messages, "temperature": 0.5, "unknown": {"x": "y" * 100_000}, "stream": None}
    response = server.client.post("/v1/chat/completions", json=body, headers={"Authorization": "Bearer any"})

    assert json.loads(response.json()["choices"][0]["message"]["content"]) == body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "definition",
    [
        ASYNC + "try:\n        await asyncio.sleep(60)\n    finally:\n        Path(CLOSED).touch()",
        ASYNC + "try:\n        yield 'x'\n        await asyncio.sleep(60)\n    finally:\n        Path(CLOSED).touch()",
    ],
)
def test_a_client_that_goes_away_cancels_async_work(server: LiveServer, tmp_path: Path, definition: str, stream: bool):
    closed = tmp_path / "closed"
    serve(server, definition.replace("try:", "Path(CLOSED + '.began').touch()\n    try:"), closed=str(closed))
    go_away(server, stream, tmp_path / "closed.began")

    eventually(closed.exists)
    deployment = server.app.switch.live.snapshot.deployments["it"]
    eventually(lambda: not deployment.leases.held)


def test_a_client_that_goes_away_stops_a_sync_pipeline_at_its_next_chunk(server: LiveServer, tmp_path: Path):
    closed = tmp_path / "closed"
    definition = (
        SYNC + "try:\n        while True:\n            Path(CLOSED + '.began').touch()\n            yield 'x'\n"
        "            time.sleep(0.01)\n    finally:\n        Path(CLOSED).touch()"
    )
    serve(server, definition, closed=str(closed))
    go_away(server, True, tmp_path / "closed.began")

    eventually(closed.exists)
    deployment = server.app.switch.live.snapshot.deployments["it"]
    eventually(lambda: not deployment.leases.held)


def go_away(server: LiveServer, stream: bool, began: Path) -> None:
    """Ask, and close the connection when the work has begun."""
    body = json.dumps({"model": "it", "messages": MESSAGES, "stream": stream}).encode()
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        eventually(began.exists)


def test_the_openai_client_chats_streams_and_raises_the_right_errors(server: LiveServer):
    serve(server, ASYNC + "yield 'one '\n    yield get_last_user_message(messages)")
    server.serve("broken", method(ASYNC + "yield 'one'\n    raise ValueError('it broke')"))
    server.serve("mute", method("def run_api(self): pass"))
    with openai.OpenAI(base_url=server.url + "/v1", api_key="any") as client:
        whole = client.chat.completions.create(model="it", messages=MESSAGES)
        assert whole.choices[0].message.content == "one hello"
        stream = client.chat.completions.create(model="it", messages=MESSAGES, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "one hello"
        with client.chat.completions.stream(model="it", messages=MESSAGES) as helper:
            assert helper.get_final_completion().choices[0].message.content == "one hello"

        assert [model.id for model in client.models.list()] == ["broken", "it"]
        assert client.models.retrieve("it").created > 0
        with pytest.raises(openai.NotFoundError, match="nothing"):
            client.chat.completions.create(model="nothing", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="it", messages=[])
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="mute", messages=MESSAGES)
        with pytest.raises(openai.APIError, match="it broke"):
            list(client.chat.completions.create(model="broken", messages=MESSAGES, stream=True))
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("mute")


def test_the_async_openai_client_chats_and_streams(server: LiveServer):
    serve(server, SYNC + "yield 'one '\n    yield 'two'")

    async def chat() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="any") as client:
            create: Any = client.chat.completions.create
            whole = await create(model="it", messages=MESSAGES)
            stream = await create(model="it", messages=MESSAGES, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(pieces)

    assert asyncio.run(chat()) == ("one two", "one two")
