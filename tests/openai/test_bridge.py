"""A wrapper that has the methods of one API answers clients of both; by the official client."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from hayhooks.openai.bridge import chat_body, response_body
from tests.live_server import LiveServer
from tests.openai.apis import CHAT, RESPONSES, Api, go_away, leases, method

ECHO = "return json.dumps({'argument': ARGUMENT, 'body': body}, sort_keys=True)"
ANSWER = """
    yield StreamingChunk("", reasoning=ReasoningContent("Let me think."), index=0)
    yield "one "
    yield "two"
    yield StreamingChunk("", finish_reason="stop", meta={"usage": {"prompt_tokens": 3, "completion_tokens": 4}})
"""
TOOL_ROUND = """
    called = [message for message in ARGUMENT if message.get("role") == "tool" or "output" in message]
    if called:
        yield "It is " + (called[-1].get("content") or called[-1].get("output"))
    else:
        yield "I look. "
        rest = ToolCallDelta(0, arguments='"Berlin"}')
        yield StreamingChunk("", index=0, tool_calls=[ToolCallDelta(0, "weather", '{"city": ', "c1")])
        yield StreamingChunk("", index=0, tool_calls=[rest], finish_reason="tool_calls")
"""
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
TOOL: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": None}


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


@pytest.fixture
def client(server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def serve(server: LiveServer, api: Api, code: str, *, asynchronous: bool = False) -> None:
    """Serve a wrapper that has the methods of *api* alone."""
    head = api.asynchronous if asynchronous else api.sync
    server.serve("it", method(head + code.strip().replace("ARGUMENT", api.argument)))


OTHER = pytest.mark.parametrize(("own", "asked"), [(CHAT, RESPONSES), (RESPONSES, CHAT)], ids=["chat", "responses"])


@OTHER
@pytest.mark.parametrize("asynchronous", [False, True])
def test_all_paths_of_the_other_api_answer(server: LiveServer, own: Api, asked: Api, asynchronous: bool):
    serve(server, own, "return model", asynchronous=asynchronous)

    assert server.state("it")["endpoints"] == ["/it/chat", "/it/responses"]
    for path in (asked.path, *asked.other_paths):
        answer = asked.ask(server, path).raise_for_status().json()
        assert (asked.text(answer), answer["model"]) == ("it", "it")


def test_the_wrappers_own_method_wins(server: LiveServer):
    both = f"{CHAT.sync}return 'chat'\n{RESPONSES.asynchronous}return 'responses'"
    server.serve("it", method(both))

    assert CHAT.text(CHAT.ask(server).json()) == "chat"
    assert RESPONSES.text(RESPONSES.ask(server).json()) == "responses"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_wrapper_that_chats_responds(server: LiveServer, client: OpenAI, asynchronous: bool):
    serve(server, CHAT, ANSWER, asynchronous=asynchronous)

    response = client.responses.create(model="it", input="hello", instructions="Be brief.")
    reasoning, message = response.output
    assert reasoning.type == "reasoning"
    assert reasoning.summary[0].text == "Let me think."
    assert message.type == "message"
    assert (response.output_text, response.status, response.instructions) == ("one two", "completed", "Be brief.")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (3, 4, 7)

    with client.responses.stream(model="it", input="hello") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert deltas == ["one ", "two"]
    assert final.usage is not None
    assert (final.output_text, final.usage.total_tokens) == ("one two", 7)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_wrapper_that_responds_chats(server: LiveServer, client: OpenAI, asynchronous: bool):
    serve(server, RESPONSES, ANSWER, asynchronous=asynchronous)
    hello: Any = [{"role": "user", "content": "hello"}]

    completion = client.chat.completions.create(model="it", messages=hello)
    message = completion.choices[0].message
    assert (message.content, completion.choices[0].finish_reason) == ("one two", "stop")
    assert message.model_extra == {"reasoning_content": "Let me think."}
    assert completion.usage is not None
    assert completion.usage.total_tokens == 7

    stream = client.chat.completions.create(
        model="it", messages=hello, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert [chunk.choices[0].delta.content for chunk in chunks if chunk.choices] == ["", None, "one ", "two", None]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7


@pytest.mark.parametrize("stream", [False, True])
def test_a_round_of_tools_over_responses(server: LiveServer, client: OpenAI, stream: bool):
    serve(server, CHAT, TOOL_ROUND)
    items: list[Any] = [{"role": "user", "content": "How is it in Berlin?"}]

    def ask() -> Any:
        if not stream:
            return client.responses.create(model="it", input=items, tools=[TOOL])
        with client.responses.stream(model="it", input=items, tools=[TOOL]) as events:
            return events.get_final_response()

    message, call = ask().output
    assert message.content[0].text == "I look. "
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "Berlin"})
    items += [message.model_dump(), call.model_dump()]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    assert ask().output_text == "It is sunny"


@pytest.mark.parametrize("stream", [False, True])
def test_a_round_of_tools_in_a_chat(server: LiveServer, client: OpenAI, stream: bool):
    serve(server, RESPONSES, TOOL_ROUND)
    messages: list[Any] = [{"role": "user", "content": "How is it in Berlin?"}]

    def ask() -> Any:
        if not stream:
            return client.chat.completions.create(model="it", messages=messages, tools=[CHAT_TOOL]).choices[0]
        with client.chat.completions.stream(model="it", messages=messages, tools=[CHAT_TOOL]) as events:
            return events.get_final_completion().choices[0]

    choice = ask()
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look. ")
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Berlin"})
    messages += [choice.message.model_dump(exclude_none=True)]
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    assert ask().message.content == "It is sunny"


RESPONSE_BODY: dict[str, Any] = {
    "model": "it",
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
    "instructions": "Be brief.",
    "tools": [TOOL, {"type": "web_search"}],
    "tool_choice": {"type": "function", "name": "weather"},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {}, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "max_output_tokens": 7,
    "include": ["reasoning.encrypted_content"],
    "truncation": "auto",
    "store": False,
    "temperature": 0.5,
    "unknown": {"x": 1},
}
CHAT_BODY: dict[str, Any] = {
    "model": "it",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS, "strict": None}}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": True}},
    "verbosity": "low",
    "reasoning_effort": "low",
    "max_completion_tokens": 7,
    "store": False,
    "temperature": 0.5,
    "unknown": {"x": 1},
}


def test_a_wrapper_gets_the_body_of_its_own_api(server: LiveServer):
    serve(server, CHAT, ECHO)
    got = json.loads(RESPONSES.text(server.client.post(RESPONSES.path, json=RESPONSE_BODY).json()))

    assert got == {"argument": CHAT_BODY["messages"], "body": {**CHAT_BODY, "stream": False}}

    serve(server, RESPONSES, ECHO)
    got = json.loads(CHAT.text(server.client.post(CHAT.path, json=CHAT_BODY).json()))

    expected = {
        key: value for key, value in RESPONSE_BODY.items() if key not in ("instructions", "include", "truncation")
    }
    expected["input"] = [
        {"type": "message", "role": "system", "content": "Be brief."},
        {"type": "message", "role": "user", "content": "hello"},
    ]
    expected |= {"tools": [TOOL], "reasoning": {"effort": "low"}, "stream": False}
    assert got == {"argument": expected["input"], "body": expected}


@pytest.mark.parametrize(
    ("flat", "nested"),
    [
        ({"tool_choice": "required", "tools": [TOOL]}, {"tool_choice": "required"}),
        (
            {
                "tools": [TOOL],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "weather"}],
                },
            },
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]},
                }
            },
        ),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        ({"text": {"format": {"type": "text"}}}, {"response_format": {"type": "text"}}),
    ],
)
def test_what_one_api_nests_is_flat_in_the_other(flat: dict[str, Any], nested: dict[str, Any]):
    chat = chat_body({"model": "it", "input": "x", **flat})
    assert nested.items() <= chat.items()
    assert flat.items() <= response_body(chat).items()


@pytest.mark.parametrize(
    "field",
    [
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "response_format",
        "reasoning_effort",
        "max_output_tokens",
        "include",
    ],
)
@pytest.mark.parametrize("value", [None, 7, "x", [], [7], {}, {"type": 7}, {"format": 7}, [{"function": 7}], [[]]])
def test_a_field_of_an_odd_type_is_no_error(field: str, value: Any):
    chat_body({"model": "it", "input": "x", "tools": [TOOL], field: value})
    response_body({"model": "it", "messages": [], "tools": [CHAT_TOOL], field: value})


def test_tools_of_openais_server_are_not_the_wrappers(server: LiveServer):
    body = chat_body({"model": "it", "input": "x", "tools": [{"type": "web_search"}], "tool_choice": "required"})

    assert body.keys() == {"model", "messages"}


def test_a_stream_is_asked_for_its_usage(server: LiveServer):
    """A wrapper that passes its body on to another server would get none: the response tells it."""
    serve(server, CHAT, "return json.dumps([body['stream'], body['stream_options']])")
    events = RESPONSES.ask(server, stream=True).text

    assert r"[true, {\"include_usage\": true}]" in events


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": [{"role": "user", "content": "x"}, {"type": "item_reference", "id": "msg_1"}]}, "input[1]"),
    ],
)
def test_what_refers_to_a_stored_response_is_refused(server: LiveServer, body: dict[str, Any], param: str):
    """Without it the conversation would lack a part, and nobody would know."""
    serve(server, CHAT, "return 'never'")
    response = RESPONSES.ask(server, **body)

    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert "not stored" in response.json()["detail"]
    reasoning = [{"type": "item_reference", "id": "rs_1"}, {"role": "user", "content": "x"}]
    assert RESPONSES.ask(server, input=reasoning).status_code == 200


@pytest.mark.parametrize("own", [CHAT, RESPONSES], ids=["chat", "responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_reference_to_a_recent_item_is_the_item(server: LiveServer, own: Api, stream: bool):
    """As the AI SDK sends them, unless it is told not to."""
    serve(server, own, "yield 'An answer' if len(ARGUMENT) == 1 else json.dumps(ARGUMENT[1])")
    answer = RESPONSES.ask(server, stream=stream)
    first = json.loads(answer.text.split("data: ")[-1])["response"] if stream else answer.json()
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    items = [{"role": "user", "content": "x"}, reference, {"role": "user", "content": "y"}]
    second = RESPONSES.ask(server, input=items).raise_for_status().json()

    assert "An answer" in RESPONSES.text(second)
    unstored = RESPONSES.ask(server, store=False).json()["output"][0]
    refused = RESPONSES.ask(server, input=[{"type": "item_reference", "id": unstored["id"]}] * 2)
    assert refused.status_code == 400 if own is CHAT else unstored["id"] in RESPONSES.text(refused.json())


@OTHER
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_the_form_of_the_api_that_was_asked(server: LiveServer, own: Api, asked: Api, stream: bool):
    serve(server, own, "raise ValueError('it broke')")
    response = asked.ask(server, stream=stream)
    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")

    serve(server, own, "yield ChatMessage.from_openai_dict_format({'role': 'nobody', 'content': 'x'})")
    assert asked.ask(server, stream=stream).status_code == 500

    serve(server, own, "yield 'one'\n    raise ValueError('it broke')")
    if stream:
        last = [part for part in asked.ask(server, stream=True).text.split("\n\n") if part][-1]
        assert last == "data: [DONE]" if asked is CHAT else last.startswith("event: response.failed\n")


def test_messages_that_haystack_cannot_read_are_the_clients_fault(server: LiveServer):
    serve(server, CHAT, "return ChatMessage.from_openai_dict_format(messages[-1]).text")
    image = {"type": "input_image", "image_url": "https://example.org/cat.png"}
    response = RESPONSES.ask(server, input=[{"role": "user", "content": ["look", image]}])

    assert (response.status_code, response.json()["error"]["param"]) == (400, "input")


@OTHER
def test_whole_answers_of_the_own_api_are_translated(server: LiveServer, own: Api, asked: Api):
    """A wrapper may pass on what another server has answered."""
    chat = {"object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": "x"}}]}
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}
    serve(server, own, f"return {chat if own is CHAT else {'object': 'response', 'output': [message]}}")

    for stream in (False, True):
        assert asked.ask(server, stream=stream).status_code == 200
    assert asked.text(asked.ask(server).json()) == "x"


@OTHER
def test_a_response_of_starlette_is_of_the_own_api(server: LiveServer, own: Api, asked: Api):
    serve(server, own, "from starlette.responses import JSONResponse\n    return JSONResponse({}, body['status'])")

    assert own.ask(server, status=200).json() == {}
    refused: httpx.Response = asked.ask(server, status=200)
    assert refused.status_code == 500
    assert "cannot become one of" in refused.json()["detail"]
    assert asked.ask(server, status=418).status_code == 418


@OTHER
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_the_work(server: LiveServer, tmp_path: Any, own: Api, asked: Api, stream: bool):
    closed = tmp_path / "closed"
    work = "try:\n        await asyncio.sleep(60)\n    finally:\n        Path(CLOSED).touch()"
    definition = f"{own.asynchronous}Path(CLOSED + '.began').touch()\n    {work}"
    server.serve("it", method(definition), closed=str(closed))

    go_away(server, asked.path, {**asked.body, "stream": stream}, closed.with_name("closed.began"))
    server.eventually(lambda: closed.exists() and leases(server) == 0)


def test_one_that_can_neither_chat_nor_respond_says_so(server: LiveServer, client: OpenAI):
    server.serve("it", method("def run_api(self): return 1"))

    with pytest.raises(openai.InternalServerError, match="does not implement responses"):
        client.responses.create(model="it", input="x")


def test_the_other_api_names_a_model_that_answers_it(server: LiveServer):
    """The example in the API pages."""
    serve(server, CHAT, "return 'x'")
    body = server.client.get("/openapi.json").json()["paths"]["/v1/responses"]["post"]["requestBody"]

    assert body["content"]["application/json"]["schema"]["examples"][0]["model"] == "it"
