"""Stream what a Haystack pipeline or Agent produces, while it runs in a thread or in a task.

component ── callback ──> channel ── chunks and events ──> generator ── + callbacks' outputs ──> wrapper
"""

import asyncio
import contextvars
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from loguru import logger as log

from hayhooks.errors import fold, type_and_message
from hayhooks.toolkit.channel import ConsumerGoneError, TaskChunkReader, ThreadChunkReader, settled
from hayhooks.toolkit.dispatcher import CallbackCall, CallbackDispatcher, outputs
from hayhooks.toolkit.observe import ComponentEnd
from hayhooks.toolkit.target import StreamTarget, is_sync_only, stream_target, user_callback

if TYPE_CHECKING:
    from haystack import Pipeline
    from haystack.components.agents import Agent

    from hayhooks.toolkit.dispatcher import OnComponentEnd, OnPipelineEnd, OnReasoning, OnToolCallEnd, OnToolCallStart

_shielded: set[asyncio.Task[Any]] = set()  # the event loop holds only weak references


def streaming_generator(
    pipeline: "Pipeline | Agent",
    *,
    pipeline_run_args: dict[str, Any] | None = None,
    on_tool_call_start: "OnToolCallStart | None" = None,
    on_tool_call_end: "OnToolCallEnd | None" = None,
    on_reasoning: "OnReasoning | None" = None,
    on_pipeline_end: "OnPipelineEnd | None" = None,
    on_component_end: "OnComponentEnd | None" = None,
    streaming_components: list[str] | Literal["all"] | None = None,
    include_outputs_from: set[str] | None = None,
    external_event_queue: queue.Queue[Any] | None = None,
) -> "PipelineStream":
    """Run *pipeline* in a thread and yield its chunks as they arrive.

    The run begins when the first item is requested. Closing or dropping the generator stops the pipeline at its next
    chunk. A slow reader slows the pipeline down: few chunks are kept unread.

    A callback's result is yielded before its chunk: nothing for ``None``, a string as a ``StreamingChunk``, an event
    object unchanged, and a list item by item. Its exceptions are logged.

    Args:
        pipeline: its ``streaming_callback``, there or in the run arguments, is called too.
        pipeline_run_args: ``data`` for a pipeline, nested or flat; keyword arguments for an Agent.
        on_tool_call_start: called with name, arguments and id (or ``None``) as soon as a tool call's name is known;
            the arguments are ``{}`` if they are not complete by then.
        on_tool_call_end: called with name, arguments, result and whether it is an error.
        on_reasoning: called with each piece of reasoning: its text, and a dict of what else the model gave.
        on_pipeline_end: called with the pipeline's result; its output follows the last chunk.
        on_component_end: by component of a pipeline, or tool of an Agent: called with what it returned, which is not to
            be changed, each time it has; its output precedes whatever later components stream.
        streaming_components: of a pipeline: names, or "all". Otherwise HAYHOOKS_STREAMING_COMPONENTS decides, with
            "all", names separated by commas or a JSON list, and else the last one in ``pipeline.walk`` streams.
        include_outputs_from: of a pipeline: whose outputs the result has beside those of the last components.
        external_event_queue: its items are yielded unchanged, in their place among the chunks.

    Yields:
        ``StreamingChunk`` objects, and the items of callbacks and queue.

    Raises:
        ValueError: at the call: nothing can stream, a name is unknown, or a callback would have to be awaited.
        Exception: while reading: what the pipeline raised, itself, after the chunks that came before.
    """
    target = stream_target(pipeline, pipeline_run_args, include_outputs_from, streaming_components)
    target.require_observable(on_component_end or {})
    dispatcher = CallbackDispatcher(
        on_tool_call_start, on_tool_call_end, on_reasoning, on_pipeline_end, on_component_end or {}
    )
    if dispatcher.need_await:
        raise ValueError("streaming_generator cannot await its callbacks: use async_streaming_generator.")
    return PipelineStream(target, dispatcher, external_event_queue, contextvars.copy_context())


def async_streaming_generator(
    pipeline: "Pipeline | Agent",
    *,
    pipeline_run_args: dict[str, Any] | None = None,
    on_tool_call_start: "OnToolCallStart | None" = None,
    on_tool_call_end: "OnToolCallEnd | None" = None,
    on_reasoning: "OnReasoning | None" = None,
    on_pipeline_end: "OnPipelineEnd | None" = None,
    on_component_end: "OnComponentEnd | None" = None,
    streaming_components: list[str] | Literal["all"] | None = None,
    include_outputs_from: set[str] | None = None,
    allow_sync_streaming_callbacks: bool | Literal["auto"] = False,
    external_event_queue: asyncio.Queue[Any] | None = None,
    shield_pipeline_task: bool = False,
) -> AsyncGenerator[Any, None]:
    """Run *pipeline* in a task, by ``run_async``, and yield its chunks as they arrive.

    Callbacks may be coroutine functions; sync ones run on the event loop. Closing the generator cancels the pipeline
    and waits for its end.

    The arguments, items and errors are those of ``streaming_generator``, and ``external_event_queue`` is an
    ``asyncio.Queue``. A streaming component without ``run_async`` is a ValueError, unless
    *allow_sync_streaming_callbacks*, or "auto", lets it run in a thread, where it stops only at its next chunk. With
    *shield_pipeline_task* a closed generator drops the chunks, and lets the pipeline go on to its end.
    """
    target = stream_target(pipeline, pipeline_run_args, include_outputs_from, streaming_components)
    if not allow_sync_streaming_callbacks:
        target.require_async()
    target.require_observable(on_component_end or {})
    dispatcher = CallbackDispatcher(
        on_tool_call_start, on_tool_call_end, on_reasoning, on_pipeline_end, on_component_end or {}
    )
    context = contextvars.copy_context()
    return _stream_async(target, dispatcher, external_event_queue, context, shield=shield_pipeline_task)


class PipelineStream(Generator[Any, None, None]):
    """The generator of ``streaming_generator``; the server lets it ``feed`` items (benchmark row ``slow-pipeline``)."""

    def __init__(
        self,
        target: StreamTarget,
        dispatcher: CallbackDispatcher,
        events: queue.Queue[Any] | None,
        context: contextvars.Context,
    ) -> None:
        self._target = target
        self._dispatcher = dispatcher
        self._context = context
        self._alone = events is None  # there are no events to wait for
        self._items = _stream(target, dispatcher, events, context)

    def __next__(self) -> Any:
        self._alone = False
        return next(self._items)

    def send(self, value: None) -> Any:
        """Behave as a generator."""
        self._alone = False
        return self._items.send(value)

    def throw(self, *error: Any) -> Any:
        """Behave as a generator."""
        return self._items.throw(*error)

    def close(self) -> None:
        """Behave as a generator."""
        self._items.close()

    def feed(self, put: Callable[[Any], bool]) -> None:
        """Run the pipeline in this thread and call *put* with every item, until it returns False."""
        if self._alone:
            self._context.run(self._run, put)
            return
        for item in self._items:
            if not put(item):
                return

    def _run(self, put: Callable[[Any], bool]) -> None:
        dispatcher, observed, one_at_a_time = self._dispatcher, self._dispatcher.need_items, threading.Lock()

        # A function, as in ThreadChunkReader.
        def forward(item: Any) -> None:
            if observed:
                with one_at_a_time:  # a callback's output precedes its chunk
                    for call in dispatcher.before(item):
                        for output in _outputs(call):
                            put(output)
                if isinstance(item, ComponentEnd):
                    return
            if not put(item):
                raise ConsumerGoneError

        target = self._target.observed(dispatcher.on_component_end, forward)
        arguments = target.arguments(
            lambda component, at_run: _after(user_callback(component, at_run, is_async=False), forward)
        )
        try:
            result = target.located(lambda: target.pipeline.run(**arguments))
        except ConsumerGoneError:
            return
        for call in dispatcher.at_end(result):
            for output in _outputs(call):
                put(output)


def _after(user: Callable[[Any], Any] | None, forward: Callable[[Any], None]) -> Callable[[Any], None]:
    if user is None:
        return forward

    def call_both(chunk: Any) -> None:
        user(chunk)
        forward(chunk)

    return call_both


def _stream(
    target: StreamTarget, dispatcher: CallbackDispatcher, events: queue.Queue[Any] | None, context: contextvars.Context
) -> Generator[Any, None, None]:
    observed = dispatcher.need_items
    with closing(ThreadChunkReader(events)) as reader:
        target = target.observed(dispatcher.on_component_end, reader.put)
        arguments = target.arguments(
            lambda component, at_run: reader.callback(user_callback(component, at_run, is_async=False))
        )
        pipeline: Future[Any] = Future()
        pipeline.add_done_callback(reader.finish)
        run = partial(_run, pipeline, partial(target.pipeline.run, **arguments))
        # A daemon: a pipeline that hangs must not block the exit.
        thread = threading.Thread(target=context.run, args=(run,), name="hayhooks-stream", daemon=True)
        thread.start()
        for item in reader:
            if observed:
                for call in dispatcher.before(item):
                    yield from _outputs(call)
                if isinstance(item, ComponentEnd):
                    continue
            yield item
        thread.join()  # it has finished
        for call in dispatcher.at_end(target.located(pipeline.result)):
            yield from _outputs(call)


def _run(outcome: Future[Any], run: Callable[[], Any]) -> None:
    try:
        outcome.set_result(run())
    # The reader raises it, whatever it is; a thread would only print it.
    except BaseException as error:
        outcome.set_exception(error)


async def _stream_async(
    target: StreamTarget,
    dispatcher: CallbackDispatcher,
    events: asyncio.Queue[Any] | None,
    context: contextvars.Context,
    *,
    shield: bool,
) -> AsyncGenerator[Any, None]:
    observed = dispatcher.need_items
    with closing(TaskChunkReader(events, shield=shield)) as reader:
        target = target.observed(dispatcher.on_component_end, reader.put)
        arguments = target.arguments(partial(_async_callback, reader))
        run = target.located(lambda: target.pipeline.run_async(**arguments))
        pipeline: asyncio.Task[Any] = asyncio.get_running_loop().create_task(run, context=context)
        pipeline.add_done_callback(reader.finish)
        try:
            async for item in reader:
                if observed:
                    for call in dispatcher.before(item):
                        for output in await _outputs_async(call):
                            yield output
                    if isinstance(item, ComponentEnd):
                        continue
                yield item
            for call in dispatcher.at_end(target.located(pipeline.result)):
                for output in await _outputs_async(call):
                    yield output
        finally:
            if not shield:
                await _end(pipeline)
            elif not pipeline.done():
                _shielded.add(pipeline)
                pipeline.add_done_callback(_shielded.discard)
                pipeline.add_done_callback(_log_failure)


def _async_callback(
    reader: TaskChunkReader, component: Any, at_run: Callable[[Any], Any] | None
) -> Callable[[Any], Any]:
    if is_sync_only(component):
        return reader.thread_callback(user_callback(component, at_run, is_async=False))
    return reader.callback(user_callback(component, at_run, is_async=True))


async def _end(pipeline: asyncio.Task[Any]) -> None:
    """Cancel *pipeline* once and wait for its end, however often the reader is cancelled meanwhile.

    anyio cancels a task again and again until it leaves its scope; that would interrupt the components' cleanup.
    """
    interrupted = False
    pipeline.cancel()
    while not pipeline.done():
        try:
            await asyncio.wait([pipeline])
        except asyncio.CancelledError:
            interrupted = True
    if not pipeline.cancelled():
        pipeline.exception()  # retrieved, so that asyncio does not warn
    if interrupted:
        raise asyncio.CancelledError


def _log_failure(pipeline: asyncio.Task[Any]) -> None:
    if not pipeline.cancelled() and (error := pipeline.exception()):
        fold(error)
        log.opt(exception=error).error("A pipeline failed after its stream had been closed: {}", error)


def _outputs(call: CallbackCall) -> list[Any]:
    try:
        return outputs(call())
    # A failing callback must not spoil the answer.
    except Exception as error:
        fold(error)
        log.opt(exception=error).error("{} failed: {}", call.name, type_and_message(error))
        return []


async def _outputs_async(call: CallbackCall) -> list[Any]:
    try:
        return outputs(await settled(call()))
    except Exception as error:  # as above
        fold(error)
        log.opt(exception=error).error("{} failed: {}", call.name, type_and_message(error))
        return []
