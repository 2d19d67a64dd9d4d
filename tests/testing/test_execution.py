"""Executions in memory: what a durable method does, attempt by attempt."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from haystack import Pipeline, component
from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import tool
from pydantic import BaseModel, ValidationError

from hayhooks import BasePipelineWrapper, DurableContext, current_durable_context, durable_streaming_callback
from hayhooks.testing import Execution

calls: list[str] = []
broken: set[str] = set()


@pytest.fixture(autouse=True)
def _forget() -> None:
    calls.clear()
    broken.clear()


def work(name: str) -> str:
    calls.append(name)
    if name in broken:
        raise ConnectionError(name)
    return name.upper()


class Work(BaseModel):
    names: list[str] = ["one", "two", "three"]


class Approval(BaseModel):
    approved: bool


class Steps(BasePipelineWrapper):
    durable_resume_model = Approval

    def setup(self) -> None:
        self.pipeline = Pipeline()

    async def run_durable_async(self, context: DurableContext, request: Work) -> list[str]:
        done = []
        for name in request.names:
            done.append(await context.step(name, work, name))
            await context.report_progress(f"did {name}")
        return done


class StepsInAThread(Steps):
    run_durable_async = BasePipelineWrapper.run_durable_async

    def run_durable(self, context: DurableContext, request: Work) -> list[str]:
        return [context.step_sync(name, work, name) for name in request.names]


@pytest.mark.parametrize("wrapper", [Steps, StepsInAThread])
def test_a_step_is_done_once_in_all_attempts(wrapper: type[Steps]):
    execution = Execution(wrapper(), {})
    broken.add("two")
    with pytest.raises(ConnectionError):
        execution.run()
    broken.clear()

    assert execution.run() == ["ONE", "TWO", "THREE"]
    assert calls == ["one", "two", "two", "three"]
    assert execution.attempt == 2
    assert execution.steps == {"one": "ONE", "two": "TWO", "three": "THREE"}


class Asks(Steps):
    async def run_durable_async(self, context: DurableContext, request: Work) -> Any:
        answer = context.resume_input
        if answer is None:
            await context.suspend({"kind": "approval", "message": "May I?"}, update={"asked": context.attempt})
        assert context.resume_input is None  # it is read once
        if answer["approved"] is False and context.state["asked"] == 1:
            await context.suspend({"message": "Really?"}, update={"asked": 2})
        await context.checkpoint()
        return [answer, context.state]


def test_a_question_is_answered_and_its_answer_is_forgotten_by_a_checkpoint():
    execution = Execution(Asks(), {})
    assert execution.run() is None
    assert execution.waiting == {"kind": "approval", "message": "May I?"}
    with pytest.raises(ValidationError):
        execution.resume({"approved": "perhaps"})
    execution.resume({"approved": False})
    assert execution.run() is None
    assert execution.waiting == {"message": "Really?"}
    execution.resume({"approved": True})

    assert execution.run() == [{"approved": True}, {"asked": 2}]
    assert execution.run() is None  # the answer was read before the checkpoint: it asks again


class Odd(Steps):
    def __init__(self, act: Callable[[DurableContext], Any]) -> None:
        super().__init__()
        self.act = act

    async def run_durable_async(self, context: DurableContext, request: Work) -> Any:
        return await self.act(context)


def attempt(act: Callable[[DurableContext], Any]) -> Execution:
    execution = Execution(Odd(act), {})
    execution.run()
    return execution


def test_a_retry_leaves_and_keeps_nothing_by_itself():
    async def act(context: DurableContext) -> None:
        context.state["unsaved"] = 1
        await context.retry("not yet", delay=3)

    execution = attempt(act)

    assert (execution.retry, execution.state) == ("not yet", {})


class Broken:
    def to_dict(self) -> Any:
        raise KeyError("x")


def test_chunks_come_from_components_and_what_has_to_dict():
    async def act(context: DurableContext) -> None:
        assert current_durable_context() is context
        await context.stream_chunk(ChatMessage.from_user("hi"))
        durable_streaming_callback({"n": 1})
        await context.stream_chunk(Broken())  # it is dropped
        await asyncio.sleep(0)

    assert [list(chunk)[:1] for chunk in attempt(act).chunks] == [["role"], ["n"]]


WRONG: dict[str, tuple[Callable[[DurableContext], Any], type[Exception], str]] = {
    "a step twice": (lambda c: _twice(c), ValueError, "needs a name of its own"),
    "no JSON": (lambda c: c.step("x", object), ValueError, "JSON"),
    "a state that is no JSON": (lambda c: _state(c), ValueError, "JSON"),
    "a state that is no dict": (lambda c: _list(c), ValueError, "state is a list"),
    "a sync method on the loop": (lambda c: _on_loop(c), RuntimeError, "without _sync"),
    "a delay": (lambda c: c.retry("x", delay=-1), ValueError, "0 or more"),
    "a large progress event": (lambda c: c.report_progress("x" * 9000), ValueError, "8,192"),
    "progress that is no JSON": (lambda c: c.report_progress("x", metadata={"x": object()}), ValueError, "as JSON"),
    "a wait that is no JSON": (lambda c: c.suspend({"message": object()}), ValueError, "as JSON"),
    "a timeout": (lambda c: c.suspend({"timeout": "1 h"}), ValueError, "timeout is '1 h': it must be a number of sec"),
    "no agent": (lambda c: c.run_agent_async(messages=[]), TypeError, "needs an Agent, not a Pipeline"),
    "no component": (lambda c: c.run_pipeline_async({}, checkpoint_at="x"), ValueError, "checkpoint_at is 'x'"),
}


async def _twice(context: DurableContext) -> None:
    await context.step("x", work, "x")
    await context.step("x", work, "x")


async def _state(context: DurableContext) -> None:
    context.state["x"] = object()
    await context.checkpoint()


async def _list(context: DurableContext) -> None:
    context.state = []  # type: ignore[assignment]  # as users do
    await context.checkpoint()


async def _on_loop(context: DurableContext) -> None:
    context.checkpoint_sync()


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_use_is_told(kind: str):
    act, error, text = WRONG[kind]
    with pytest.raises(error, match=text):
        attempt(act)


def test_a_cancelled_execution_ends_at_its_next_step():
    execution = Execution(Steps(), {})
    execution.cancel()

    assert execution.run() is None
    assert calls == []


@component
class Counts:
    """A component that passes a number on, and notes itself; a loop runs it several times."""

    def __init__(self, name: str) -> None:
        self.name = name

    @component.output_types(value=int, again=int)
    def run(self, value: int) -> dict[str, int]:
        work(f"{self.name} {value}")
        return {"again": value + 1} if self.name == "last" and value < 4 else {"value": value + 1}


class Loops(Steps):
    def setup(self) -> None:
        self.pipeline = Pipeline()
        from haystack.components.joiners import BranchJoiner  # noqa: PLC0415 - Haystack's joiners import much

        self.pipeline.add_component("in", BranchJoiner(int))
        for name in ("first", "last"):
            self.pipeline.add_component(name, Counts(name))
        self.pipeline.connect("in", "first.value")
        self.pipeline.connect("first.value", "last.value")
        self.pipeline.connect("last.again", "in")

    async def run_durable_async(self, context: DurableContext, request: Work) -> Any:
        data = {"in": {"value": 0}}
        if request.names == ["async"]:
            return await context.run_pipeline_async(data)
        return await asyncio.to_thread(context.run_pipeline, data)


@pytest.mark.parametrize("way", ["async", "thread"])
def test_a_pipeline_with_a_loop_goes_on_in_the_round_that_broke(way: str):
    execution = Execution(Loops(), {"names": [way]})
    broken.add("last 3")
    with pytest.raises(Exception, match="last 3"):
        execution.run()
    broken.clear()

    assert execution.run() == {"last": {"value": 6}}
    assert calls == ["first 0", "last 1", "first 2", "last 3", "last 3", "first 4", "last 5"]


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return work(word)


@component
class Scripted:
    """Asks for "a", then "b", then answers with the number of results that it has seen."""

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], tools: Any = None, **_: Any) -> dict[str, list[ChatMessage]]:
        results = [message for message in messages if message.tool_call_result]
        work(f"model {len(results)}")
        if len(results) < 2:
            call = ToolCall("look_up", {"word": "ab"[len(results)]})
            return {"replies": [ChatMessage.from_assistant(tool_calls=[call])]}
        return {"replies": [ChatMessage.from_assistant(f"{len(results)} results")]}


class Agentic(Steps):
    def setup(self) -> None:
        self.pipeline = Agent(chat_generator=Scripted(), tools=[look_up])

    async def run_durable_async(self, context: DurableContext, request: Work) -> Any:
        messages = [ChatMessage.from_user("go")]
        if request.names == ["async"]:
            result = await context.run_agent_async(messages=messages)
        else:
            result = await asyncio.to_thread(lambda: context.run_agent(messages=messages))
        if "after" in broken:
            raise ConnectionError("after")
        return [result["last_message"].text, result["step_count"]]


@pytest.mark.parametrize("way", ["async", "thread"])
def test_an_agent_goes_on_after_its_last_tool(way: str):
    execution = Execution(Agentic(), {"names": [way]})
    broken.add("model 2")
    with pytest.raises(Exception, match="model 2"):
        execution.run()
    broken.clear()
    broken.add("after")
    with pytest.raises(ConnectionError):
        execution.run()
    broken.clear()

    assert execution.run() == ["2 results", 3]
    assert calls == ["model 0", "a", "model 1", "b", "model 2", "model 2"]  # the last attempt asked nobody
