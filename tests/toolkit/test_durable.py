"""What a durable attempt keeps, for later attempts."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from haystack import Document, Pipeline, component
from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import tool
from pydantic import BaseModel

from hayhooks import BasePipelineWrapper, DurableContext, DurableExecutionCancelledError
from hayhooks.testing import Execution
from hayhooks.testing.execution import MemoryJournal

calls: list[str] = []
broken: set[str] = set()


@pytest.fixture(autouse=True)
def _forget() -> None:
    calls.clear()
    broken.clear()


def work(name: str) -> str:
    calls.append(name)
    if name in broken:
        broken.remove(name)
        raise ConnectionError(name)
    return name


@component
class Works:
    """Notes its input, and passes it on."""

    @component.output_types(value=Any)
    def run(self, value: Any) -> dict[str, Any]:
        work(f"sync {value}")
        return {"value": value}


@component
class WorksAsync:
    """Does the same, on the event loop too."""

    @component.output_types(value=Any)
    def run(self, value: Any) -> dict[str, Any]:
        work(f"sync {value}")
        return {"value": value}

    @component.output_types(value=Any)
    async def run_async(self, value: Any) -> dict[str, Any]:
        work(f"async {value}")
        return {"value": value}


class Request(BaseModel):
    pass


class Wrapper(BasePipelineWrapper):
    """Runs *act* in each attempt."""

    def __init__(self, act: Callable[["Wrapper", DurableContext], Any]) -> None:
        super().__init__()
        self.act = act

    def setup(self) -> None:
        self.pipeline = Pipeline()
        self.pipeline.add_component("first", Works())
        self.pipeline.add_component("second", WorksAsync())
        self.pipeline.connect("first.value", "second.value")
        self.other = Pipeline()
        self.other.add_component("first", WorksAsync())

    def run_durable(self, context: DurableContext, request: Request) -> Any:
        return self.act(self, context)


class AsyncWrapper(Wrapper):
    run_durable = BasePipelineWrapper.run_durable

    async def run_durable_async(self, context: DurableContext, request: Request) -> Any:
        return await self.act(self, context)


def attempts(wrapper: Wrapper) -> Any:
    """Run attempts until one does not raise ConnectionError, and return its result."""
    execution = Execution(wrapper, {})
    while True:
        try:
            return execution.run()
        except Exception as error:
            if "Error" not in f"{error!r}" or execution.attempt > 5 or isinstance(error, AssertionError):
                raise


def test_a_step_that_fails_may_be_tried_again_in_the_same_attempt():
    async def act(_: Wrapper, context: DurableContext) -> Any:
        while True:
            try:
                return await context.step("load", work, "load")
            except ConnectionError:
                continue

    broken.add("load")

    assert attempts(AsyncWrapper(act)) == "load"
    assert calls == ["load", "load"]


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_step_has_a_name(name: Any):
    async def act(_: Wrapper, context: DurableContext) -> Any:
        await context.step(name, work, "x")

    with pytest.raises(TypeError, match="must be a text, not empty"):
        Execution(AsyncWrapper(act), {}).run()


def test_each_attempt_gets_the_same_result_of_a_step():
    results = []

    async def act(_: Wrapper, context: DurableContext) -> None:
        results.append(await context.step("pair", lambda: {1: (1, 2)}))
        await context.step("then", work, "then")

    broken.add("then")
    attempts(AsyncWrapper(act))

    assert results == [{"1": [1, 2]}, {"1": [1, 2]}]


def test_a_sync_step_runs_in_the_thread_of_its_method_and_an_async_one_on_the_loop():
    async def on_loop() -> int:
        return threading.get_ident()

    def act(_: Wrapper, context: DurableContext) -> list[int]:
        steps = [context.step_sync("thread", threading.get_ident), context.step_sync("loop", on_loop)]
        return [*steps, threading.get_ident()]

    in_thread, in_loop, own = Execution(Wrapper(act), {}).run()
    assert in_thread == own != in_loop


def test_state_that_no_checkpoint_has_kept_is_lost():
    async def act(_: Wrapper, context: DurableContext) -> Any:
        seen = list(context.state.setdefault("done", []))
        context.state["done"].append(1)
        if context.attempt == 1:
            await context.checkpoint()
        context.state["done"].append(2)
        work("then")
        return seen

    broken.add("then")

    assert attempts(AsyncWrapper(act)) == [1]


@pytest.mark.parametrize("way", ["run_pipeline", "run", "other"])
def test_components_in_a_loop_of_steps_are_known_by_their_step(way: str):
    """A step that is kept runs none of its components: later ones must not take their places."""

    def index(wrapper: Wrapper, context: DurableContext, number: int) -> Any:
        if way == "run_pipeline":
            outputs = context.run_pipeline({"first": {"value": "same"}})
        elif way == "run":
            outputs = wrapper.pipeline.run({"first": {"value": "same"}})
        else:
            wrapper.other.run({"first": {"value": "same"}})
            outputs = {"second": {"value": "same"}}
        work(f"end {number}")
        return outputs["second"]["value"]

    def act(wrapper: Wrapper, context: DurableContext) -> Any:
        return [context.step_sync(f"index {number}", index, wrapper, context, number) for number in range(3)]

    broken.add("end 1")

    assert attempts(Wrapper(act)) == ["same"] * 3
    each = ["sync same"] if way == "other" else ["sync same"] * 2
    assert calls == [*each, "end 0", *each, "end 1", "end 1", *each, "end 2"]


@dataclass
class Lossy:
    """Cannot be written."""

    text: str


@dataclass
class Own:
    """Can be written."""

    text: str

    def to_dict(self) -> dict[str, str]:
        return {"text": self.text}

    @classmethod
    def from_dict(cls, data: dict[str, str]) -> "Own":
        return cls(**data)


VALUES: dict[str, tuple[Any, bool]] = {
    "documents": ([Document(content="a", meta={"page": 1})], True),
    "a chat": ([ChatMessage.from_user("é")], True),
    "a tuple and a set": ((1, {"a"}), True),
    "keys that are no text": ({1: "a"}, False),
    "NaN": (float("nan"), False),
    "a class of the wrapper": (Own("a"), True),
    "one that has no to_dict": (Lossy("a"), False),
    "a large text": ("x" * 3_000, False),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_value_comes_back_as_it_was_or_its_component_runs_again(kind: str, way: str, monkeypatch: pytest.MonkeyPatch):
    value, is_kept = VALUES[kind]
    monkeypatch.setattr(MemoryJournal, "max_payload", 2_000)

    async def act_async(wrapper: Wrapper, context: DurableContext) -> Any:
        outputs = await context.run_pipeline_async({"first": {"value": value}}, include_outputs_from={"first"})
        work("end")
        return outputs

    def act(wrapper: Wrapper, context: DurableContext) -> Any:
        outputs = context.run_pipeline({"first": {"value": value}}, include_outputs_from={"first"})
        work("end")
        return outputs

    broken.add("end")
    outputs = attempts(Wrapper(act) if way == "sync" else AsyncWrapper(act_async))

    assert len(calls) == (4 if is_kept else 6)
    assert repr(outputs) == repr({"first": {"value": value}, "second": {"value": value}})


def test_a_component_is_called_as_before():
    """A wrapper may call it by position, and outside of attempts."""

    def act(wrapper: Wrapper, context: DurableContext) -> Any:
        return wrapper.pipeline.get_component("first").run("position")

    wrapper = Wrapper(act)

    assert Execution(wrapper, {}).run() == {"value": "position"}
    assert wrapper.pipeline.run({"first": {"value": 1}}) == {"second": {"value": 1}}


def test_a_sync_pipeline_that_blocks_the_loop_runs_without_a_memo():
    async def act(wrapper: Wrapper, context: DurableContext) -> Any:
        return wrapper.pipeline.run({"first": {"value": 1}})

    assert Execution(AsyncWrapper(act), {}).run() == {"second": {"value": 1}}


@pytest.mark.parametrize(("memo", "again"), [(True, []), (False, ["sync 1", "sync 1"]), (["second"], ["sync 1"])])
def test_a_wrapper_says_which_components_are_remembered(memo: Any, again: list[str]):
    def act(wrapper: Wrapper, context: DurableContext) -> Any:
        context.run_pipeline({"first": {"value": 1}})
        work("end")

    wrapper = Wrapper(act)
    wrapper.durable_memo = memo
    broken.add("end")
    attempts(wrapper)

    assert calls == ["sync 1", "sync 1", "end", *again, "end"]


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return work(f"tool {word}")


@component
class Scripted:
    """Looks up what it is asked for, then answers with the result."""

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], tools: Any = None, **_: Any) -> dict[str, list[ChatMessage]]:
        last = messages[-1]
        if last.tool_call_result is not None:
            text = work(f"answer {last.tool_call_result.result}")
            return {"replies": [ChatMessage.from_assistant(text)]}
        call = ToolCall("look_up", {"word": work(last.text or "")})
        return {"replies": [ChatMessage.from_assistant(tool_calls=[call])]}


class TwoAgents(Wrapper):
    def setup(self) -> None:
        self.pipeline = Agent(chat_generator=Scripted(), tools=[look_up])


@pytest.mark.parametrize("at", ["answer tool a", "answer tool b", "end"])
def test_each_run_of_an_agent_goes_on_by_itself(at: str):
    def act(wrapper: Wrapper, context: DurableContext) -> Any:
        results = [context.run_agent(messages=[ChatMessage.from_user(word)])["last_message"].text for word in "ab"]
        work("end")
        return results

    broken.add(at)

    assert attempts(TwoAgents(act)) == ["answer tool a", "answer tool b"]
    done = ["a", "tool a", "answer tool a", "b", "tool b", "answer tool b", "end"]
    assert calls == sorted([*done, at], key=done.index)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_cancellation_within_a_pipeline_is_one(way: str):
    def act(wrapper: Wrapper, context: DurableContext) -> Any:
        with pytest.raises(DurableExecutionCancelledError):
            context.run_pipeline({"first": {"value": 1}})
        return calls

    async def act_async(wrapper: Wrapper, context: DurableContext) -> Any:
        with pytest.raises(DurableExecutionCancelledError):
            await context.run_pipeline_async({"first": {"value": 1}})
        return calls

    execution = Execution(Wrapper(act) if way == "sync" else AsyncWrapper(act_async), {})
    execution.cancel()

    assert execution.run() == []


DONE = ["a", "tool a", "answer tool a", "b", "tool b", "answer tool b", "end"]


@pytest.mark.parametrize("at", ["answer tool a", "answer tool b", "end"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_agent_that_is_run_without_the_context_goes_on_too(at: str, way: str):
    def act(wrapper: Wrapper, context: DurableContext) -> Any:
        for word in "ab":
            wrapper.pipeline.run(messages=[ChatMessage.from_user(word)])
        return work("end")

    async def act_async(wrapper: Wrapper, context: DurableContext) -> Any:
        for word in "ab":
            await wrapper.pipeline.run_async([ChatMessage.from_user(word)])
        return work("end")

    class TwoAsyncAgents(AsyncWrapper, TwoAgents):
        pass

    broken.add(at)

    assert attempts(TwoAgents(act) if way == "sync" else TwoAsyncAgents(act_async)) == "end"
    assert calls == sorted([*DONE, at], key=DONE.index)


def test_a_listener_hears_the_answer_of_an_agent_in_each_attempt():
    """Else a streamed answer would be empty."""

    def act(wrapper: Wrapper, context: DurableContext) -> Any:
        wrapper.pipeline.run([ChatMessage.from_user("a")], streaming_callback=lambda chunk: None)
        return work("end")

    broken.add("end")
    attempts(TwoAgents(act))

    assert calls == ["a", "tool a", "answer tool a", "end", "answer tool a", "end"]


@pytest.mark.parametrize("at", ["answer tool a", "sync tail"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_agent_in_a_pipeline_goes_on_after_its_last_tool(at: str, way: str):
    class Nested(Wrapper):
        def setup(self) -> None:
            self.pipeline = Pipeline()
            self.pipeline.add_component("agent", Agent(chat_generator=Scripted(), tools=[look_up]))

    def act(wrapper: Wrapper, context: DurableContext) -> Any:
        outputs = context.run_pipeline({"agent": {"messages": [ChatMessage.from_user("a")]}})
        work("sync tail")
        return outputs["agent"]["last_message"].text

    async def act_async(wrapper: Wrapper, context: DurableContext) -> Any:
        outputs = await context.run_pipeline_async({"agent": {"messages": [ChatMessage.from_user("a")]}})
        work("sync tail")
        return outputs["agent"]["last_message"].text

    class NestedAsync(AsyncWrapper, Nested):
        pass

    broken.add(at)

    assert attempts(Nested(act) if way == "sync" else NestedAsync(act_async)) == "answer tool a"
    done = ["a", "tool a", "answer tool a", "sync tail"]
    assert calls == sorted([*done, at], key=done.index)


@tool
def ask_colleague(word: str) -> str:
    """Ask another agent."""
    result = COLLEAGUE.run(messages=[ChatMessage.from_user(word)])
    return str(result["last_message"].text)


COLLEAGUE = Agent(chat_generator=Scripted(), tools=[look_up])


@component
class Delegates:
    """Asks a colleague, then answers with what that one said."""

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], tools: Any = None, **_: Any) -> dict[str, list[ChatMessage]]:
        last = messages[-1]
        if last.tool_call_result is not None:
            return {"replies": [ChatMessage.from_assistant(work(f"told {last.tool_call_result.result}"))]}
        return {"replies": [ChatMessage.from_assistant(tool_calls=[ToolCall("ask_colleague", {"word": work("ask")})])]}


@pytest.mark.parametrize("at", ["answer tool ask", "told answer tool ask"])
def test_an_agent_that_is_a_tool_of_another_goes_on_too(at: str):
    class Delegating(Wrapper):
        def setup(self) -> None:
            self.pipeline = Agent(
                chat_generator=Delegates(), tools=[ask_colleague], raise_on_tool_invocation_failure=True
            )
            self.colleague = COLLEAGUE

    def act(wrapper: Wrapper, context: DurableContext) -> Any:
        return context.run_agent(messages=[ChatMessage.from_user("go")])["last_message"].text

    broken.add(at)

    assert attempts(Delegating(act)) == "told answer tool ask"
    assert calls == [*["ask", "ask", "tool ask", "answer tool ask"], *DELEGATED[at]]


DELEGATED = {
    "answer tool ask": ["ask", "answer tool ask", "told answer tool ask"],  # the outer model is asked again
    "told answer tool ask": ["told answer tool ask", "told answer tool ask"],
}


def test_an_attempt_runs_within_an_async_test():
    async def act(_: Wrapper, context: DurableContext) -> Any:
        return context.attempt

    assert asyncio.run(Execution(AsyncWrapper(act), {}).run_async()) == 1
