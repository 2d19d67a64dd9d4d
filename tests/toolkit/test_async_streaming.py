import asyncio
import contextvars
import gc
import logging
import threading

import anyio
import pytest
from haystack.components.generators.chat import MockChatGenerator
from haystack.core.errors import PipelineRuntimeError
from haystack.dataclasses import ChatMessage

from hayhooks.toolkit.channel import MAX_UNREAD_CHUNKS
from hayhooks.toolkit.streaming import async_streaming_generator
from tests.toolkit.components import (
    SECONDS,
    WEATHER_REPLIES,
    AsyncWords,
    SyncChat,
    Upper,
    Words,
    content,
    endless,
    eventually,
    failing,
    pipeline,
    weather_agent,
)

ASK = {"messages": [ChatMessage.from_user("Weather in Rome?")]}


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, SECONDS))


def contents(pipeline, **options):
    async def read():
        return [content(item) async for item in async_streaming_generator(pipeline, **options)]

    return run(read())


# What comes, and in which order


def test_chunks_come_as_the_component_sends_them():
    assert contents(pipeline(llm=AsyncWords(["a", "b", "c"]))) == ["a", "b", "c"]


def test_the_first_chunk_comes_while_the_pipeline_still_runs():
    async def read():
        gate = asyncio.Event()
        stream = async_streaming_generator(pipeline(llm=AsyncWords(["a", gate.wait, "b"])))
        first = content(await anext(stream))
        gate.set()
        return [first, *[content(item) async for item in stream]]

    assert run(read()) == ["a", "b"]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_callbacks_may_be_coroutine_functions(kind):
    def start(name, arguments, call_id):
        return f"<{name} {arguments} {call_id}>"

    def end(name, arguments, result, error):
        return [f"<{result} {error}>", {"event": 1}]

    def finish(result):
        return f"<{result['last_message'].text}>"

    def of_kind(callback):
        async def awaited(*arguments):
            await asyncio.sleep(0)
            return callback(*arguments)

        return awaited if kind == "coroutine" else callback

    texts = contents(
        weather_agent(),
        pipeline_run_args=ASK,
        on_tool_call_start=of_kind(start),
        on_tool_call_end=of_kind(end),
        on_pipeline_end=of_kind(finish),
    )

    assert texts == [
        "<weather {'city': 'Rome'} 1>",
        "",
        "<sunny in Rome False>",
        {"event": 1},
        "",
        "",
        "It ",
        "is ",
        "sunny",
        "<It is sunny>",
    ]


def test_a_callback_that_raises_is_logged_and_the_stream_goes_on(logged):
    async def fail(result):
        raise ZeroDivisionError("the callback's")

    assert contents(pipeline(llm=AsyncWords(["a"])), on_pipeline_end=fail) == ["a"]
    assert any("the callback's" in message for message in logged)


def test_the_end_is_told_the_result():
    told: list[object] = []
    contents(pipeline(llm=AsyncWords([])), pipeline_run_args={"prompt": "x"}, on_pipeline_end=told.append)

    assert told == [{"llm": {"text": "x"}}]


def test_error_comes_after_earlier_chunks():
    """An error comes after the chunks before it and is the pipelines own."""
    cause = ZeroDivisionError("in mid-stream")

    async def read():
        stream = async_streaming_generator(pipeline(llm=AsyncWords(["a", "b", failing(cause), "c"])))
        items = [content(await anext(stream)), content(await anext(stream))]
        with pytest.raises(PipelineRuntimeError) as raised:
            await anext(stream)
        return items, raised.value.__cause__

    assert run(read()) == (["a", "b"], cause)


def test_events_come_at_once_while_the_pipeline_is_silent():
    async def read():
        begin, go_on = asyncio.Event(), asyncio.Event()
        events: asyncio.Queue[object] = asyncio.Queue()
        words = AsyncWords(["a", begin.wait, lambda: events.put({"progress": 50}), go_on.wait, "b"])
        stream = async_streaming_generator(pipeline(llm=words), external_event_queue=events)
        items = [content(await anext(stream))]
        begin.set()
        items.append(await anext(stream))
        go_on.set()
        return [*items, *[content(item) async for item in stream]]

    assert run(read()) == ["a", {"progress": 50}, "b"]


def test_events_keep_their_place_among_the_chunks():
    async def read():
        events: asyncio.Queue[object] = asyncio.Queue()
        events.put_nowait(0)
        words = AsyncWords(["a", lambda: events.put(1), lambda: events.put(2), "b", lambda: events.put(3)])
        stream = async_streaming_generator(pipeline(llm=words), external_event_queue=events)
        return [content(item) async for item in stream]

    assert run(read()) == [0, "a", 1, 2, "b", 3]


def test_a_queue_that_is_shut_down_does_not_end_the_stream():
    """From Python 3.13 on, waiting for a queue that was shut down raises."""

    class ShutDown(asyncio.Queue[object]):
        async def get(self):
            raise asyncio.QueueEmpty

    assert contents(pipeline(llm=AsyncWords(["a", "b"])), external_event_queue=ShutDown()) == ["a", "b"]


def test_context_variables_of_the_call_reach_the_pipeline():
    async def read():
        request, seen = contextvars.ContextVar("request", default="none"), []

        async def look():
            seen.append(request.get())

        token = request.set("mine")
        stream = async_streaming_generator(pipeline(llm=AsyncWords([look])))
        request.reset(token)
        return [item async for item in stream], seen

    assert run(read()) == ([], ["mine"])


# Which components stream, and with which arguments


def test_last_component_streams_by_default():
    """The last component streams by default and all or named ones when asked."""
    both = pipeline(first=AsyncWords(["1"]), last=AsyncWords(["2"]))

    assert contents(both) == ["2"]
    assert contents(both, streaming_components=["first"]) == ["1"]
    assert sorted(contents(both, streaming_components="all")) == ["1", "2"]


def test_a_pipeline_without_a_streaming_component_is_refused_at_the_call():
    with pytest.raises(ValueError, match="No streaming component"):
        async_streaming_generator(pipeline(silent=Upper()))


@pytest.mark.parametrize(
    ("what", "culprit"),
    [(pipeline(llm=Words([])), "Words"), (weather_agent(SyncChat(WEATHER_REPLIES)), "SyncChat")],
    ids=["pipeline", "agent"],
)
def test_a_component_without_run_async_is_refused_at_the_call(what, culprit):
    with pytest.raises(ValueError, match=rf"{culprit} has no run_async.*allow_sync_streaming_callbacks=True"):
        async_streaming_generator(what)


def test_sync_component_that_does_not_stream_runs():
    """A component without run async that does not stream is none of our business."""
    assert contents(pipeline(first=Words(["1"]), last=AsyncWords(["2"]))) == ["2"]


@pytest.mark.parametrize("allowed", [True, "auto"])
def test_sync_component_streams_from_its_thread(allowed):
    """A component without run async streams from its thread when allowed."""
    both = pipeline(threaded=Words("abc" * MAX_UNREAD_CHUNKS), last=AsyncWords(["1", "2"]))

    texts = contents(both, streaming_components="all", allow_sync_streaming_callbacks=allowed)

    assert [text for text in texts if text.isalpha()] == list("abc" * MAX_UNREAD_CHUNKS)
    assert [text for text in texts if text.isdigit()] == ["1", "2"]


def test_an_agent_whose_generator_has_no_run_async_streams_when_allowed():
    agent = weather_agent(SyncChat(WEATHER_REPLIES))
    ended = []

    texts = contents(
        agent,
        pipeline_run_args=ASK,
        allow_sync_streaming_callbacks=True,
        on_tool_call_end=lambda name, arguments, result, error: ended.append(result),
    )

    assert "".join(texts) == "It is sunny"
    assert ended == ["sunny in Rome"]


@pytest.mark.parametrize("kind", ["plain", "coroutine", "thread"])
def test_the_users_own_streaming_callback_is_called_too(kind):
    seen = []

    def own(chunk):
        seen.append(chunk.content)

    async def own_async(chunk):
        own(chunk)

    component = Words(["a"], streaming_callback=own) if kind == "thread" else AsyncWords(["a"])
    data = {} if kind == "thread" else {"streaming_callback": own if kind == "plain" else own_async}
    before = dict(data)

    texts = contents(pipeline(llm=component), pipeline_run_args=data, allow_sync_streaming_callbacks=True)

    assert (texts, seen, data) == (["a"], ["a"], before)


def test_async_callback_of_sync_component_is_refused():
    """A coroutine function as streaming callback is refused where it cannot be awaited."""

    async def own(chunk):
        raise NotImplementedError

    data = {"streaming_callback": own}
    with pytest.raises(ValueError, match="coroutine"):
        contents(pipeline(llm=Words([])), pipeline_run_args=data, allow_sync_streaming_callbacks=True)


# Leaving, and reading slowly


async def forever():
    await asyncio.Event().wait()


@pytest.mark.parametrize("words", [["a", forever], endless()], ids=["waiting for a model", "waiting for the reader"])
def test_closing_cancels_the_pipeline_and_waits_for_its_end(words):
    async def read():
        component = AsyncWords(words)
        stream = async_streaming_generator(pipeline(llm=component))
        await anext(stream)
        await stream.aclose()
        return component

    component = run(read())
    assert component.ended.is_set()
    assert isinstance(component.error, asyncio.CancelledError)


def test_component_cleans_up_despite_repeated_cancels():
    """A component has time to clean up when the reader is cancelled over and over."""

    async def read():
        cleaned = asyncio.Event()

        async def work():
            try:
                await forever()
            finally:
                await asyncio.sleep(0.01)
                cleaned.set()

        with anyio.CancelScope() as scope:
            async for _ in async_streaming_generator(pipeline(llm=AsyncWords(["a", work]))):
                asyncio.get_running_loop().call_soon(scope.cancel)
        return scope.cancelled_caught, cleaned.is_set()

    assert run(read()) == (True, True)


def test_a_component_that_fails_as_it_is_cancelled_leaves_no_complaint(caplog):
    async def work():
        try:
            await forever()
        finally:
            raise ZeroDivisionError

    async def read(component):
        stream = async_streaming_generator(component)
        await anext(stream)
        await asyncio.sleep(0)
        await stream.aclose()
        return component

    with caplog.at_level(logging.ERROR):
        component = run(read(AsyncWords(["a", work])))
        gc.collect()  # asyncio complains of an error that nobody looked at when the task is collected
    assert isinstance(component.error, ZeroDivisionError)
    assert caplog.records == []


def test_dropping_the_generator_cancels_the_pipeline():
    async def read():
        component = AsyncWords(["a", forever])
        stream = async_streaming_generator(pipeline(llm=component))
        await anext(stream)
        del stream
        await component.ended.wait()
        return component.error

    assert isinstance(run(read()), asyncio.CancelledError)


def test_a_component_in_a_thread_stops_at_its_next_chunk():
    async def read():
        gate = threading.Event()
        words = Words(["a", lambda: gate.wait(SECONDS), "b", "c"])
        stream = async_streaming_generator(pipeline(llm=words), allow_sync_streaming_callbacks=True)
        await anext(stream)
        await stream.aclose()
        gate.set()
        return words

    words = run(read())
    words.thread.join(SECONDS)
    assert words.sent == 2  # "b" was the next


def test_a_component_in_a_thread_that_waits_for_the_reader_stops_too():
    async def read():
        words = Words(endless())
        stream = async_streaming_generator(pipeline(llm=words), allow_sync_streaming_callbacks=True)
        await anext(stream)
        await eventually(lambda: words.sent == MAX_UNREAD_CHUNKS + 2)
        await stream.aclose()
        return words

    assert run(read()).sent == MAX_UNREAD_CHUNKS + 2


def test_a_shielded_pipeline_goes_on_to_its_end_though_nobody_reads():
    async def read():
        finished = asyncio.Event()

        async def finish():
            finished.set()

        component = AsyncWords([*["word"] * 10 * MAX_UNREAD_CHUNKS, finish])
        stream = async_streaming_generator(pipeline(llm=component), shield_pipeline_task=True)
        await anext(stream)
        await stream.aclose()
        del stream
        gc.collect()
        assert not finished.is_set()
        await finished.wait()
        await component.ended.wait()
        return component

    component = run(read())
    assert component.error is None
    assert component.sent == 10 * MAX_UNREAD_CHUNKS


def test_a_shielded_pipeline_that_fails_later_is_logged(logged):
    async def read():
        gate = asyncio.Event()
        component = AsyncWords(["a", gate.wait, failing(ZeroDivisionError("later"))])
        stream = async_streaming_generator(pipeline(llm=component), shield_pipeline_task=True)
        await anext(stream)
        await stream.aclose()
        gate.set()
        await eventually(lambda: logged)

    run(read())
    assert "later" in logged[0]


@pytest.mark.parametrize("words", [["a"], ["a", failing(ZeroDivisionError())]], ids=["ended", "failed"])
def test_shielding_changes_nothing_for_who_reads_to_the_end(words, logged):
    async def read():
        stream = async_streaming_generator(pipeline(llm=AsyncWords(words)), shield_pipeline_task=True)
        items = []
        try:
            async for item in stream:
                items.append(item.content)
        except PipelineRuntimeError:
            items.append("error")
        await asyncio.sleep(0)
        return items

    assert run(read()) == (["a"] if len(words) == 1 else ["a", "error"])
    assert logged == []


def test_the_pipeline_waits_while_few_chunks_are_unread():
    async def read():
        component = AsyncWords(endless())
        stream = async_streaming_generator(pipeline(llm=component))
        await anext(stream)
        for _ in range(100):
            await asyncio.sleep(0)
        sent = component.sent
        await stream.aclose()
        return sent

    assert run(read()) == MAX_UNREAD_CHUNKS + 2  # one read, MAX_UNREAD_CHUNKS unread, and one that waits


def test_a_slow_reader_gets_every_chunk():
    numbers = [str(number) for number in range(20 * MAX_UNREAD_CHUNKS)]

    assert contents(pipeline(llm=AsyncWords(numbers))) == numbers


def test_streams_of_one_pipeline_at_once_do_not_mix():
    echo = pipeline(llm=MockChatGenerator())

    async def read(number):
        stream = async_streaming_generator(echo, pipeline_run_args={"messages": f"{number} " * 3})
        return [content(item).strip() async for item in stream]

    async def read_all():
        return await asyncio.gather(*[read(number) for number in range(5)])

    assert run(read_all()) == [[str(number)] * 3 for number in range(5)]


def test_no_task_is_left_when_the_stream_has_ended():
    async def read():
        before = asyncio.all_tasks()
        async for _ in async_streaming_generator(pipeline(llm=AsyncWords(["a"]))):
            pass
        await asyncio.sleep(0)
        return asyncio.all_tasks() - before

    assert run(read()) == set()
