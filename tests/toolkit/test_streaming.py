import contextvars
import copy
import itertools
import json
import queue
import subprocess
import sys
import threading
from typing import Any

import pytest
from haystack.components.generators.chat import FallbackChatGenerator, MockChatGenerator
from haystack.core.errors import PipelineRuntimeError
from haystack.dataclasses import ChatMessage, StreamingChunk, ToolCallDelta
from haystack.dataclasses.chat_message import ReasoningContent

from hayhooks.toolkit.channel import MAX_UNREAD_CHUNKS
from hayhooks.toolkit.streaming import PipelineStream, streaming_generator
from tests.toolkit.components import (
    SECONDS,
    Parallel,
    Upper,
    Words,
    chunk_of,
    content,
    endless,
    failing,
    pipeline,
    weather_agent,
)

ASK = {"messages": [ChatMessage.from_user("Weather in Rome?")]}
ENVIRONMENT = "HAYHOOKS_STREAMING_COMPONENTS"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def contents(pipeline, **options):
    return [content(item) for item in streaming_generator(pipeline, **options)]


def ended(words):
    """Wait until the thread that runs *words* has ended."""
    words.thread.join(SECONDS)
    return not words.thread.is_alive()


# What comes, and in which order


def test_chunks_come_as_the_component_sends_them():
    items = list(streaming_generator(pipeline(llm=Words(["a", "b", "c"]))))

    assert items == [StreamingChunk("a"), StreamingChunk("b"), StreamingChunk("c")]


def test_the_first_chunk_comes_while_the_pipeline_still_runs():
    gate = threading.Event()
    stream = streaming_generator(pipeline(llm=Words(["a", lambda: gate.wait(SECONDS), "b"])))

    assert next(stream).content == "a"
    gate.set()
    assert [item.content for item in stream] == ["b"]


def test_nothing_runs_before_the_first_item_is_asked_for():
    words = Words(["a"])
    streaming_generator(pipeline(llm=words)).close()

    assert words.thread is None


def test_callback_results_come_before_their_chunk():
    """What callbacks return comes before the chunk and the end after all."""
    texts = contents(
        weather_agent(),
        pipeline_run_args=ASK,
        on_tool_call_start=lambda name, arguments, call_id: f"<{name} {arguments} {call_id}>",
        on_tool_call_end=lambda name, arguments, result, error: f"<{name} {arguments} {result} {error}>",
        on_pipeline_end=lambda result: f"<{result['last_message'].text}>",
    )

    assert texts == [
        "<weather {'city': 'Rome'} 1>",
        "",  # the call
        "<weather {'city': 'Rome'} sunny in Rome False>",
        "",  # its result
        "",  # all results are there
        "It ",
        "is ",
        "sunny",
        "<It is sunny>",
    ]


def test_callbacks_may_return_nothing_a_text_an_event_or_several():
    event = {"type": "status"}
    returned = iter([None, "", "text", event, ["one", event, None]])
    words = Words([chunk_of("llm", reasoning=ReasoningContent(text)) for text in "12345"])

    items = contents(pipeline(llm=words), on_reasoning=lambda text, extra: next(returned))

    assert items == ["", "", "text", "", event, "", "one", event, ""]


def test_reasoning_is_told_piece_by_piece():
    told: list[object] = []
    words = Words([chunk_of("llm", reasoning=ReasoningContent("hm", {"id": 1})), "a"])

    contents(pipeline(llm=words), on_reasoning=lambda text, extra: told.append((text, extra)))

    assert told == [("hm", {"id": 1})]


def calls_started(*chunks):
    started = []
    contents(pipeline(llm=Words(chunks)), on_tool_call_start=lambda *call: started.append(call))
    return started


def delta(index=0, name=None, arguments=None, id=None, **fields):
    return chunk_of("llm", tool_calls=[ToolCallDelta(index, name, arguments, id)], **fields)


def test_tool_call_in_pieces_starts_once():
    """A tool call in pieces starts once with the arguments that are complete."""
    pieces = [delta(name="f", id="1"), delta(arguments='{"x":'), delta(arguments=" 1}")]

    assert calls_started(*pieces) == [("f", {}, "1")]


@pytest.mark.parametrize("arguments", ['{"x": ', "[1]", None, ""])
def test_arguments_that_are_no_object_yet_are_empty(arguments):
    assert calls_started(delta(name="f", arguments=arguments)) == [("f", {}, None)]


def test_a_name_repeated_in_every_piece_starts_one_call():
    assert calls_started(delta(name="f", id="1"), delta(name="f", id="1"), delta(name="f")) == [("f", {}, "1")]


def test_calls_that_share_an_index_are_told_apart_by_their_ids():
    assert calls_started(delta(name="f", id="1"), delta(name="f", id="2")) == [("f", {}, "1"), ("f", {}, "2")]


def test_the_next_step_of_an_agent_starts_calls_anew():
    step = [delta(name="f"), delta(finish_reason="tool_calls")]

    assert calls_started(*step, *step) == [("f", {}, None), ("f", {}, None)]


def test_a_callback_that_raises_is_logged_and_the_stream_goes_on(logged):
    def fail(*arguments):
        raise ZeroDivisionError("the callback's")

    texts = contents(
        weather_agent(),
        pipeline_run_args=ASK,
        on_tool_call_start=fail,
        on_tool_call_end=fail,
        on_pipeline_end=fail,
    )

    assert "".join(texts) == "It is sunny"
    assert sum("the callback's" in message for message in logged) == 3


def test_a_coroutine_function_is_refused_as_a_callback():
    async def callback(result):
        raise NotImplementedError

    with pytest.raises(ValueError, match="async_streaming_generator"):
        streaming_generator(pipeline(llm=Words([])), on_pipeline_end=callback)


def test_the_end_is_told_the_result_with_the_outputs_that_were_asked_for():
    told: list[object] = []
    chain = pipeline(llm=Words([]), upper=Upper())
    chain.connect("llm", "upper")

    contents(
        chain,
        pipeline_run_args={"llm": {"prompt": "x"}},
        on_pipeline_end=told.append,
        include_outputs_from={"llm"},
    )

    assert told == [{"llm": {"text": "x"}, "upper": {"text": "X"}}]


def test_error_comes_after_earlier_chunks():
    """An error comes after the chunks before it and is the pipelines own."""
    cause = ZeroDivisionError("in mid-stream")
    stream = streaming_generator(pipeline(llm=Words(["a", "b", failing(cause), "c"])))

    assert [next(stream).content, next(stream).content] == ["a", "b"]
    with pytest.raises(PipelineRuntimeError) as raised:
        next(stream)
    assert raised.value.__cause__ is cause


def test_an_agents_error_is_raised_as_it_is():
    cause = ZeroDivisionError("no model")
    agent = weather_agent(MockChatGenerator(response_fn=lambda messages: failing(cause)()))

    with pytest.raises(ZeroDivisionError) as raised:
        contents(agent, pipeline_run_args=ASK)
    assert raised.value is cause


# Events of the user's


def test_events_come_at_once_while_the_pipeline_is_silent():
    gate = threading.Event()
    events: queue.Queue[object] = queue.Queue()
    words = Words(["a", lambda: events.put({"progress": 50}), lambda: gate.wait(SECONDS), "b"])
    stream = streaming_generator(pipeline(llm=words), external_event_queue=events)

    assert content(next(stream)) == "a"
    assert next(stream) == {"progress": 50}
    gate.set()
    assert [content(item) for item in stream] == ["b"]


def test_events_keep_their_place_among_chunks_that_are_read_late():
    gate = threading.Event()
    events: queue.Queue[object] = queue.Queue()
    words = Words(["a", lambda: events.put(1), "b", lambda: events.put(2), lambda: events.put(3), "c", gate.set])
    stream = streaming_generator(pipeline(llm=words), external_event_queue=events)

    first = content(next(stream))
    assert gate.wait(SECONDS)
    assert [first, *map(content, stream)] == ["a", 1, "b", 2, 3, "c"]


def test_events_before_the_first_and_after_the_last_chunk_come_too():
    events: queue.Queue[object] = queue.Queue()
    events.put("first")
    words = Words(["a", lambda: events.put("last")])

    assert contents(pipeline(llm=words), external_event_queue=events) == ["first", "a", "last"]


def test_streams_that_share_a_queue_both_end():
    gate = threading.Event()
    events: queue.Queue[object] = queue.Queue()
    streams = [
        streaming_generator(pipeline(llm=Words(["a", lambda: gate.wait(SECONDS)])), external_event_queue=events)
        for _ in range(2)
    ]
    assert [content(next(stream)) for stream in streams] == ["a", "a"]
    rests: list[list[int]] = [[], []]
    readers = [
        threading.Thread(target=rest.extend, args=(stream,)) for rest, stream in zip(rests, streams, strict=True)
    ]
    for reader in readers:
        reader.start()
    for number in range(100):
        events.put(number)
    gate.set()

    for reader in readers:
        reader.join(SECONDS)
    assert sorted(rests[0] + rests[1]) == list(range(100))


# Which components stream


def two_and_one_silent():
    return pipeline(first=Words(["1"]), last=Words(["2"]), silent=Upper())


RUN = {"silent": {"text": ""}}


def streamed(**options):
    return sorted(contents(two_and_one_silent(), pipeline_run_args=RUN, **options))


def test_the_last_streaming_component_streams_by_default():
    assert streamed() == ["2"]


def test_all_components_stream_when_asked():
    assert streamed(streaming_components="all") == ["1", "2"]


def test_named_components_stream_when_asked():
    assert streamed(streaming_components=["first"]) == ["1"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("all", ["1", "2"]),
        (" ALL ", ["1", "2"]),
        ("first", ["1"]),
        ("first, last", ["1", "2"]),
        ('["first"]', ["1"]),
        ("", ["2"]),
        ("first,another pipeline's", ["1"]),
        ("another pipeline's", ["2"]),
    ],
)
def test_the_environment_says_what_the_argument_does_not(monkeypatch, value, expected):
    monkeypatch.setenv(ENVIRONMENT, value)

    assert streamed() == expected
    assert streamed(streaming_components=["last"]) == ["2"]


@pytest.mark.parametrize("name", ["nobody", "silent"])
def test_a_name_of_no_streaming_component_is_refused_at_the_call(name):
    with pytest.raises(ValueError, match=name):
        streaming_generator(two_and_one_silent(), streaming_components=["first", name])


@pytest.mark.parametrize("silent", [pipeline(silent=Upper()), pipeline(), Upper(), None])
def test_a_pipeline_without_a_streaming_component_is_refused_at_the_call(silent):
    with pytest.raises(ValueError, match="No streaming component"):
        streaming_generator(silent)


def test_an_agent_streams_whatever_components_are_named(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "llm")

    assert "".join(contents(weather_agent(), pipeline_run_args=ASK, streaming_components=["llm"])) == "It is sunny"


def test_an_agent_in_a_pipeline_streams():
    texts = contents(pipeline(agent=weather_agent()), pipeline_run_args={"agent": ASK})

    assert "".join(texts) == "It is sunny"


# Run arguments


@pytest.mark.parametrize("data", [{"llm": {"prompt": "x"}}, {"prompt": "x"}])
def test_run_arguments_are_understood_nested_and_flat_and_never_changed(data):
    before, told = copy.deepcopy(data), list[object]()

    assert contents(pipeline(llm=Words(["a"])), pipeline_run_args=data, on_pipeline_end=told.append) == ["a"]
    assert told == [{"llm": {"text": "x"}}]
    assert data == before


def test_an_agents_arguments_are_not_changed():
    arguments = dict(ASK)
    contents(weather_agent(), pipeline_run_args=arguments)

    assert arguments == ASK


@pytest.mark.parametrize("place", ["nested", "flat", "component"])
def test_the_users_own_streaming_callback_is_called_too(place):
    seen = []

    def own(chunk):
        seen.append(chunk.content)

    data = {"nested": {"llm": {"streaming_callback": own}}, "flat": {"streaming_callback": own}, "component": {}}
    words = Words(["a", "b"], streaming_callback=own if place == "component" else None)

    assert contents(pipeline(llm=words), pipeline_run_args=data[place]) == ["a", "b"]
    assert seen == ["a", "b"]


def test_an_agents_own_streaming_callback_is_called_too():
    seen: list[StreamingChunk] = []
    contents(weather_agent(), pipeline_run_args={**ASK, "streaming_callback": seen.append})

    assert "".join(chunk.content for chunk in seen) == "It is sunny"


def test_context_variables_of_the_call_reach_the_pipeline():
    request, seen = contextvars.ContextVar("request", default="none"), list[str]()
    words = Words([lambda: seen.append(request.get())])
    token = request.set("mine")
    stream = streaming_generator(pipeline(llm=words))
    request.reset(token)

    assert list(stream) == []
    assert seen == ["mine"]


def test_streams_of_one_pipeline_at_once_do_not_mix():
    echo = pipeline(llm=MockChatGenerator())
    streams = [streaming_generator(echo, pipeline_run_args={"messages": f"{n} {n} {n}"}) for n in range(5)]
    firsts = [next(stream).content for stream in streams]

    assert firsts == [f"{n} " for n in range(5)]
    assert [[content(item) for item in stream] for stream in streams] == [[f"{n} ", f"{n}"] for n in range(5)]


# Leaving, and reading slowly


def test_closing_stops_the_pipeline_at_its_next_chunk():
    gate = threading.Event()
    words = Words(["a", lambda: gate.wait(SECONDS), "b", "c"])
    stream = streaming_generator(pipeline(llm=words))
    next(stream)

    stream.close()
    gate.set()

    assert ended(words)
    assert words.sent == 2  # "b" was the next


def test_closing_stops_a_pipeline_that_waits_for_the_reader():
    words = Words(endless())
    stream = streaming_generator(pipeline(llm=words))
    next(stream)
    stream.close()

    assert ended(words)


def test_dropping_the_generator_stops_the_pipeline():
    words = Words(endless())
    stream = streaming_generator(pipeline(llm=words))
    next(stream)
    del stream

    assert ended(words)


def test_threads_of_a_component_that_wait_for_the_reader_are_all_stopped():
    parallel = Parallel([Words(endless()) for _ in range(5)])
    stream = streaming_generator(pipeline(parallel=parallel))
    next(stream)
    stream.close()

    assert ended(parallel)
    assert all(ended(words) for words in parallel.parts)


def test_leaving_does_not_look_like_a_failure_to_components_that_try_again():
    tried: list[object] = []
    tries: Any = tried.append
    chat = FallbackChatGenerator([MockChatGenerator("word " * 100), MockChatGenerator(response_fn=tries)])
    threads = set(threading.enumerate())
    stream = streaming_generator(pipeline(llm=chat), pipeline_run_args=ASK)
    next(stream)
    (thread,) = set(threading.enumerate()) - threads
    stream.close()

    thread.join(SECONDS)
    assert not thread.is_alive()
    assert tried == []


def test_the_pipeline_waits_while_few_chunks_are_unread():
    ahead = threading.Event()
    words = Words(itertools.chain(["word"] * (MAX_UNREAD_CHUNKS + 1), [ahead.set], endless()))
    stream = streaming_generator(pipeline(llm=words))
    next(stream)

    assert ahead.wait(SECONDS)
    stream.close()
    assert ended(words)
    assert words.sent == MAX_UNREAD_CHUNKS + 2  # one read, MAX_UNREAD_CHUNKS unread, and one that waited


def test_a_slow_reader_gets_every_chunk():
    numbers = [str(number) for number in range(20 * MAX_UNREAD_CHUNKS)]

    assert contents(pipeline(llm=Words(numbers))) == numbers


def test_no_thread_is_left_when_the_stream_has_ended():
    words = Words(["a"])
    contents(pipeline(llm=words))

    assert not words.thread.is_alive()


def test_no_thread_is_left_when_the_stream_has_failed():
    words = Words([failing(ZeroDivisionError())])
    with pytest.raises(PipelineRuntimeError):
        contents(pipeline(llm=words))

    assert not words.thread.is_alive()


def test_importing_does_not_import_haystack():
    """The command line imports this, and Haystack takes a second."""
    code = (
        "import sys, json, hayhooks.toolkit.streaming, hayhooks.toolkit.messages;"
        "print(json.dumps('haystack' in sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert json.loads(output.stdout) is False


# Feeding: who has a thread runs the pipeline in it


def fed(stream: PipelineStream, most: int = 10**6) -> tuple[list[Any], Exception | None]:
    """What the server would send, and what was raised; it takes *most* items, and then no more."""
    items: list[Any] = []

    def put(item: Any) -> bool:
        if len(items) < most:
            items.append(content(item))
        return len(items) < most

    try:
        stream.feed(put)
    except Exception as error:
        return items, error
    return items, None


def test_fed_items_equal_read_items():
    """Fed items are those that a reader gets and the pipeline runs in the feeding thread."""
    options: dict[str, Any] = {
        "pipeline_run_args": ASK,
        "on_tool_call_start": lambda *_: ["<start>", {"type": "status"}],
        "on_tool_call_end": lambda *_: "<end>",
        "on_pipeline_end": lambda result: result["last_message"].text,
    }
    assert fed(streaming_generator(weather_agent(), **options)) == (contents(weather_agent(), **options), None)

    words = Words(["a", "b"])
    assert fed(streaming_generator(pipeline(llm=words))) == (["a", "b"], None)
    assert words.thread is threading.current_thread()


def test_a_fed_error_comes_after_the_chunks_before_it():
    items, error = fed(streaming_generator(pipeline(llm=Words(["a", failing(ValueError("broken"))]))))

    assert items == ["a"]
    assert isinstance(error, PipelineRuntimeError)
    assert "broken" in str(error)


def test_a_fed_pipeline_stops_at_the_chunk_that_nobody_takes():
    words = Words(endless())
    assert fed(streaming_generator(pipeline(llm=words)), most=3) == (["word"] * 3, None)
    assert words.sent == 3

    parallel = Parallel([Words(endless()) for _ in range(5)])
    fed(streaming_generator(pipeline(parallel=parallel)), most=30)  # and no thread is left, or this would not return


def test_what_has_been_begun_or_has_a_queue_is_fed_too():
    begun = streaming_generator(pipeline(llm=Words(["a", "b", "c"])))
    assert content(next(begun)) == "a"
    assert fed(begun) == (["b", "c"], None)

    events: queue.Queue[Any] = queue.Queue()
    events.put("event")
    stream = streaming_generator(pipeline(llm=Words(["a"])), external_event_queue=events)
    assert fed(stream, most=1) == (["event"], None)
    stream.close()


def test_context_variables_of_the_call_reach_a_fed_pipeline():
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set at the call")
    seen: list[str] = []
    stream = streaming_generator(pipeline(llm=Words([lambda: seen.append(variable.get())])))
    variable.set("set later")

    fed(stream)

    assert seen == ["set at the call"]
