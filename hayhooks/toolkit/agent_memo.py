"""Memo of agents: within a durable attempt, an agent's state is kept after each tool, and at its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from haystack.components.agents import Agent
from haystack.components.agents.state import State
from haystack.dataclasses import ChatMessage
from haystack.hooks import FunctionHook

from hayhooks.toolkit.durable import DurableContext
from hayhooks.toolkit.durable_scope import current_durable_context
from hayhooks.toolkit.memo import in_any_package, in_package

_OF_THE_RUN = ("tools", "hook_context")  # in a state: objects that a run makes anew
_PRIVATE = frozenset({"continue_run", "context_tokens", *_OF_THE_RUN})  # in a state, and in no result

_run: ContextVar[str] = ContextVar("hayhooks_durable_agent", default="")  # which run of an agent this is


@contextmanager
def run_of_agent(run: str) -> Iterator[None]:
    """Keep what an agent does within under the name *run*."""
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


def remember_tools(agent: Any) -> None:
    """Add the hooks to *agent*, once; TypeError if it is no Agent."""
    if not isinstance(agent, Agent):
        raise TypeError(f"run_agent needs an Agent, not a {type(agent).__name__}")
    hooks: dict[Any, Any] = {point: list(listed) for point, listed in (agent.hooks or {}).items()}
    if _BEFORE_RUN in hooks.get("before_run", []):
        return
    hooks["before_run"] = [_BEFORE_RUN, *hooks.get("before_run", [])]
    hooks["before_llm"] = [_BEFORE_LLM, *hooks.get("before_llm", [])]
    for point, hook in (("after_tool", _AFTER_TOOL), ("on_exit", _ON_EXIT), ("after_run", _AFTER_RUN)):
        hooks[point] = [*hooks.get(point, []), hook]
    agent.hooks = hooks


def final_result(context: DurableContext, run: str) -> dict[str, Any] | None:
    """Return the result of a *run* that had ended in an earlier attempt; else None."""
    if not context.agents.get(run, {}).get("is_final"):
        return None
    result = {key: value for key, value in _data(context, run).items() if key not in _PRIVATE}
    messages = result.get("messages")
    return result | ({"last_message": messages[-1]} if messages else {})


def _data(context: DurableContext, run: str) -> dict[str, Any]:
    data: dict[str, Any] = State.from_dict(in_package(context, context.agents[run]["agent"])).data
    return data


def _restore(state: State) -> None:
    if (context := _context()) is None:
        return
    run = _run.get()
    if run in context.agents:
        of_the_run = {key: state.data[key] for key in _OF_THE_RUN if key in state.data}
        state.data.clear()
        state.data.update(_data(context, run))
        state.data.update(of_the_run)
    resumed = context.unread_resume_input
    if isinstance(resumed, dict) and isinstance(resumed.get("messages"), list):  # else a tool has asked
        resumed = context.resume_input
        messages = [ChatMessage.from_dict(each) for each in resumed["messages"] if isinstance(each, dict)]
        state.data["messages"] = [*state.data.get("messages", []), *messages]


async def _restore_async(state: State) -> None:
    _restore(state)


def _check(state: State) -> None:
    if (context := _context()) is not None:
        context.check_cancelled_sync()


async def _check_async(state: State) -> None:
    if (context := _context()) is not None:
        await context.check_cancelled()


def _keep(state: State) -> None:
    if (context := _context()) is not None:
        _count_step(state)
        context.wait(lambda: _keep_in(context, state))


async def _keep_async(state: State) -> None:
    if (context := _context()) is not None:
        _count_step(state)
        await _keep_in(context, state)


def _count_step(state: State) -> None:
    # As the agent does after its hooks, from a count of its own.
    state.set("step_count", state.data.get("step_count", 0) + 1)


def _keep_on_exit(state: State) -> None:
    if (context := _context()) is not None and state.data.get("continue_run"):
        context.wait(lambda: _keep_in(context, state))


async def _keep_on_exit_async(state: State) -> None:
    if (context := _context()) is not None and state.data.get("continue_run"):
        await _keep_in(context, state)


def _keep_final(state: State) -> None:
    if (context := _context()) is not None:
        context.wait(lambda: _keep_in(context, state, is_final=True))


async def _keep_final_async(state: State) -> None:
    if (context := _context()) is not None:
        await _keep_in(context, state, is_final=True)


def _context() -> DurableContext | None:
    """Return the attempt, if the agent runs by its ``run_agent``."""
    context: DurableContext | None = current_durable_context() if _run.get() else None
    return context


async def _keep_in(context: DurableContext, state: State, *, is_final: bool = False) -> None:
    written = state.to_dict(skip_keys=list(_OF_THE_RUN))
    context.agents[_run.get()] = {"agent": in_any_package(context, written), "is_final": is_final}
    await context.report_progress(f"Agent {'final' if is_final else 'step'} checkpoint saved", kind="checkpoint")
    await context.checkpoint()
    if not is_final:
        await context.check_cancelled()


_BEFORE_RUN = FunctionHook(_restore, _restore_async)
_BEFORE_LLM = FunctionHook(_check, _check_async)
_AFTER_TOOL = FunctionHook(_keep, _keep_async)
_ON_EXIT = FunctionHook(_keep_on_exit, _keep_on_exit_async)
_AFTER_RUN = FunctionHook(_keep_final, _keep_final_async)
