"""``generation_kwargs_from``: what a client asks for reaches the model."""

import json
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from hayhooks import generation_kwargs_from
from hayhooks.errors import InvalidMessagesError
from tests.live_server import SharedServer

WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}


def test_the_parameters_of_a_chat_are_taken_and_nothing_else():
    parameters = {
        "temperature": 0,
        "top_p": 0.5,
        "max_completion_tokens": 20,
        "stop": ["END"],
        "seed": 7,
        "response_format": SCHEMA,
        "tools": [WEATHER],
        "tool_choice": "auto",
        "stream_options": {"include_usage": True},
    }
    other = {"model": "it", "messages": [], "stream": True, "n": 2, "user": "me", "top_logprobs": None, "files": []}

    assert generation_kwargs_from({**parameters, **other}) == parameters


def test_the_body_of_a_response_is_translated():
    body = {
        "input": "hello",
        "instructions": "Be brief",
        "stream": True,
        "temperature": 0.1,
        "max_output_tokens": 20,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}}},
        "tools": [{"type": "function", **WEATHER["function"]}, {"type": "web_search"}],
        "tool_choice": {"type": "function", "name": "weather"},
    }

    assert generation_kwargs_from(body) == {
        "temperature": 0.1,
        "max_completion_tokens": 20,
        "reasoning_effort": "low",
        "response_format": SCHEMA,
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_completion_tokens": 6}),
        ({"stream_options": {"include_usage": True}}, {}),
        ({"stream": None, "stream_options": {"include_usage": True}}, {}),
        ({"tools": [], "tool_choice": "none", "parallel_tool_calls": False}, {}),
        ({"tool_choice": "none"}, {}),
        ({"stop": "END"}, {"stop": "END"}),
        ({}, {}),
    ],
)
def test_what_a_model_would_refuse_is_left_out(body: dict[str, Any], expected: dict[str, Any]):
    assert generation_kwargs_from(body) == expected


@pytest.mark.parametrize("body", [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": False}}])
def test_the_usage_is_asked_for_where_the_generator_streams(body: dict[str, Any]):
    assert generation_kwargs_from(body, streams=True) == {"stream_options": {"include_usage": True}}


def test_the_clients_tools_can_be_left_out():
    body = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": True, "temperature": 1}

    assert generation_kwargs_from(body, tools=False) == {"temperature": 1}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("temperature", "hot", "must be a number, not 'hot'"),
        ("temperature", True, "must be a number, not True"),
        ("max_tokens", 1.5, "must be an integer, not 1.5"),
        ("tools", {}, r"must be a list, not \{\}"),
        ("tool_choice", 1, "must be a string or an object, not 1"),
        ("stop", {"a": "b" * 200}, "must be a string or a list, not .*more"),
    ],
)
def test_a_parameter_of_a_wrong_type_is_named(field: str, value: Any, expected: str):
    with pytest.raises(InvalidMessagesError, match=f"'{field}' {expected}") as raised:
        generation_kwargs_from({field: value})
    assert raised.value.field == field


# The model is a pipeline of the same server, which answers with the request that it got.
MODEL = """
import json
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_chat_completion(self, body):
        return json.dumps({name: value for name, value in body.items() if name not in ("messages", "model")})
"""

WRAPPER = """
from haystack import Pipeline
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.utils import Secret

from hayhooks import (
    BasePipelineWrapper, chat_messages_from_openai, generation_kwargs_from, streaming_generator
)


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        key = Secret.from_token("none")
        self.pipeline = Pipeline()
        self.pipeline.add_component("llm", OpenAIChatGenerator(key, "model", api_base_url=URL, max_retries=0))

    def run_chat_completion(self, messages, body):
        llm = {"messages": chat_messages_from_openai(messages), "generation_kwargs": generation_kwargs_from(body)}
        return streaming_generator(self.pipeline, pipeline_run_args={"llm": llm})
"""


def test_what_a_client_asks_for_reaches_the_model(shared_server: SharedServer):
    shared_server.serve("model", MODEL)
    shared_server.serve("it", WRAPPER, url=f"{shared_server.url}/v1")
    ask: Any = {"model": "it", "messages": [{"role": "user", "content": "hello"}]}
    given: Any = {"temperature": 0.2, "max_tokens": 9, "tools": [WEATHER], "tool_choice": "auto", "seed": 1}

    with OpenAI(base_url=f"{shared_server.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(**ask, **given, response_format=SCHEMA)
        assert json.loads(whole.choices[0].message.content or "") == {
            **given, "n": 1, "stream": True, "response_format": SCHEMA,
        }  # fmt: skip

        chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
        told = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert json.loads(told) == {"n": 1, "stream": True, "stream_options": {"include_usage": True}}
        assert chunks[-1].usage is not None

        with pytest.raises(BadRequestError, match="'temperature' must be a number") as refused:
            client.chat.completions.create(**ask, extra_body={"temperature": "hot"})
        assert refused.value.param == "temperature"
