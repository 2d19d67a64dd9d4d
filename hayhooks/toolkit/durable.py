"""Durable executions, as a wrapper sees them.

The context knows no engine: what it keeps goes into a ``Journal``. ``hayhooks.testing`` has one in memory.
"""

import asyncio
import importlib
import inspect
import itertools
import json
import math
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from loguru import logger as log

from hayhooks.errors import shortened, type_and_message
from hayhooks.toolkit.durable_scope import current_durable_context, durable_context_scope
from hayhooks.toolkit.journal import STEP, Journal, ProgressEvent, as_json, steps_of

T = TypeVar("T")

_MAX_PROGRESS_BYTES = 8_192  # of one event
_STATE = "state"
_place: ContextVar[str] = ContextVar("hayhooks_durable_place", default="")  # the name of the step that runs here


class DurableExecutionCancelledError(RuntimeError):
    """Somebody wants the execution to end."""


class ExecutionControl(BaseException):
    """Leaves an attempt on purpose; ``except Exception`` in user code does not stop it."""


class Suspended(ExecutionControl):
    """The execution waits for somebody."""

    def __init__(self, wait: Mapping[str, Any]) -> None:
        super().__init__("the execution waits")
        self.wait = dict(wait)


class RetryRequested(ExecutionControl):
    """The execution wants to be tried again."""

    def __init__(self, message: str, delay_s: float | None) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class DurableContext:
    """One attempt of an execution: what it keeps, tells, and waits for.

    Async methods are for the event loop that serves requests, those that end in ``_sync`` for threads.

    Attributes:
        execution_id: the id that clients know.
        attempt: number of this attempt, from 1.
        owner_id: what ``durable_owner_id`` returned; None without it.
        state: JSON; as of the last checkpoint when an attempt begins. Change it in place, then call ``checkpoint``.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        execution_id: str,
        attempt: int = 1,
        owner_id: str | None = None,
        resume_input: Any = None,
        resumed: int = 0,
        target: Any = None,
        package: str = "",
        memo: bool | Collection[str] = True,
    ) -> None:
        """Begin an attempt on the running event loop.

        *resumed* counts how often the execution was resumed, the last time with *resume_input*; *target* is the
        pipeline or agent of ``run_pipeline`` and ``run_agent``, *package* the private package of the wrapper's modules,
        *memo* is ``durable_memo``.
        """
        kept = journal.entries.get(_STATE, {})
        self.execution_id = execution_id
        self.attempt = attempt
        self.owner_id = owner_id
        self.state: dict[str, Any] = dict(kept.get("state", {}))
        self.adapter_checkpoint: Any = kept.get("adapter")
        self.journal = journal
        self.target = target
        self.package = package
        self.agents: dict[str, Any] = dict(kept.get("agents", {}))  # states of the runs of agents
        self._memo = frozenset(memo) if isinstance(memo, list | tuple | set | frozenset) else bool(memo)
        self._numbers: dict[str, itertools.count[int]] = {}
        self._loop = asyncio.get_running_loop()
        self._resumed = resumed
        self._resume_input = resume_input
        self._has_read = bool(resumed) and kept.get("read") == resumed
        self._progress = journal.progress
        self._steps = steps_of(journal.entries)
        self._done: set[str] = set()  # steps of this attempt

    @property
    def resume_input(self) -> Any:
        """What the execution was resumed with, for the first who asks; None afterwards.

        The next checkpoint after that forgets it; until then another attempt gets it again.
        """
        value = self.unread_resume_input
        self._has_read = True
        return value

    @property
    def unread_resume_input(self) -> Any:
        """What ``resume_input`` would return; it stays unread."""
        return None if self._has_read else self._resume_input

    async def checkpoint(self, adapter_checkpoint: Any = None) -> None:
        """Keep ``state``, and *adapter_checkpoint* unless it is None; later attempts begin with it."""
        if not isinstance(self.state, dict):
            raise ValueError(f"state is a {type(self.state).__name__}: it must be a dict of JSON")
        if adapter_checkpoint is not None:
            self.adapter_checkpoint = adapter_checkpoint
        kept = {"state": self.state, "adapter": self.adapter_checkpoint, "agents": self.agents}
        await self.journal.keep(_STATE, kept | ({"read": self._resumed} if self._has_read else {}))

    async def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call *function*, sync or async, once in all attempts, and return its result as JSON has it.

        A later attempt gets the result that was kept under *name*. ValueError: this attempt has had that name. What
        *function* raises keeps nothing; the attempt may try the step again.
        """
        with self._step(name) as is_done:
            if is_done:
                return self._steps[name]
            await self.check_cancelled()
            if inspect.iscoroutinefunction(function):
                result = await function(*args, **kwargs)
            else:
                result = await asyncio.to_thread(function, *args, **kwargs)
                if inspect.isawaitable(result):
                    result = await result
            return await self._keep_step(name, result)

    async def report_progress(
        self, message: str, *, kind: str = "progress", metadata: Mapping[str, object] | None = None
    ) -> None:
        """Tell watchers how far it is; the last 100 events are shown."""
        event = ProgressEvent(
            sequence=self._progress + 1,
            kind=str(kind),
            message=str(message),
            timestamp=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            metadata=dict(metadata or {}),
        )
        if len(as_json(event, "a progress event")) > _MAX_PROGRESS_BYTES:
            raise ValueError(f"a progress event must not be larger than {_MAX_PROGRESS_BYTES:,} bytes")
        self._progress += 1
        await self.journal.report([event])

    async def check_cancelled(self) -> None:
        """Raise DurableExecutionCancelledError if somebody wants the execution to end."""
        if await self.journal.is_cancelled():
            raise DurableExecutionCancelledError("durable execution cancellation was requested")

    async def retry(self, message: str, *, delay: float | None = None) -> NoReturn:
        """Leave this attempt; another begins after *delay* seconds, default: longer with each."""
        if delay is not None and (delay < 0 or not math.isfinite(delay)):
            raise ValueError(f"delay is {delay!r}: it must be a number of seconds, 0 or more")
        raise RetryRequested(str(message), delay)

    async def suspend(
        self, wait: Mapping[str, object], *, update: Mapping[str, object] | None = None, adapter_checkpoint: Any = None
    ) -> NoReturn:
        """Keep ``state`` with *update*, and leave this attempt; another begins when somebody resumes the execution.

        Clients see ``kind``, ``message`` and ``expected_input_schema`` of *wait*. After ``timeout`` seconds, if it has
        one, the execution is resumed with ``{"timed_out": true}``.
        """
        as_json(wait, "what is waited for")
        timeout_s: Any = wait.get("timeout")
        if timeout_s is not None and (type(timeout_s) not in (int, float) or timeout_s < 0):
            raise ValueError(f"timeout is {timeout_s!r}: it must be a number of seconds, 0 or more, or None")
        self.state.update(update or {})
        await self.checkpoint(adapter_checkpoint)
        raise Suspended(wait)

    async def stream_chunk(self, payload: Any) -> None:
        """Send JSON, or what has ``to_dict``, to watchers; it may be lost."""
        try:
            convert = getattr(payload, "to_dict", None)
            payload = convert() if callable(convert) else payload
        except Exception as error:  # the payload is the user's
            log.info("Execution {}: a chunk is dropped, for {}", self.execution_id, type_and_message(error))
            return
        await self.journal.emit(payload)

    def run_pipeline(
        self, data: dict[str, Any], *, checkpoint_at: str | None = None, pipeline: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Run the wrapper's pipeline, or *pipeline*, in a thread's method; what its components return is kept.

        A later attempt goes on with the first component that has not returned. *checkpoint_at* must name a component,
        and adds nothing to that. *kwargs* are the pipeline's, as ``include_outputs_from``.
        """
        found = self._pipeline(checkpoint_at, pipeline)
        with durable_context_scope(self), _cancellation_unwrapped():
            result: dict[str, Any] = found.run(data, **kwargs)
        return result

    async def run_pipeline_async(
        self, data: dict[str, Any], *, checkpoint_at: str | None = None, pipeline: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Run the wrapper's pipeline, or *pipeline*, see ``run_pipeline``."""
        found = self._pipeline(checkpoint_at, pipeline)
        with durable_context_scope(self), _cancellation_unwrapped():
            result: dict[str, Any] = await found.run_async(data, **kwargs)
        return result

    def run_agent(self, *, messages: list[Any], agent: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Run the wrapper's agent, or *agent*, in a thread's method; a later attempt goes on after its last tool."""
        found, naming = self._agent(agent)
        with durable_context_scope(self), naming:
            result: dict[str, Any] = found.run(messages=messages, **kwargs)
        return result

    async def run_agent_async(self, *, messages: list[Any], agent: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Run the wrapper's agent, or *agent*, see ``run_agent``."""
        found, naming = self._agent(agent)
        with durable_context_scope(self), naming:
            result: dict[str, Any] = await found.run_async(messages=messages, **kwargs)
        return result

    def checkpoint_sync(self, adapter_checkpoint: Any = None) -> None:
        """Do as ``checkpoint``, in a thread."""
        self.wait(lambda: self.checkpoint(adapter_checkpoint))

    def step_sync(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do as ``step``, in a thread: *function* is called in it, what is async on the event loop."""
        if inspect.iscoroutinefunction(function):
            return self.wait(lambda: self.step(name, function, *args, **kwargs))
        with self._step(name) as is_done:
            if is_done:
                return self._steps[name]
            self.check_cancelled_sync()
            result = function(*args, **kwargs)
            return self.wait(lambda: self._keep_step(name, result))

    def report_progress_sync(
        self, message: str, *, kind: str = "progress", metadata: Mapping[str, object] | None = None
    ) -> None:
        """Do as ``report_progress``, in a thread."""
        self.wait(lambda: self.report_progress(message, kind=kind, metadata=metadata))

    def check_cancelled_sync(self) -> None:
        """Do as ``check_cancelled``, in a thread."""
        self.wait(self.check_cancelled)

    def retry_sync(self, message: str, *, delay: float | None = None) -> NoReturn:
        """Do as ``retry``, in a thread."""
        self.wait(lambda: self.retry(message, delay=delay))
        raise AssertionError

    def suspend_sync(
        self, wait: Mapping[str, object], *, update: Mapping[str, object] | None = None, adapter_checkpoint: Any = None
    ) -> NoReturn:
        """Do as ``suspend``, in a thread."""
        self.wait(lambda: self.suspend(wait, update=update, adapter_checkpoint=adapter_checkpoint))
        raise AssertionError

    def stream_chunk_sync(self, payload: Any) -> None:
        """Do as ``stream_chunk``, anywhere, without waiting."""
        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self.stream_chunk(payload)))

    def wait(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that *function* makes on the serving loop; RuntimeError on that loop itself."""
        if self.is_on_loop():
            raise RuntimeError("this method is for threads: on the event loop await the one without _sync")

        async def outcome() -> tuple[T | None, BaseException | None]:
            # SystemExit's kin would end the loop: a task must not raise them.
            try:
                return await function(), None
            except BaseException as error:
                return None, error

        result, error = asyncio.run_coroutine_threadsafe(outcome(), self._loop).result()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # without an error there is one

    def is_on_loop(self) -> bool:
        """Whether this is called on the event loop that serves requests."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def remembers(self, component: str) -> bool:
        """Whether what the *component* of this name returns is kept."""
        return self._memo if isinstance(self._memo, bool) else component in self._memo

    @property
    def place(self) -> str:
        """The name of the step that this is called in; "" outside of steps."""
        return _place.get()

    def number(self, key: str) -> int:
        """Count the calls with this *key* in the attempt, from 1."""
        return next(self._numbers.setdefault(key, itertools.count(1)))

    @contextmanager
    def _step(self, name: str) -> Iterator[bool]:
        """Take the *name* of a step, and tell whether its result is kept; what raises gives the name back."""
        if type(name) is not str or not name:
            raise TypeError(f"a step is named {shortened(repr(name))}: its name must be a text, not empty")
        if name in self._done:
            raise ValueError(f"step {shortened(name)!r} was there before: each of an attempt needs a name of its own")
        self._done.add(name)
        token = _place.set(name)
        try:
            yield name in self._steps
        except BaseException:
            self._done.discard(name)
            raise
        finally:
            _place.reset(token)

    async def _keep_step(self, name: str, result: Any) -> Any:
        await self.journal.keep(STEP + name, result)
        return json.loads(json.dumps(result))  # as a later attempt gets it: tuples are lists, keys are texts

    def _pipeline(self, checkpoint_at: str | None, pipeline: Any) -> Any:
        found = pipeline if pipeline is not None else self.target
        if not hasattr(found, "graph"):
            raise TypeError(f"run_pipeline needs a Pipeline, not a {type(found).__name__}")
        # Not at the top: it imports Haystack.
        importlib.import_module("hayhooks.toolkit.agent_memo").remember(found)
        if checkpoint_at is not None and checkpoint_at not in found.graph.nodes:
            raise ValueError(f"checkpoint_at is {checkpoint_at!r}: the pipeline has {', '.join(found.graph.nodes)}")
        return found

    def _agent(self, agent: Any) -> tuple[Any, AbstractContextManager[None]]:
        """Return an agent, and a scope that gives its next run the same name in each attempt."""
        memo = importlib.import_module("hayhooks.toolkit.agent_memo")
        found = agent if agent is not None else self.target
        memo.remember(found)
        return found, memo.run_of_agent(found, f"{self.place}#{self.number(f'agent:{self.place}')}")


@contextmanager
def _cancellation_unwrapped() -> Iterator[None]:
    """Raise a cancellation that Haystack has wrapped as itself, so that user code can catch it."""
    try:
        yield
    except Exception as error:
        if isinstance(error.__cause__, DurableExecutionCancelledError):
            raise error.__cause__ from None
        raise


def durable_streaming_callback(payload: Any) -> None:
    """Send a chunk of a component to the watchers of its execution; for ``streaming_callback=``."""
    if (context := current_durable_context()) is not None:
        context.stream_chunk_sync(payload)
