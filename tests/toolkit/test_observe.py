"""``on_component_end``: what components of a pipeline, and tools of an Agent, have returned, told in the stream."""

import asyncio
import threading
from typing import Any

import pytest
from haystack import Document, Pipeline, component
from haystack.components.agents import Agent
from haystack.components.builders import PromptBuilder
from haystack.components.generators.chat import MockChatGenerator
from haystack.components.joiners import BranchJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.tools import ComponentTool, Toolset
from haystack.tools.tool import Tool

from hayhooks.toolkit.events import create_status_event, source_events
from hayhooks.toolkit.streaming import async_streaming_generator, streaming_generator
from tests.toolkit.components import SECONDS, AsyncWords, SyncChat, Upper, Words, content, pipeline


def rag(llm: Any) -> Pipeline:
    """A retriever, whose documents the prompt of *llm* has."""
    store = InMemoryDocumentStore(shared=False)
    store.write_documents([Document(content="Breakfast is at eight", meta={"file_path": "handbook.md"})])
    result = Pipeline()
    result.add_component("retriever", InMemoryBM25Retriever(store))
    result.add_component("prompt", PromptBuilder("{{ documents[0].content }}?"))
    result.add_component("llm", llm)
    result.connect("retriever.documents", "prompt.documents")
    result.connect("prompt.prompt", "llm.prompt")
    return result


def chain(llm: Any) -> Pipeline:
    """``first`` and ``second`` make the prompt of *llm*."""
    result = pipeline(first=Upper(), second=Upper(), llm=llm)
    result.connect("first.text", "second.text")
    result.connect("second.text", "llm.prompt")
    return result


def read(stream: Any) -> list[Any]:
    """Return the items of a sync or an async *stream*, of chunks the text."""
    if hasattr(stream, "__next__"):
        return [content(item) for item in stream]

    async def read_async() -> list[Any]:
        return [content(item) async for item in stream]

    return asyncio.run(asyncio.wait_for(read_async(), SECONDS))


def fed(stream: Any) -> list[Any]:
    """Return the items of *stream* as the server reads them: in the thread of the pipeline."""
    items: list[Any] = []

    def put(item: Any) -> bool:
        items.append(content(item))
        return True

    stream.feed(put)
    return items


def stream_of(make: Any, pipeline: Any, **options: Any) -> list[Any]:
    if make is async_streaming_generator:
        return read(make(pipeline, **options))
    items: list[Any] = make(streaming_generator(pipeline, **options))
    return items


WAYS = pytest.mark.parametrize("make", [read, fed, async_streaming_generator])


def words(make: Any, *texts: str) -> Any:
    return AsyncWords(list(texts)) if make is async_streaming_generator else Words(list(texts))


@WAYS
def test_sources_come_before_the_answer(make):
    items = stream_of(
        make,
        rag(words(make, "At", " eight")),
        pipeline_run_args={"retriever": {"query": "breakfast"}},
        on_component_end={"retriever": lambda outputs: source_events(outputs["documents"])},
    )

    assert [item if isinstance(item, str) else item.type for item in items] == ["source", "At", " eight"]
    assert items[0].data["document"] == ["Breakfast is at eight"]
    assert items[0].data["source"]["name"] == "handbook.md"


@WAYS
def test_a_callback_may_return_nothing_a_text_an_event_or_a_list(make):
    returned: dict[str, Any] = {
        "first": lambda _: None,
        "second": lambda outputs: f"<{outputs['text']}>",
        "llm": lambda _: [create_status_event("done", done=True), "!"],
    }
    items = stream_of(
        make,
        chain(words(make, "hi")),
        pipeline_run_args={"first": {"text": "b"}},
        on_component_end=returned,
        on_pipeline_end=lambda _: "end",
    )

    assert items == ["<B>", "hi", create_status_event("done", done=True), "!", "end"]


@WAYS
def test_a_callback_may_be_a_generator(make):
    def told(outputs: Any) -> Any:
        yield create_status_event("read")
        yield outputs["text"]

    items = stream_of(make, pipeline(llm=words(make, "a")), on_component_end={"llm": told}, on_pipeline_end=told_end)
    assert items == ["a", create_status_event("read"), "end"]


def told_end(_result: Any) -> Any:
    yield "end"


@WAYS
def test_a_callback_that_fails_is_logged_and_the_answer_goes_on(make, logged):
    def fail(_outputs: Any) -> None:
        raise RuntimeError("no such key")

    assert stream_of(make, pipeline(llm=words(make, "a", "b")), on_component_end={"llm": fail}) == ["a", "b"]
    assert any("on_component_end of 'llm' failed: RuntimeError: no such key" in entry for entry in logged)


def test_an_async_callback_is_awaited():
    async def told(outputs: Any) -> str:
        await asyncio.sleep(0)
        return f"[{outputs['text']}]"

    made = chain(AsyncWords(["hi"]))
    options: dict[str, Any] = {"pipeline_run_args": {"first": {"text": "a"}}, "on_component_end": {"second": told}}

    assert read(async_streaming_generator(made, **options)) == ["[A]", "hi"]
    with pytest.raises(ValueError, match="cannot await"):
        streaming_generator(made, **options)


@pytest.mark.parametrize("generator", [streaming_generator, async_streaming_generator])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"retreiver": print}, r"no component is named \['retreiver'\]; there are \['retriever', 'prompt', 'llm'\]"),
        ({"retriever": "documents"}, "must map names to functions"),
        (print, "must map names to functions"),
    ],
)
def test_a_mistake_is_told_at_the_call(generator, given, message):
    with pytest.raises(ValueError, match=message):
        generator(rag(AsyncWords([])), on_component_end=given)


@WAYS
def test_a_component_that_runs_several_times_is_told_each_time(make):
    @component
    class Counter:
        @component.output_types(again=int, done=str)
        def run(self, count: int) -> dict[str, Any]:
            return {"again": count} if count < 3 else {"done": f"counted to {count}"}

    @component
    class Next:
        @component.output_types(count=int)
        def run(self, count: int) -> dict[str, int]:
            return {"count": count + 1}

    looping = pipeline(start=BranchJoiner(int), counter=Counter(), next=Next(), llm=words(make, "hi"))
    for sender, receiver in [
        ("start.value", "counter.count"),
        ("counter.again", "next.count"),
        ("next.count", "start.value"),
        ("counter.done", "llm.prompt"),
    ]:
        looping.connect(sender, receiver)

    items = stream_of(
        make, looping, pipeline_run_args={"start": {"value": 1}}, on_component_end={"counter": lambda told: f"{told}"}
    )

    told = [item for item in items if item != "hi"]
    assert told == ["{'again': 1}", "{'again': 2}", "{'done': 'counted to 3'}"]


def test_outputs_are_told_while_the_pipeline_runs_on():
    gate = threading.Event()
    stream = streaming_generator(
        rag(Words([lambda: gate.wait(SECONDS), "late"])),
        pipeline_run_args={"retriever": {"query": "breakfast"}},
        on_component_end={"retriever": lambda outputs: str(len(outputs["documents"]))},
    )

    assert next(stream).content == "1"
    gate.set()
    assert read(stream) == ["late"]


def test_the_pipeline_itself_and_other_streams_of_it_are_not_changed():
    shared = rag(Words(["a"]))
    arguments: dict[str, Any] = {"pipeline_run_args": {"retriever": {"query": "breakfast"}}}
    one = streaming_generator(shared, **arguments, on_component_end={"retriever": lambda _: "one"})
    two = streaming_generator(shared, **arguments, on_component_end={"retriever": lambda _: "two"})
    plain = streaming_generator(shared, **arguments)

    assert [next(one).content, next(two).content, next(plain).content] == ["one", "two", "a"]
    assert type(shared) is Pipeline
    assert read(one) == read(two) == ["a"]


def test_a_closed_stream_stops_the_pipeline_at_the_end_of_a_component():
    words = Words(["a"])
    stream = streaming_generator(
        chain(words),
        pipeline_run_args={"first": {"text": "a"}},
        on_component_end={"first": lambda _: "first", "second": lambda _: "second"},
    )

    assert next(stream).content == "first"
    stream.close()
    assert words.sent <= 1


def test_a_shielded_pipeline_goes_on_past_the_end_of_a_component():
    async def close_early() -> bool:
        llm = AsyncWords(["a"])
        stream = async_streaming_generator(
            chain(llm),
            pipeline_run_args={"first": {"text": "a"}},
            on_component_end={"first": lambda _: "first", "second": lambda _: "second"},
            shield_pipeline_task=True,
        )
        assert content(await anext(stream)) == "first"
        await stream.aclose()
        return await asyncio.wait_for(llm.ended.wait(), SECONDS)

    assert asyncio.run(close_early())


# Agents: tools


def searching_agent(tools: Any, chat: Any = None) -> Agent:
    """An Agent that calls its tool ``search`` once, and then answers."""
    replies: list[Any] = [
        ChatMessage.from_assistant(tool_calls=[ToolCall("search", {"query": "breakfast"}, id="1")]),
        "At eight",
    ]
    return Agent(chat_generator=chat or MockChatGenerator(replies), tools=tools)


def search_tool() -> ComponentTool:
    store = InMemoryDocumentStore(shared=False)
    store.write_documents([Document(content="Breakfast is at eight", id="d1")])
    return ComponentTool(InMemoryBM25Retriever(store), name="search", description="Search the handbook.")


ASK: dict[str, Any] = {"messages": [ChatMessage.from_user("When is breakfast?")]}


@WAYS
@pytest.mark.parametrize(
    "hold",
    [lambda tool: [tool], lambda tool: Toolset([tool]), lambda tool: [Toolset([tool])]],
    ids=["tools", "toolset", "toolsets"],
)
def test_what_a_tool_returns_comes_before_the_answer(make, hold):
    items = stream_of(
        make,
        searching_agent(hold(search_tool())),
        pipeline_run_args=ASK,
        on_component_end={"search": lambda outputs: source_events(outputs["documents"])},
    )

    sources = [item for item in items if not isinstance(item, str)]
    assert [source.data["document"] for source in sources] == [["Breakfast is at eight"]]
    assert "At" in "".join(items[items.index(sources[0]) + 1 :])
    assert "At" not in "".join(items[: items.index(sources[0])])


@WAYS
def test_tools_of_the_run_are_told_too_and_may_be_named(make):
    agent = searching_agent([search_tool()])
    told = {"search": lambda outputs: f"<{len(outputs['documents'])}>"}

    for tools in (["search"], [search_tool()]):
        assert "<1>" in stream_of(make, agent, pipeline_run_args={**ASK, "tools": tools}, on_component_end=told)


def test_a_tool_without_async_function_is_told_once():
    tool = Tool(
        name="search",
        description="Search.",
        parameters={"type": "object", "properties": {"query": {"type": "string"}}},
        function=lambda query: {"found": query},
    )

    items = read(
        async_streaming_generator(
            searching_agent([tool]), pipeline_run_args=ASK, on_component_end={"search": lambda told: f"{told}"}
        )
    )

    assert items.count("{'found': 'breakfast'}") == 1


@pytest.mark.parametrize("generator", [streaming_generator, async_streaming_generator])
def test_an_unknown_tool_is_told_at_the_call(generator):
    with pytest.raises(ValueError, match=r"no tool is named \['serach'\]; there are \['search'\]"):
        generator(searching_agent([search_tool()]), pipeline_run_args=ASK, on_component_end={"serach": print})


def test_a_generator_without_run_async_is_told_in_its_order():
    chat = SyncChat(
        [ChatMessage.from_assistant(tool_calls=[ToolCall("search", {"query": "breakfast"}, id="1")]), "At eight"]
    )
    items = read(
        async_streaming_generator(
            searching_agent([search_tool()], chat),
            pipeline_run_args=ASK,
            on_component_end={"search": lambda _: "found"},
            allow_sync_streaming_callbacks=True,
        )
    )

    assert "At eight" in "".join(items[items.index("found") :])
