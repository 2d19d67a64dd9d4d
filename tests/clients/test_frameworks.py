"""Clients that other frameworks bring: Haystack's own, LangChain's, LiteLLM's."""

import asyncio
import os
from typing import Any

import pytest
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.tools import Tool  # type: ignore[attr-defined]  # its re-export is implicit
from haystack.utils import Secret

from tests.clients.conftest import WEATHER

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would ask the internet
os.environ["LANGSMITH_TRACING"] = "false"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the frameworks themselves
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # they close their sockets when they like
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
]

SAID = "You said: hello"


def generator(base_url: str, model: str, **options: Any) -> OpenAIChatGenerator:
    token = Secret.from_token("not needed")
    return OpenAIChatGenerator(api_key=token, api_base_url=base_url, model=model, **options)


def test_haystacks_generator_whole_and_streamed(base_url: str):
    hello = [ChatMessage.from_user("hello")]
    (reply,) = generator(base_url, "words").run(hello)["replies"]
    assert (reply.text, reply.meta["finish_reason"]) == (SAID, "stop")
    assert reply.meta["usage"]["total_tokens"] == 7

    chunks: list[StreamingChunk] = []
    (reply,) = generator(base_url, "words", streaming_callback=chunks.append).run(hello)["replies"]
    assert reply.text == "".join(chunk.content for chunk in chunks) == SAID

    (reply,) = asyncio.run(generator(base_url, "words").run_async(hello))["replies"]
    assert reply.text == SAID


@pytest.mark.parametrize("stream", [False, True])
def test_haystacks_generator_with_tools(base_url: str, stream: bool):
    function = WEATHER["function"]
    assert isinstance(function, dict)
    tool = Tool(**function, function=lambda city: "sunny")
    options: dict[str, Any] = {"streaming_callback": lambda chunk: None} if stream else {}
    asking = generator(base_url, "tools", tools=[tool], **options)
    question = ChatMessage.from_user("How is the weather?")

    (reply,) = asking.run([question])["replies"]
    (call,) = reply.tool_calls
    assert (call.tool_name, call.arguments, call.id) == ("weather", {"city": "Berlin"}, "call_1")

    (answer,) = asking.run([question, reply, ChatMessage.from_tool("sunny", origin=call)])["replies"]
    assert answer.text == "It is sunny."


def test_langchain(base_url: str):
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage  # noqa: PLC0415 - heavy, and used here
    from langchain_openai import ChatOpenAI  # noqa: PLC0415

    def chat(model: str, **options: Any) -> Any:
        return ChatOpenAI(base_url=base_url, api_key="not needed", model=model, **options)

    answer = chat("words").invoke("hello")
    assert (answer.content, answer.usage_metadata["total_tokens"]) == (SAID, 7)
    assert "".join(chunk.content for chunk in chat("words").stream("hello")) == SAID
    assert asyncio.run(chat("words").ainvoke("hello")).content == SAID

    bound = chat("tools").bind_tools([WEATHER])
    question = HumanMessage("How is the weather?")
    called = bound.invoke([question])
    assert isinstance(called, AIMessage)
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("weather", {"city": "Berlin"})]
    streamed = None
    for chunk in bound.stream([question]):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    assert [(call["name"], call["args"]) for call in streamed.tool_calls] == [("weather", {"city": "Berlin"})]
    answered = bound.invoke([question, called, ToolMessage("sunny", tool_call_id=called.tool_calls[0]["id"])])
    assert answered.content == "It is sunny."


@pytest.mark.parametrize("model", ["words", "chats"])
def test_langchain_over_responses(base_url: str, model: str):
    from langchain_openai import ChatOpenAI  # noqa: PLC0415

    chat: Any = ChatOpenAI(base_url=base_url, api_key="not needed", model=model, use_responses_api=True)
    assert chat.invoke("hello").text == SAID
    assert "".join(chunk.text for chunk in chat.stream("hello")) == SAID


def test_litellm(base_url: str):
    import litellm  # noqa: PLC0415

    def ask(model: str, **options: Any) -> Any:
        hello = [{"role": "user", "content": "hello"}]
        options = {"messages": hello, "api_base": base_url, "api_key": "not needed", "num_retries": 0, **options}
        return litellm.completion(model=f"openai/{model}", **options)

    answer = ask("words")
    assert (answer.choices[0].message.content, answer.usage.total_tokens) == (SAID, 7)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask("words", stream=True)) == SAID
    (call,) = ask("tools", tools=[WEATHER]).choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Berlin"}')
    calls = [
        call for chunk in ask("tools", tools=[WEATHER], stream=True) for call in chunk.choices[0].delta.tool_calls or []
    ]
    assert calls[0].function.name == "weather"
    assert ask("thinker").choices[0].message.reasoning_content == "Let me think."
    with pytest.raises(litellm.exceptions.NotFoundError):
        ask("nobody")
    with pytest.raises(litellm.exceptions.InternalServerError, match="no luck today"):
        ask("failing")
