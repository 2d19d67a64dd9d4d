"""Components that stream what a test tells them to, and tools to wait for what they do."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from haystack import Pipeline, component
from haystack.components.agents import Agent
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage, ComponentInfo, StreamingChunk, ToolCall
from haystack.tools.tool import Tool

SECONDS = 10  # for anything that is waited for; it takes milliseconds
WEATHER_REPLIES: list[Any] = [
    ChatMessage.from_assistant(tool_calls=[ToolCall("weather", {"city": "Rome"}, id="1")]),
    "It is sunny",
]


@component
class Words:
    """Streams *words*, by a synchronous ``run`` only; a callable among them is called where it stands."""

    def __init__(self, words: Any, streaming_callback: Any = None) -> None:
        self.words = words
        self.streaming_callback = streaming_callback
        self.sent = 0  # chunks that were handed over, the one that waits included
        self.thread: Any = None  # the one that ran it last

    @component.output_types(text=str)
    def run(self, prompt: str = "", streaming_callback: Any = None) -> dict[str, str]:
        self.thread = threading.current_thread()
        for word in self.words:
            if callable(word):
                word()
            elif streaming_callback is not None:
                self.sent += 1
                streaming_callback(chunk(word))
        return {"text": prompt}


@component
class AsyncWords:
    """Streams *words* by ``run_async``; a coroutine function among them is awaited where it stands."""

    def __init__(self, words: Any, streaming_callback: Any = None) -> None:
        self.words = words
        self.streaming_callback = streaming_callback
        self.sent = 0
        self.ended = asyncio.Event()
        self.error: BaseException | None = None

    @component.output_types(text=str)
    def run(self, prompt: str = "", streaming_callback: Any = None) -> dict[str, str]:
        raise NotImplementedError

    @component.output_types(text=str)
    async def run_async(self, prompt: str = "", streaming_callback: Any = None) -> dict[str, str]:
        try:
            for word in self.words:
                if callable(word):
                    await word()
                elif streaming_callback is not None:
                    self.sent += 1
                    await streaming_callback(chunk(word))
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()
        return {"text": prompt}


@component
class Parallel:
    """Streams what *parts* stream, each in a thread of its own."""

    def __init__(self, parts: list[Words]) -> None:
        self.parts = parts
        self.thread: Any = None  # the one that ran it last

    @component.output_types(text=str)
    def run(self, streaming_callback: Any = None) -> dict[str, str]:
        self.thread = threading.current_thread()
        with ThreadPoolExecutor() as pool:
            runs = [pool.submit(part.run, streaming_callback=streaming_callback) for part in self.parts]
        return next(run.result() for run in runs)


@component
class Upper:
    """Streams nothing."""

    @component.output_types(text=str)
    def run(self, text: str) -> dict[str, str]:
        return {"text": text.upper()}


@component
class SyncChat:
    """A chat generator without ``run_async``, as there are some."""

    def __init__(self, replies: list[Any]) -> None:
        self.chat = MockChatGenerator(replies)

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], tools: Any = None, streaming_callback: Any = None) -> dict[str, Any]:
        return self.chat.run(messages, streaming_callback, tools=tools)


def chunk(what: Any) -> StreamingChunk:
    return StreamingChunk(content=what) if isinstance(what, str) else what


def chunk_of(component_name: str, **fields: Any) -> StreamingChunk:
    return StreamingChunk("", index=0, component_info=ComponentInfo("a generator", component_name), **fields)


def pipeline(**components: Any) -> Pipeline:
    """A pipeline of unconnected *components*, which run in this order."""
    result = Pipeline()
    for name, instance in components.items():
        result.add_component(name, instance)
    return result


def endless() -> Iterator[str]:
    while True:
        yield "word"


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


async def eventually(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110  # what happens in threads, or in the log, sets no asyncio.Event
        await asyncio.sleep(0)


def content(item: Any) -> Any:
    """What is compared in most tests: of chunks the text, of all else itself."""
    return item.content if isinstance(item, StreamingChunk) else item


def weather_agent(chat: Any = None) -> Agent:
    """An Agent that looks up the weather once, and then tells it."""
    tool = Tool(
        name="weather",
        description="The weather of a city.",
        parameters={"type": "object", "properties": {"city": {"type": "string"}}},
        function=lambda city: f"sunny in {city}",
    )
    return Agent(chat_generator=chat or MockChatGenerator(WEATHER_REPLIES), tools=[tool])
