"""What items add to an answer, and whose tool calls are whose. Haystack's and OpenAI's own classes, no server."""

from typing import Any

import pytest
from haystack.dataclasses import ChatMessage, ComponentInfo, ReasoningContent, StreamingChunk, ToolCall
from haystack.dataclasses.chat_message import ToolCallResult
from haystack.dataclasses.streaming_chunk import ToolCallDelta
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from hayhooks.errors import PipelineError
from hayhooks.openai.delta import CallDelta, Delta, DeltaAccumulator
from hayhooks.openai.normalize import to_delta

HEAD = {"id": "x", "created": 1, "model": "m"}
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}

FUNCTION_CALL = CallDelta(0, "c1", "add", "{}", is_complete=True)
RESPONSE: dict[str, Any] = {
    "object": "response",
    "output": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "text"}]},
        {"type": "function_call", "id": "fc", "call_id": "c1", "name": "add", "arguments": "{}"},
    ],
    "incomplete_details": {"reason": "max_output_tokens"},
    "usage": {"input_tokens": 3},
}


def openai_chunk(delta: dict[str, Any], finish_reason: str | None = None, **extra: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return {**HEAD, "object": "chat.completion.chunk", "choices": choices, **extra}


class Chunk(StreamingChunk):
    pass


class Written:
    content = "text"


class Event:
    type = "status"

    def __init__(self) -> None:
        self.data = {"description": "searching"}


@pytest.mark.parametrize(
    ("item", "piece"),
    [
        ("text", Delta("text")),
        (StreamingChunk("text", meta={"finish_reason": "stop"}), Delta("text")),
        (Chunk("text"), Delta("text")),
        (Written(), Delta("text")),
        (StreamingChunk("text", finish_reason="length"), Delta("text", finish_reason="length")),
        (StreamingChunk("", finish_reason="tool_call_results"), Delta()),
        (StreamingChunk("", index=0, reasoning=ReasoningContent("hm")), Delta(reasoning="hm")),
        (
            StreamingChunk("", index=0, tool_calls=[ToolCallDelta(0, "add", "{", "c1"), ToolCallDelta(1)]),
            Delta(calls=(CallDelta(0, "c1", "add", "{"), CallDelta(1, None, None, ""))),
        ),
        (
            StreamingChunk("", index=0, tool_call_result=ToolCallResult("2", ToolCall("add", {}, "c1"), error=False)),
            Delta(results=(("c1", "add"),)),
        ),
        (StreamingChunk("", meta={"usage": {"prompt_tokens": 3, "cost": 0.1}}), Delta(usage={"prompt_tokens": 3})),
        (StreamingChunk("", meta={"usage": None}), Delta()),
        (
            StreamingChunk("", meta={"response": {"usage": {"input_tokens": 3, "output_tokens": 1}}}),
            Delta(usage={"input_tokens": 3, "output_tokens": 1}),
        ),
        (StreamingChunk("a", component_info=ComponentInfo("T", "llm")), Delta("a", source=("T", "llm"))),
        (ChatMessage.from_assistant("text"), Delta("text")),
        (
            ChatMessage.from_assistant(
                "text",
                reasoning="hm",
                tool_calls=[ToolCall("add", {"a": "ä"}, "c1")],
                meta={"finish_reason": "tool_calls", "usage": {"prompt_tokens": 3}},
            ),
            Delta(
                "text",
                "hm",
                (CallDelta(0, "c1", "add", '{"a": "ä"}', is_complete=True),),
                finish_reason="tool_calls",
                usage={"prompt_tokens": 3},
            ),
        ),
        (ChatMessage.from_tool("2", ToolCall("add", {}, "c1")), Delta(results=(("c1", "add"),))),
        (Event(), Delta(event={"type": "status", "data": {"description": "searching"}})),
        ({"type": "message", "data": None}, Delta(event={"type": "message", "data": None})),
        ({"role": "assistant", "content": "text"}, Delta("text")),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"text": "b"}]}, Delta("ab")),
        ({"content": None, "refusal": "no"}, Delta("no")),
        ({"content": None, "tool_calls": [CALL]}, Delta(calls=(CallDelta(0, "c1", "add", '{"a": 1}'),))),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "index": None}]},
            Delta(calls=(CallDelta(0, "c1", "add", '{"a": 1}'),)),
        ),
        (openai_chunk({"role": "assistant", "content": ""}), Delta()),
        (openai_chunk({"content": "a"}, "stop"), Delta("a", finish_reason="stop")),
        (openai_chunk({"reasoning_content": "hm"}), Delta(reasoning="hm")),
        (openai_chunk({"reasoning": "hm"}), Delta(reasoning="hm")),
        (openai_chunk({"tool_calls": [CALL]}), Delta(calls=(CallDelta(0, "c1", "add", '{"a": 1}'),))),
        (RESPONSE, Delta("text", "hm", (FUNCTION_CALL,), finish_reason="length", usage={"input_tokens": 3})),
        ({"type": "response.output_text.delta", "delta": "a"}, Delta("a")),
        ({"type": "response.reasoning_summary_text.delta", "delta": "hm"}, Delta(reasoning="hm")),
        ({"type": "response.output_text.done", "text": "a"}, Delta()),
        ({"type": "response.output_item.done", "item": RESPONSE["output"][2]}, Delta(calls=(FUNCTION_CALL,))),
        (
            {"type": "response.incomplete", "response": RESPONSE},
            Delta(finish_reason="length", usage={"input_tokens": 3}),
        ),
        ({**HEAD, "choices": [], "usage": {"total_tokens": 3}}, Delta(usage={"total_tokens": 3})),
        ({**HEAD, "choices": [], "event": {"type": "a"}}, Delta(event={"type": "a"})),
    ],
)
def test_an_item_adds(item: Any, piece: Delta):
    assert to_delta(item) == piece


def test_objects_of_openais_client_add_what_their_dicts_do():
    chunk = openai_chunk(
        {"content": "a"}, "stop", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    )
    whole = {**chunk, "object": "chat.completion"}
    whole["choices"] = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a"}}]

    assert to_delta(ChatCompletionChunk.model_validate(chunk)) == to_delta(chunk)
    assert to_delta(ChatCompletion.model_validate(whole)) == to_delta(whole) == to_delta(chunk)


@pytest.mark.parametrize(
    "item",
    [7, b"x", ["x"], {}, {"replies": []}, {"choices": "x"}, {"type": 1, "data": 2}, object(), Delta],
)
def test_what_is_nothing_of_this_is_refused_and_named(item: Any):
    with pytest.raises(PipelineError, match=type(item).__name__):
        to_delta(item)


def test_a_response_that_failed_elsewhere_fails_here():
    with pytest.raises(PipelineError, match="it broke"):
        to_delta({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "it broke"}}})


def call(name: str | None, arguments: str | None, id: str | None = None, index: int = 0, **more: Any) -> StreamingChunk:
    return StreamingChunk("", index=0, tool_calls=[ToolCallDelta(index, name, arguments, id)], **more)


def result(name: str, id: str | None = None) -> StreamingChunk:
    return StreamingChunk("", index=0, tool_call_result=ToolCallResult("2", ToolCall(name, {}, id), error=False))


def tally(*items: Any) -> DeltaAccumulator:
    tally = DeltaAccumulator()
    for item in items:
        tally.add(to_delta(item))
    return tally


LLM: dict[str, Any] = {"component_info": ComponentInfo("Generator")}


@pytest.mark.parametrize(
    ("items", "calls"),
    [
        ([call("add", '{"a"', "c1"), call(None, ": 1}")], [("c1", "add", '{"a": 1}')]),
        ([call("add", "{", "c1"), call("add", "}", "c1")], [("c1", "add", "{}")]),  # name and id in each
        ([call("add", "{}", "c1"), call("add", "{}", "c2")], [("c1", "add", "{}"), ("c2", "add", "{}")]),  # all index 0
        ([call("add", "{}", "c1", 1)], [("c1", "add", "{}")]),  # Haystack counts text blocks too
        ([call("add", None, "c1")], [("c1", "add", "{}")]),
        ([call("add", "{", "c1"), call("mul", "{", "c2", 1), call(None, "}", index=0), call(None, "}", index=1)],
         [("c1", "add", "{}"), ("c2", "mul", "{}")]),
        ([call("add", "{}", "c1"), result("add", "c1")], []),
        ([call("add", "{}"), result("add")], []),
        ([call("add", "{}", "c1"), call("add", "{}", "c2", 1), result("add", "c2")], [("c1", "add", "{}")]),
        ([call("add", "{}", "c1"), result("add", "c1"), "text", call("mul", "{}", "c2")], [("c2", "mul", "{}")]),
        ([call("add", "{}", "c1"), result("mul", "c9")], [("c1", "add", "{}")]),
        # A call of a tool that an Agent does not have gets no result in the stream; that the model goes on tells.
        ([call("no", "{}", "c1", finish_reason="tool_calls", **LLM), StreamingChunk("text", **LLM)], []),
        ([call("no", "{}", "c1", **LLM), StreamingChunk("text", **LLM)], [("c1", "no", "{}")]),
        ([call("no", "{}", "c1", finish_reason="tool_calls", **LLM), "text"], [("c1", "no", "{}")]),
        ([ChatMessage.from_assistant(tool_calls=[ToolCall("add", {}, "c1")]),
          ChatMessage.from_tool("2", ToolCall("add", {}, "c1")), ChatMessage.from_assistant("text")], []),
    ],
)  # fmt: skip
def test_pending_calls_are_the_clients_and_answered_ones_the_agents(
    items: list[Any], calls: list[tuple[str, str, str]]
):
    assert [(call.id, call.name, call.arguments) for call in tally(*items).calls] == calls


def test_calls_without_an_id_get_one_each():
    one, two = tally(ChatMessage.from_assistant(tool_calls=[ToolCall("add", {}), ToolCall("add", {})])).calls

    assert one.id is not None
    assert two.id not in (None, one.id)


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([], "stop"),
        ([StreamingChunk("a", finish_reason="length")], "length"),
        ([StreamingChunk("a", finish_reason="content_filter"), "b"], "content_filter"),
        ([call("add", "{}", "c1", finish_reason="stop")], "tool_calls"),  # some providers say so
        ([call("add", "{}", "c1", finish_reason="tool_calls"), result("add", "c1")], "stop"),
        ([call("add", "{}", "c1", finish_reason="tool_calls"), StreamingChunk("", finish_reason="tool_call_results")],
         "tool_calls"),
        ([call("add", "{}", "c1", finish_reason="length")], "length"),
    ],
)  # fmt: skip
def test_the_finish_reason_is_the_pipelines_or_follows_from_the_calls(items: list[Any], reason: str):
    assert tally(*items).finish_reason == reason


def usage(prompt: int, completion: int, **more: Any) -> StreamingChunk:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "details": {"cached": prompt}}
    return StreamingChunk("", meta={"usage": counts}, **more)


def test_usage_is_the_last_of_each_model_and_step_summed_up():
    assert tally("a").usage == {}
    assert tally(usage(1, 1), usage(1, 5)).usage == {
        "prompt_tokens": 1,
        "completion_tokens": 5,
        "details": {"cached": 1},
    }
    agent = tally(call("add", "{}", "c1"), usage(1, 2), result("add", "c1"), usage(10, 20))
    assert agent.usage == {"prompt_tokens": 11, "completion_tokens": 22, "details": {"cached": 11}}
    two = tally(
        usage(1, 2, component_info=ComponentInfo("T", "a")), usage(3, 4, component_info=ComponentInfo("T", "b"))
    )
    assert two.usage == {"prompt_tokens": 4, "completion_tokens": 6, "details": {"cached": 4}}
