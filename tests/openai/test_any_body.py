"""Whatever JSON a client sends to chat and Responses, the answer is well-formed or an error that its SDK reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from tests.live_server import LiveServer, serving

# It reads messages in every way that wrappers do, and streams what it has read.
WRAPPER = """
from haystack.dataclasses import ChatMessage

from hayhooks import BasePipelineWrapper, chat_messages_from_openai_response, get_last_user_message


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_chat_completion(self, model, messages, body):
        yield get_last_user_message(messages) or ""
        if len(messages) % 2:
            yield ChatMessage.from_openai_dict_format(messages[-1])

    async def run_response_async(self, model, input_items, body):
        yield get_last_user_message(input_items) or ""
        yield str(chat_messages_from_openai_response(input_items, body.get("instructions")))
        yield str(body)
"""
# By name: with the methods of both APIs, and of each alone.
WRAPPERS = {
    "it": WRAPPER,
    "talks": WRAPPER.replace("def run_response_async", "def unused"),
    "responds": WRAPPER.replace("def run_chat_completion", "def unused"),
}

USER = {"role": "user", "content": "a"}

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
anything = st.recursive(
    scalars,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4),
    max_leaves=10,
)


def mostly(fitting: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One time in eight anything at all: were it more often, hardly a body would get past the first check."""
    return st.integers(0, 7).flatmap(lambda number: anything if number == 7 else fitting)


types = st.sampled_from(["text", "input_text", "output_text", "image_url", "input_image", "input_file", "refusal", "x"])
parts = st.fixed_dictionaries({"type": mostly(types)}, optional={"text": mostly(st.text()), "image_url": anything})
roles = st.sampled_from(["user", "assistant", "system", "developer", "tool", "function"])
calls = st.fixed_dictionaries({}, optional={"id": scalars, "type": scalars, "function": anything})
items = st.fixed_dictionaries(
    {"role": mostly(roles), "content": mostly(st.text() | st.none() | st.lists(mostly(parts), max_size=3))},
    optional={
        "type": mostly(st.sampled_from(["message", "function_call", "function_call_output", "reasoning"])),
        "tool_calls": mostly(st.lists(calls, max_size=2)),
        "tool_call_id": scalars,
        "name": scalars,
        "arguments": anything,
        "output": anything,
        "summary": anything,
    },
)
conversations = st.lists(mostly(items), min_size=1, max_size=3)
bodies = st.fixed_dictionaries(
    {
        "model": mostly(st.sampled_from(list(WRAPPERS))),
        "messages": mostly(conversations),
        "input": mostly(conversations | st.text()),
    },
    optional={
        "stream": mostly(st.booleans()),
        "stream_options": mostly(st.just({"include_usage": True})),
        "temperature": anything,
        "instructions": mostly(st.text()),
        "tools": anything,
        "metadata": anything,
        "text": anything,
        "reasoning": anything,
    },
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    root: Path = tmp_path_factory.mktemp("pipelines")
    with serving(root) as server:
        for name, wrapper in WRAPPERS.items():
            server.serve(name, wrapper)
        yield server


names = st.none() | st.sampled_from(list(WRAPPERS))  # of the deployment whose own path is asked


# No deadline, and no example database: neither the machine's speed nor what other runs found may decide.
@settings(max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(body=mostly(bodies), path=st.sampled_from(["/v1/chat/completions", "/v1/responses"]), own=names)
@example(body={"model": "it", "messages": [USER, USER], "stream": True}, path="/v1/chat/completions", own=None)
@example(body={"model": "it", "input": [USER], "stream": True}, path="/v1/responses", own="it")
@example(body={"model": "responds", "messages": [USER, USER], "stream": True}, path="/v1/chat/completions", own=None)
@example(body={"model": "talks", "input": [USER], "stream": True}, path="/v1/responses", own=None)
@example(
    body={"model": "talks", "input": [{"role": "user", "content": ""}], "stream": True}, path="/v1/responses", own=None
)
@pytest.mark.slow
def test_any_body_gets_a_well_formed_answer_or_error(server: LiveServer, body: Any, path: str, own: str | None):
    if own:
        path = {"/v1/chat/completions": f"/{own}/chat", "/v1/responses": f"/{own}/responses"}[path]
    response = server.client.post(path, content=json.dumps(body).encode(), timeout=60)

    if response.status_code == 200:
        _check_answer(response.text, chat="chat" in path, streamed=body.get("stream") is True)
        return
    assert response.status_code in (400, 404), response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], response.json()["detail"]) == ("invalid_request_error", error["message"])
    assert error["message"]
    assert (error["param"] or "") in error["message"]
    assert "Traceback" not in response.text


@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@pytest.mark.slow
def test_any_bytes_get_an_error_that_clients_read(server: LiveServer, content: bytes):
    for path in ("/v1/chat/completions", "/v1/responses"):
        response = server.client.post(path, content=content, timeout=60)

        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


def _check_answer(text: str, *, chat: bool, streamed: bool) -> None:
    if not streamed:
        answer = json.loads(text)
        if chat:
            ChatCompletion.model_validate(answer)
        else:
            _check_response(answer)
        return
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if chat:
        assert events.pop() == "[DONE]"
        chunks = [json.loads(event) for event in events]
        if "error" in chunks[-1]:
            assert "choices" not in chunks.pop()
        for chunk in chunks:
            ChatCompletionChunk.model_validate(chunk)
        return
    found = [json.loads(event) for event in events]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    if found[-1]["type"] == "response.failed":  # a message that the wrapper cannot read, in mid-stream as above
        assert found[-1]["response"]["error"]["message"]
        return
    assert found[-1]["type"] == "response.completed"
    _check_response(found[-1]["response"])


def _check_response(answer: dict[str, Any]) -> None:
    """But for what it repeats of the request as the client sent it."""
    assert answer["object"] == "response"
    assert isinstance(answer["tools"], list)
    Response.model_validate(
        {**answer, "tools": [], "metadata": {}, "text": None, "reasoning": None, "temperature": None}
    )
