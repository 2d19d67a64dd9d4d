"""OpenAI chat completions, by the bytes and by the official client."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from hayhooks import Settings, create_app
from hayhooks.http import responses
from tests.live_server import LiveServer, eventually, serving
from tests.logs import logged
from tests.openai.apis import asked, go_away, leases, method

SYNC = "def run_chat_completion(self, model, messages, body):\n    "
ASYNC = "async def run_chat_completion_async(self, model, messages, body):\n    "
MESSAGES: Any = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"
BODY = {"model": "it", "messages": MESSAGES}


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


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


NO_COUNTS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
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
    "Pipeline.stream": ASYNC + "return self.pipeline.stream({'llm': {'messages': [ChatMessage.from_user('x')]}})",
    "def returns an iterator": SYNC + "return map(str.lower, ['ONE ', 'TWO ', 'THREE'])",
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
    assert (whole["object"], whole["model"], whole["usage"]) == ("chat.completion", "it", NO_COUNTS)

    chunks = events(ask(server, stream=True).text)
    assert content(chunks) == "one two three"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:])
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert not any("message" in chunk["choices"][0] or "usage" in chunk for chunk in chunks)


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


def test_stream_is_in_the_body_whether_the_client_sends_it_or_not(server: LiveServer):
    serve(server, SYNC + "return json.dumps(body['stream'])")

    assert ask(server).json()["choices"][0]["message"]["content"] == "false"
    assert ask(server, stream=None).json()["choices"][0]["message"]["content"] == "null"
    assert content(events(ask(server, stream=True).text)) == "true"


def test_a_wrapper_that_changes_its_body_does_not_change_the_kind_of_answer(server: LiveServer):
    serve(server, SYNC + "del body['stream']\n    return 'a'")

    assert content(events(ask(server, stream=True).text)) == "a"


CALLS = """yield StreamingChunk('', index=0, tool_calls=[ToolCallDelta(0, 'add', '{"a": 1, ', 'c1')])
    rest = ToolCallDelta(0, arguments='"b": 2}')
    yield StreamingChunk('', index=0, tool_calls=[rest], finish_reason='tool_calls')"""
CALLED = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}


@pytest.mark.parametrize(
    "definition",
    [
        SYNC + "yield 'let me see'\n    " + CALLS,
        SYNC + "return ChatMessage.from_assistant('let me see', tool_calls=[ToolCall('add', {'a': 1, 'b': 2}, 'c1')])",
        ASYNC + "yield {'role': 'assistant', 'content': 'let me see', 'tool_calls': " + repr([CALLED]) + "}",
        ASYNC
        + "yield 'let me see'\n    yield {'choices': [{'delta': {'tool_calls': "
        + repr([{**CALLED, "index": 3}])
        + "}, 'finish_reason': 'tool_calls'}]}",
    ],
)
def test_pending_tool_calls_are_the_clients_to_make(server: LiveServer, definition: str):
    serve(server, definition)

    (choice,) = ask(server).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "let me see", "tool_calls": [CALLED]}
    assert choice["finish_reason"] == "tool_calls"

    *_, text, calls, last = events(ask(server, stream=True).text)
    assert text["choices"][0]["delta"] == {"content": "let me see"}
    assert calls["choices"][0]["delta"] == {"tool_calls": [{"index": 0, **CALLED}]}
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "tool_calls")


def test_a_message_of_tool_calls_alone_has_no_content(server: LiveServer):
    serve(server, SYNC + CALLS)

    message = ask(server).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": None, "tool_calls": [CALLED]}


AGENT = """
    model = MockChatGenerator([
        ChatMessage.from_assistant("I add.", tool_calls=[ToolCall("add", {"a": 1, "b": 2}, "c1")]),
        ChatMessage.from_assistant("It is three."),
    ])
    agent = Agent(chat_generator=model, tools=[add])
    return %s(agent, pipeline_run_args={"messages": [ChatMessage.from_user("1 + 2?")]})
"""


@pytest.mark.parametrize(
    "definition", [SYNC + AGENT % "streaming_generator", ASYNC + AGENT % "async_streaming_generator"]
)
def test_an_agents_own_tool_calls_are_not_the_clients(server: LiveServer, definition: str):
    serve(server, definition)

    (choice,) = ask(server).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "I add.It is three."}
    assert choice["finish_reason"] == "stop"
    chunks = events(ask(server, stream=True).text)
    assert content(chunks) == "I add.It is three."
    assert not any("tool_calls" in chunk["choices"][0]["delta"] for chunk in chunks)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]


def test_reasoning_is_told_beside_the_content(server: LiveServer):
    reason = "StreamingChunk('', index=0, reasoning=ReasoningContent('%s'))"
    serve(server, SYNC + f"yield {reason % 'hm '}\n    yield {reason % 'yes'}\n    yield 'answer'")

    message = ask(server).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "answer", "reasoning_content": "hm yes"}
    deltas = [chunk["choices"][0]["delta"] for chunk in events(ask(server, stream=True).text)]
    assert deltas[1:] == [{"reasoning_content": "hm "}, {"reasoning_content": "yes"}, {"content": "answer"}, {}]


COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_usage_is_told_where_it_is_asked_for(server: LiveServer):
    serve(server, SYNC + f"yield 'a'\n    yield StreamingChunk('', meta={{'usage': {COUNTS}}})")

    assert ask(server).json()["usage"] == COUNTS
    assert not any("usage" in chunk for chunk in events(ask(server, stream=True).text))
    for options in (None, {}, {"include_usage": False}):
        assert not any("usage" in chunk for chunk in events(ask(server, stream=True, stream_options=options).text))
    *chunks, last = events(ask(server, stream=True, stream_options={"include_usage": True}).text)
    assert (last["choices"], last["usage"]) == ([], COUNTS)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert not any("usage" in chunk for chunk in chunks)


@pytest.mark.parametrize(
    "answer", ["'a'", "{'content': 'a'}", "{'choices': [{'message': {'content': 'a'}}], 'usage': None}"]
)
def test_usage_that_nobody_told_is_zeros(server: LiveServer, answer: str):
    """Clients read ``usage.total_tokens`` without asking whether there is a usage."""
    serve(server, SYNC + f"yield {answer}")

    assert ask(server).json()["usage"] == NO_COUNTS
    last = events(ask(server, stream=True, stream_options={"include_usage": True}).text)[-1]
    assert (last["choices"], last["usage"]) == ([], NO_COUNTS)


@pytest.mark.parametrize(
    "event",
    [
        "{'type': 'status', 'data': {'description': 'searching'}}",
        "type('PipelineEvent', (), {'type': 'status', 'data': {'description': 'searching'}})()",
    ],
)
def test_events_for_the_ui_are_chunks_without_a_choice(server: LiveServer, event: str):
    serve(server, SYNC + f"yield {event}\n    yield 'answer'")

    role, shown, text, last = events(ask(server, stream=True).text)
    assert shown.pop("event") == {"type": "status", "data": {"description": "searching"}}
    assert shown == {**role, "choices": []}
    assert content([role, text, last]) == "answer"
    assert ask(server).json()["choices"][0]["message"] == {"role": "assistant", "content": "answer"}


def test_an_event_that_cannot_be_sent_is_an_error_that_says_why(server: LiveServer):
    serve(server, SYNC + "yield 'a'\n    yield {'type': 'status', 'data': object()}\n    yield 'b'")

    *chunks, error = events(ask(server, stream=True).text)
    assert content(chunks) == "a"
    assert "object" in error["error"]["message"]


def test_headers_are_given_to_a_method_that_asks_for_them(server: LiveServer):
    define = "def run_chat_completion(self, model, messages, body, headers: Headers | None = None):\n    "
    server.serve("it", "from starlette.datastructures import Headers\n" + method(define + "return headers['x-me']"))
    response = server.client.post(CHAT, json=BODY, headers={"X-Me": "you"})

    assert response.json()["choices"][0]["message"]["content"] == "you"


def test_a_response_of_a_wrappers_own_is_sent_as_it_is(server: LiveServer):
    head = "from starlette.exceptions import HTTPException\nfrom starlette.responses import PlainTextResponse\n"
    server.serve("it", head + method(SYNC + "return PlainTextResponse('mine', 202)"))
    response = ask(server)
    assert (response.status_code, response.text) == (202, "mine")

    server.serve("it", head + method(SYNC + "raise HTTPException(418, 'no coffee')"))
    for stream in (False, True):
        response = ask(server, stream=stream)
        assert (response.status_code, response.json()["error"]["message"]) == (418, "no coffee")


def test_a_model_that_failed_to_load_is_503_and_says_why(server: LiveServer):
    server.write("broken", "import nothing_of_this_name")
    server.eventually(lambda: server.state("broken")["state"] == "failed")
    response = ask(server, model="broken")

    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_not_ready")
    assert "nothing_of_this_name" in response.json()["detail"]


def test_a_chunk_is_sent_for_each_item_but_none_for_empty_ones(server: LiveServer):
    serve(server, SYNC + "yield from ['a', '', 'b', 'c']\n    yield StreamingChunk('')")

    deltas = [chunk["choices"][0]["delta"] for chunk in events(ask(server, stream=True).text)]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
        {"content": "c"},
        {},
    ]


def test_a_whole_completion_of_a_wrapper_is_the_answer(server: LiveServer):
    made = {
        "id": "chatcmpl-1",
        "choices": [
            {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": {}}
            for index, text in enumerate(["a", "b"])
        ],
        "usage": COUNTS,
        "system_fingerprint": "x",
    }
    serve(server, SYNC + f"return {made}")

    answer = ask(server).json()
    assert made.items() <= answer.items()
    assert (answer["object"], answer["model"]) == ("chat.completion", "it")
    assert content(events(ask(server, stream=True).text)) == "a"


def test_text_that_utf8_cannot_hold_is_escaped(server: LiveServer):
    serve(server, SYNC + "yield 'a\\ud83d'\n    yield '\\ude00'")

    assert content(events(ask(server, stream=True).text)) == "a\ud83d\ude00"
    assert ask(server).json()["choices"][0]["message"]["content"] == "a\U0001f600"


def test_text_that_ends_lines_elsewhere_does_not_end_them_here(server: LiveServer):
    text = "a\r\n\x0b\x85\u2028\u2029\u2019b"
    serve(server, SYNC + f"yield {text!r}")

    streamed = ask(server, stream=True).text
    assert len(streamed.splitlines()) == len(streamed.split("\n")) - 1
    assert content(events(streamed)) == text


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
        {"role": "user", "content": ""},
        {"role": "user"},
        {"role": "assistant", "content": None},
        {"role": "oracle", "content": "hello"},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "tool_calls": [{"function": {}}]},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_messages_that_haystack_cannot_read_are_the_clients_fault(server: LiveServer, message: Any, stream: bool):
    serve(server, SYNC + "yield ChatMessage.from_openai_dict_format(messages[0]).role.value")
    response = ask(server, messages=[message], stream=stream)

    if response.status_code == 200:  # newer versions of Haystack read more
        assert message["role"] in response.text
        return
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "messages")
    assert "messages" in error["message"]


def test_what_a_wrapper_raises_after_reading_messages_is_its_own_fault(server: LiveServer):
    serve(server, SYNC + "ChatMessage.from_openai_dict_format(messages[0])\n    raise ValueError('mine')")

    assert ask(server).status_code == 500


def test_an_answer_that_never_waits_lets_others_have_their_turn(server: LiveServer):
    serve(server, ASYNC + "while True:\n        yield ''")
    with asked(server, CHAT, {**BODY, "stream": True}):
        eventually(lambda: leases(server) == 1)
        assert server.status()["status"] == "Up!"
    eventually(lambda: leases(server) == 0)


def test_a_client_that_leaves_while_it_sends_is_no_failure(server: LiveServer):
    serve(server, SYNC + "return 'never'")
    with logged("INFO", deploys=False) as lines:
        with server.connected() as connection:
            connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        eventually(lambda: lines)

    assert lines == [f"INFO POST {CHAT} was cancelled: the request was incomplete"]


def test_middleware_of_the_application_changes_nothing_of_it(root: Path, tmp_path: Path):
    app = create_app(Settings(pipelines_dir=root))

    @app.middleware("http")
    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    wait = "for _ in range(10):\n        await asyncio.sleep(0.01)\n        yield 'x'\n    Path(BEGAN).touch()\n    "
    with serving(root, app) as server, logged("INFO", deploys=False) as lines:
        serve(server, ASYNC + wait + "await asyncio.sleep(PAUSE)", began=str(tmp_path / "any"), pause=0)
        assert content(events(ask(server, stream=True).text)) == ask(server).json()["choices"][0]["message"]["content"]
        lines.clear()
        for stream in (False, True):
            began = tmp_path / str(stream)
            serve(server, ASYNC + wait + "await asyncio.sleep(PAUSE)", began=str(began), pause=60)
            go_away(server, CHAT, {**BODY, "stream": stream}, began)
            eventually(lambda: lines and lines.pop() == f"INFO POST {CHAT} was cancelled: the client went away")
            eventually(lambda: leases(server) == 0)


def test_silence_is_broken_by_comments(server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(responses, "_PING_S", 0.05)
    serve(server, ASYNC + "yield 'a'\n    await asyncio.sleep(0.5)\n    yield 'b'")
    text = ask(server, stream=True).text

    assert ": keep-alive\n\n" in text
    assert content(events(text.replace(": keep-alive\n\n", ""))) == "ab"


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
