"""OpenAI Responses, by the bytes and by the official client."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.live_server import LiveServer
from tests.openai.apis import method

SYNC = "def run_response(self, model, input_items, body):\n    "
ASYNC = "async def run_response_async(self, model, input_items, body):\n    "
PATH = "/v1/responses"
BODY = {"model": "it", "input": "hello"}

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


def serve(server: LiveServer, definition: str, **constants: Any) -> None:
    server.serve("it", method(definition), **constants)


def ask(server: LiveServer, path: str = PATH, **body: Any) -> Any:
    return server.client.post(path, json={**BODY, **body})


def whole(server: LiveServer, **body: Any) -> Any:
    """The response object, which the client's own type must accept to the letter."""
    answer = ask(server, **body).raise_for_status().json()
    Response.model_validate(answer, strict=True)
    return answer


def events(server: LiveServer, **body: Any) -> list[Any]:
    """The events of a streamed answer; framing, numbers and types are checked on the way."""
    text = ask(server, stream=True, **body).raise_for_status().text
    assert text.endswith("\n\n")
    found = []
    for number, part in enumerate(text.removesuffix("\n\n").split("\n\n")):
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        if event["type"] != "response.event":
            EVENT.validate_python(event, strict=True)
        found.append(event)
    return found


def types(found: list[Any]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in found]


TEXT = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done"]
REASONING = [
    "output_item.added",
    "reasoning_summary_part.added",
    "reasoning_summary_text.delta",
    "reasoning_summary_text.done",
    "reasoning_summary_part.done",
]
CALL = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done"]
DONE = ["output_item.done"]

KINDS = {
    "def returns a string": SYNC + "return 'one two three'",
    "def returns a ChatMessage": SYNC + "return ChatMessage.from_assistant('one two three')",
    "def yields": SYNC + "yield from ['one ', 'two ', 'three']",
    "async def returns a string": ASYNC + "return 'one two three'",
    "async def yields": ASYNC + "yield 'one '\n    yield 'two three'",
    "async def returns a generator": ASYNC + "return (word for word in ['one ', 'two ', 'three'])",
    "async_streaming_generator": ASYNC
    + "return async_streaming_generator(self.pipeline, pipeline_run_args={'messages': [ChatMessage.from_user('x')]})",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_method_answers_whole_and_streamed(server: LiveServer, kind: str):
    serve(server, KINDS[kind])

    answer = whole(server)
    (item,) = answer["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": "one two three", "annotations": [], "logprobs": []}]
    assert (answer["object"], answer["status"], answer["model"]) == ("response", "completed", "it")

    found = events(server)
    deltas = [event["delta"] for event in found if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "one two three"
    expected = [*TEXT[:2], *[TEXT[2]] * len(deltas), *TEXT[3:], *DONE]
    assert types(found) == ["created", "in_progress", *expected, "completed"]
    assert found[-1]["response"]["output"][0]["content"] == item["content"]


def test_the_events_tell_how_the_response_grows(server: LiveServer):
    serve(server, SYNC + "yield 'one '\n    yield 'two'")

    created, progress, added, part, one, two, text, part_done, done, completed = events(server)
    for begun in (created, progress):
        assert (begun["response"]["status"], begun["response"]["output"]) == ("in_progress", [])
    assert (added["item"]["status"], added["item"]["content"], added["output_index"]) == ("in_progress", [], 0)
    place = {"item_id": added["item"]["id"], "output_index": 0, "content_index": 0}
    assert all(place.items() <= event.items() for event in (part, one, two, text, part_done))
    assert (part["part"]["text"], one["delta"], two["delta"], text["text"]) == ("", "one ", "two", "one two")
    assert part_done["part"]["text"] == "one two"
    assert done["item"] == {**added["item"], "status": "completed", "content": [part_done["part"]]}
    assert completed["response"]["output"] == [done["item"]]
    assert completed["response"]["id"] == created["response"]["id"]
    assert completed["response"]["status"] == "completed"


def test_input_text_becomes_a_user_message(server: LiveServer):
    """A text is a message of the user and items are as the client sent them."""
    serve(server, SYNC + "return json.dumps([input_items, body])")
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "file_id": "f"}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
        {"type": "reasoning", "id": "rs", "summary": []},
        {"type": "item_reference", "id": "x", "deep": {"er": [1]}},
    ]
    for given, expected in (
        ("hello", [{"type": "message", "role": "user", "content": "hello"}]),
        (items, items),
    ):
        text = ask(server, input=given, unknown={"x": 1}).json()["output"][0]["content"][0]["text"]
        assert json.loads(text) == [expected, {"model": "it", "input": given, "unknown": {"x": 1}, "stream": False}]


def test_the_response_repeats_what_was_asked_for(server: LiveServer):
    serve(server, SYNC + "return 'a'")
    asked_for = {
        "instructions": "Be brief.",
        "temperature": 0.5,
        "max_output_tokens": 100,
        "metadata": {"a": "b"},
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": False}],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "previous_response_id": "resp_1",
    }
    answer = whole(server, **asked_for)
    assert asked_for.items() <= answer.items()

    wrong = whole(server, temperature="hot", tools="all", metadata=None, top_p=True)
    assert (wrong["temperature"], wrong["tools"], wrong["metadata"], wrong["top_p"]) == (1.0, [], {}, 1.0)
    huge = server.client.post(
        PATH, content=b'{"model": "it", "input": "x", "temperature": 1e999, "top_logprobs": 1e999}'
    )
    assert (huge.json()["temperature"], huge.json()["top_logprobs"]) == (None, 0)


def test_an_empty_answer_is_a_message_without_text(server: LiveServer):
    serve(server, SYNC + "yield from ()")

    assert whole(server)["output"][0]["content"][0]["text"] == ""
    found = events(server)
    assert types(found)[2:-1] == [kind for kind in [*TEXT, *DONE] if kind != "output_text.delta"]
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == ""


def test_reasoning_is_an_item_of_its_own(server: LiveServer):
    reason = "yield StreamingChunk('', index=0, reasoning=ReasoningContent('%s'))\n    "
    serve(server, SYNC + reason % "hm" + "yield 'a'\n    " + reason % "so" + "yield 'b'")

    output = whole(server)["output"]
    assert [item["type"] for item in output] == ["reasoning", "message"] * 2
    assert [item["summary"] for item in output[::2]] == [[{"type": "summary_text", "text": t}] for t in ("hm", "so")]
    assert [item["content"][0]["text"] for item in output[1::2]] == ["a", "b"]

    found = events(server)
    assert types(found) == ["created", "in_progress", *([*REASONING, *DONE, *TEXT, *DONE] * 2), "completed"]
    assert [e["output_index"] for e in found if e["type"] == "response.output_item.done"] == [0, 1, 2, 3]
    assert [{**item, "id": ""} for item in found[-1]["response"]["output"]] == [{**item, "id": ""} for item in output]


CALLS = "ChatMessage.from_assistant('let me', tool_calls=[ToolCall('add', {'a': 1}, 'c1'), ToolCall('mul', {}, 'c2')])"


def test_pending_tool_calls_are_items(server: LiveServer):
    serve(server, SYNC + f"return {CALLS}")

    _, add, mul = whole(server)["output"]
    assert (add["call_id"], add["name"], json.loads(add["arguments"])) == ("c1", "add", {"a": 1})
    assert (mul["call_id"], mul["name"], mul["arguments"], mul["status"]) == ("c2", "mul", "{}", "completed")

    found = events(server)
    assert types(found) == ["created", "in_progress", *TEXT, *DONE, *CALL, *DONE, *CALL, *DONE, "completed"]
    added, delta, done, item_done = found[-5:-1]
    assert added["item"]["arguments"] == ""
    assert delta["delta"] == done["arguments"] == item_done["item"]["arguments"] == "{}"
    assert delta["item_id"] == added["item"]["id"] == item_done["item"]["id"]
    assert found[-1]["response"]["output"][2] == item_done["item"]


AGENT = """
    model = MockChatGenerator([
        ChatMessage.from_assistant(tool_calls=[ToolCall("add", {"a": 1, "b": 2}, "c1")]),
        ChatMessage.from_assistant("It is three."),
    ])
    agent = Agent(chat_generator=model, tools=[add])
    return async_streaming_generator(agent, pipeline_run_args={"messages": [ChatMessage.from_user("1 + 2?")]})
"""


def test_an_agents_own_tool_calls_are_not_the_clients(server: LiveServer):
    serve(server, ASYNC + AGENT)

    (item,) = whole(server)["output"]
    assert item["content"][0]["text"] == "It is three."
    assert "function_call" not in json.dumps(events(server))


def test_events_for_the_ui_are_events(server: LiveServer):
    serve(server, SYNC + "yield {'type': 'status', 'data': {'done': True}}\n    yield 'a'")

    found = events(server)
    assert found[2]["event"] == {"type": "status", "data": {"done": True}}
    assert types(found)[2:4] == ["event", "output_item.added"]


@pytest.mark.parametrize(
    ("counts", "details"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, (0, 0)),
        ({"input_tokens": 3, "output_tokens": 2}, (0, 0)),
        (
            {
                "prompt_tokens": 3,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            (1, 2),
        ),
    ],
)
def test_usage_is_that_of_the_chunks(server: LiveServer, counts: dict[str, Any], details: tuple[int, int]):
    serve(server, SYNC + f"yield StreamingChunk('a', meta={{'usage': {counts}}})")

    for usage in (whole(server)["usage"], events(server)[-1]["response"]["usage"]):
        assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (3, 2, 5)
        assert usage["input_tokens_details"]["cached_tokens"] == details[0]
        assert usage["output_tokens_details"]["reasoning_tokens"] == details[1]


def test_usage_that_nobody_told_is_zeros(server: LiveServer):
    """Clients read ``usage.total_tokens`` without asking whether there is a usage."""
    serve(server, SYNC + "yield 'a'")

    created, *_, completed = events(server)
    assert created["response"]["usage"] is None
    for usage in (whole(server)["usage"], completed["response"]["usage"]):
        assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (0, 0, 0)


@pytest.mark.parametrize(("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut_is_incomplete(server: LiveServer, reason: str, told: str):
    serve(server, SYNC + f"yield StreamingChunk('a', finish_reason='{reason}')")

    answer = whole(server)
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": told})
    assert answer["output"][0]["status"] == "incomplete"
    last = events(server)[-1]
    assert (last["type"], last["response"]["incomplete_details"]) == ("response.incomplete", {"reason": told})


def test_a_whole_response_of_a_wrapper_is_the_answer(server: LiveServer):
    item = {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "x"}}
    serve(server, SYNC + f"return {{'object': 'response', 'id': 'resp_mine', 'output': [{item}]}}")

    answer = whole(server)
    assert (answer["id"], answer["output"], answer["model"]) == ("resp_mine", [item], "it")


@pytest.mark.parametrize("how", ["raise ValueError('it broke')", "yield 7"])
@pytest.mark.parametrize("define", [SYNC, ASYNC])
def test_an_error_in_mid_stream_is_a_response_that_failed(server: LiveServer, define: str, how: str):
    serve(server, define + f"yield 'one'\n    {how}")

    found = events(server)
    assert types(found) == ["created", "in_progress", *TEXT, *DONE, "failed"]
    failed = found[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert "it broke" in failed["error"]["message"] or "cannot be made of" in failed["error"]["message"]
    assert (failed["output"][0]["status"], failed["output"][0]["content"][0]["text"]) == ("incomplete", "one")
    assert ask(server).status_code == 500


def test_deployments_that_respond_are_models(server: LiveServer):
    serve(server, SYNC + "return 'a'")

    assert [model["id"] for model in server.client.get("/v1/models").json()["data"]] == ["it"]
    assert server.client.get("/v1/models/it").json()["created"] == int(server.state("it")["loaded_at"])
    assert server.client.head("/v1/models").status_code == 200
    assert server.state("it")["endpoints"] == ["/it/chat", "/it/responses"]


TOOLS: Any = [{"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}, "strict": False}]


def test_the_openai_client_gets_responses_and_raises_the_right_errors(server: LiveServer):
    serve(server, ASYNC + "yield 'one '\n    yield input_items[0]['content']")
    server.serve("calls", method(SYNC + f"return {CALLS}"))
    server.serve("broken", method(ASYNC + "yield 'one'\n    raise ValueError('it broke')"))
    server.serve("ui", method(SYNC + "yield {'type': 'status', 'data': {}}\n    yield 'one'"))
    with openai.OpenAI(base_url=server.url + "/v1", api_key="any") as client:
        create = client.responses.create
        assert create(model="it", input="hello").output_text == "one hello"
        streamed = create(model="it", input="hello", stream=True)
        assert "".join(event.delta for event in streamed if event.type == "response.output_text.delta") == "one hello"
        with client.responses.stream(model="it", input="hello") as helper:
            assert [event.type for event in helper][-1] == "response.completed"
            assert helper.get_final_response().output_text == "one hello"
        with client.responses.stream(model="calls", input="hello", tools=TOOLS) as helper:
            _, call, _ = helper.get_final_response().output
            assert call.type == "function_call"
            assert (call.name, call.arguments, call.call_id) == ("add", '{"a": 1}', "c1")
        with client.responses.stream(model="ui", input="hello") as helper:
            assert helper.get_final_response().output_text == "one"

        failed = list(create(model="broken", input="hello", stream=True))[-1]
        assert failed.type == "response.failed"
        assert failed.response.error is not None
        assert "it broke" in failed.response.error.message
        with pytest.raises(openai.NotFoundError, match="nothing"):
            create(model="nothing", input="hello")
        with pytest.raises(openai.BadRequestError, match="input"):
            create(model="it", input=[])
        with pytest.raises(openai.InternalServerError, match="it broke"):
            create(model="broken", input="hello")


def test_the_async_openai_client_gets_responses(server: LiveServer):
    serve(server, SYNC + "yield 'one '\n    yield 'two'")

    async def respond() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="any") as client:
            answer = await client.responses.create(model="it", input="hello")
            async with client.responses.stream(model="it", input="hello") as helper:
                return answer.output_text, (await helper.get_final_response()).output_text

    assert asyncio.run(respond()) == ("one two", "one two")
