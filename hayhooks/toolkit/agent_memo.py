"""Memo of agents: within a durable attempt, an agent's state is kept after each tool, and at its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

from haystack import Pipeline
from haystack.components.agents import Agent
from haystack.components.agents.state import State
from haystack.dataclasses import ChatMessage
from haystack.hooks import FunctionHook
from loguru import logger as log

from hayhooks.toolkit.durable import DurableContext, durable_streaming_callback
from hayhooks.toolkit.durable_scope import current_durable_context
from hayhooks.toolkit.journal import PayloadError
from hayhooks.toolkit.memo import MARK, in_any_package, in_package, key_of, remember_components

_OF_THE_RUN = ("tools", "hook_context")  # in a state: objects that a run makes anew
_PRIVATE = frozenset({"continue_run", "context_tokens", *_OF_THE_RUN})  # in a state, and in no result


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of an agent in an attempt."""

    name: str
    is_ordered: bool  # by `run_agent`: its checkpoints are those of the context's state
    is_heard: bool  # somebody gets its chunks: a result without them would be an empty answer


_ordered: ContextVar[str] = ContextVar("hayhooks_durable_order", default="")  # the name of the next run
_running: ContextVar[_Run | None] = ContextVar("hayhooks_durable_agent", default=None)


def remember(target: Any) -> None:
    """Keep what components of the pipeline *target* return and what its agents do, or what the agent *target* does."""
    if isinstance(target, Agent):
        _remember_agent("", target)
    elif isinstance(target, Pipeline):
        for name, data in target.graph.nodes(data=True):
            if isinstance(data["instance"], Agent):
                _remember_agent(name, data["instance"])
        remember_components(target)


@contextmanager
def run_of_agent(agent: Any, run: str) -> Iterator[None]:
    """Name the run of *agent* that begins within this scope; TypeError if it is not an Agent."""
    if not isinstance(agent, Agent):
        raise TypeError(f"run_agent needs an Agent, not a {type(agent).__name__}")
    token = _ordered.set(run)
    try:
        yield
    finally:
        _ordered.reset(token)


def _remember_agent(name: str, agent: Any) -> None:
    if getattr(agent, MARK, False):
        return
    setattr(agent, MARK, True)
    hooks: dict[Any, Any] = {point: list(listed) for point, listed in (agent.hooks or {}).items()}
    hooks["before_run"] = [FunctionHook(_restore), *hooks.get("before_run", [])]
    hooks["before_llm"] = [FunctionHook(_check, _check_async), *hooks.get("before_llm", [])]
    for point, hook in (
        ("after_tool", FunctionHook(_keep, _keep_async)),
        ("on_exit", FunctionHook(_keep_on_exit, _keep_on_exit_async)),
        ("after_run", FunctionHook(_keep_final, _keep_final_async)),
    ):
        hooks[point] = [*hooks.get(point, []), hook]
    agent.hooks = hooks
    agent.run = _remembered(name, agent, agent.run)
    agent.run_async = _remembered_async(name, agent, agent.run_async)


def _remembered(name: str, agent: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def remembered(*args: Any, **inputs: Any) -> Any:
        context = current_durable_context()
        # On the event loop, which the agent blocks, nothing can wait for the journal.
        if context is None or context.is_on_loop():
            return run(*args, **inputs)
        with _begun(context, name, agent, args, inputs) as known:
            return known if known is not None else run(*args, **inputs)

    return remembered


def _remembered_async(name: str, agent: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    async def remembered(*args: Any, **inputs: Any) -> Any:
        context = current_durable_context()
        if context is None:
            return await run(*args, **inputs)
        with _begun(context, name, agent, args, inputs) as known:
            return known if known is not None else await run(*args, **inputs)

    return remembered


@contextmanager
def _begun(context: DurableContext, name: str, agent: Any, args: Any, inputs: Any) -> Iterator[dict[str, Any] | None]:
    """Name the run that begins, and yield its result if it has ended in an earlier attempt."""
    ordered = _ordered.get()
    run: _Run | None = None
    if ordered or context.remembers(name):
        callback = inputs.get("streaming_callback") or (args[1] if len(args) > 1 else agent.streaming_callback)
        key = ordered or key_of(context, name, {"positional": list(args), **inputs, "streaming_callback": None})
        run = _Run(key, bool(ordered), callback not in (None, durable_streaming_callback)) if key else None
    tokens = _ordered.set(""), _running.set(run)  # an agent that is a tool of this one has runs of its own
    try:
        yield _result(context, run) if run is not None else None
    finally:
        _ordered.reset(tokens[0])
        _running.reset(tokens[1])


def _result(context: DurableContext, run: _Run) -> dict[str, Any] | None:
    kept = _kept(context, run)
    if not kept.get("is_final"):
        return None
    result = {key: value for key, value in _data(context, kept).items() if key not in _PRIVATE}
    messages = result.get("messages")
    return result | ({"last_message": messages[-1]} if messages else {})


def _kept(context: DurableContext, run: _Run) -> dict[str, Any]:
    found: dict[str, Any] = context.agents.get(run.name) or context.journal.entries.get(f"agent:{run.name}") or {}
    return found


def _data(context: DurableContext, kept: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = State.from_dict(in_package(context, kept["agent"])).data
    return data


def _restore(state: State) -> None:
    if (current := _current()) is None:
        return
    context, run = current
    if kept := _kept(context, run):
        of_the_run = {key: state.data[key] for key in _OF_THE_RUN if key in state.data}
        state.data.clear()
        state.data.update(_data(context, kept))
        state.data.update(of_the_run)
    resumed = context.unread_resume_input if run.is_ordered else None
    if isinstance(resumed, dict) and isinstance(resumed.get("messages"), list):  # else a tool has asked
        resumed = context.resume_input
        messages = [ChatMessage.from_dict(each) for each in resumed["messages"] if isinstance(each, dict)]
        state.data["messages"] = [*state.data.get("messages", []), *messages]


def _check(state: State) -> None:
    if (current := _current()) is not None:
        current[0].check_cancelled_sync()


async def _check_async(state: State) -> None:
    if (current := _current()) is not None:
        await current[0].check_cancelled()


def _keep(state: State) -> None:
    if (current := _current()) is not None:
        current[0].wait(lambda: _keep_step(state))


async def _keep_async(state: State) -> None:
    if _current() is not None:
        await _keep_step(state)


async def _keep_step(state: State) -> None:
    # As the agent does after its hooks, from a count of its own.
    state.set("step_count", state.data.get("step_count", 0) + 1)
    await _keep_state(state)


def _keep_on_exit(state: State) -> None:
    if (current := _current()) is not None and state.data.get("continue_run"):
        current[0].wait(lambda: _keep_state(state))


async def _keep_on_exit_async(state: State) -> None:
    if _current() is not None and state.data.get("continue_run"):
        await _keep_state(state)


def _keep_final(state: State) -> None:
    if (current := _current()) is not None:
        current[0].wait(lambda: _keep_state(state, is_final=True))


async def _keep_final_async(state: State) -> None:
    if _current() is not None:
        await _keep_state(state, is_final=True)


def _current() -> tuple[DurableContext, _Run] | None:
    """Return the attempt and the run of the agent that calls a hook; None: nothing of it is kept."""
    context, run = current_durable_context(), _running.get()
    return (context, run) if context is not None and run is not None else None


async def _keep_state(state: State, *, is_final: bool = False) -> None:
    current = _current()
    assert current is not None  # the callers have looked
    context, run = current
    written = in_any_package(context, state.to_dict(skip_keys=list(_OF_THE_RUN)))
    kept = {"agent": written, "is_final": is_final}
    if run.is_ordered:
        await context.report_progress(f"Agent {'final' if is_final else 'step'} checkpoint saved", kind="checkpoint")
        if is_final:  # with a key of its own: a method may run many agents
            await context.journal.keep(f"agent:{run.name}", kept)
            context.agents.pop(run.name, None)
        else:
            context.agents[run.name] = kept
        await context.checkpoint()
    elif not (is_final and run.is_heard):
        try:
            await context.journal.keep(f"agent:{run.name}", kept)
        except PayloadError as error:
            log.info("Execution {}: the agent's tools run again in each attempt, for {}", context.execution_id, error)
    if not is_final:
        await context.check_cancelled()
