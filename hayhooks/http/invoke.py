"""Invoke: call a wrapper's method, in a thread or on the loop."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException

from hayhooks.http.stream import Stream, open_stream
from hayhooks.http.user_code import call_soon, is_control_flow, raise_pipeline_error, run_in_thread
from hayhooks.kernel.admission import Slots, current_lease
from hayhooks.kernel.isolation import enter_package
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.state import Deployment
from hayhooks.kernel.threads import Outcome

_PLAIN = frozenset({str, bytes, int, float, bool, dict, list, type(None)})  # neither awaited nor streamed


async def invoke(deployment: Deployment, operation: Operation, arguments: dict[str, Any]) -> Any:
    """Call *operation* with *arguments*; return its result or a ``Stream``.

    An error of the wrapper is raised as PipelineError, but its ``HTTPException`` as it is.
    """
    if operation.takes_any and operation.receiver in arguments:
        raise HTTPException(400, f"No argument can be called {operation.receiver!r}: the method's wrapper is")
    if deployment.runtime.slots is not None:
        await _take_slot(deployment.runtime.slots)
    enter_package(deployment.package)
    try:
        if operation.on_loop:
            result = operation.method(**arguments)
        else:
            result = await in_thread(deployment, partial(operation.method, **arguments))
        if type(result) not in _PLAIN and hasattr(result, "__await__"):
            result = await result
    # The user's code may raise anything, SystemExit included; none of it may end the server.
    except BaseException as error:
        if is_control_flow(error):
            raise
        raise_pipeline_error(error)
    if type(result) in _PLAIN:
        return result
    if hasattr(result, "body_iterator"):  # a response that the wrapper made itself
        result.body_iterator = _without_exits(result.body_iterator)
    # By attribute, as above: the checks of collections.abc cost more than the rest of a short call.
    if hasattr(result, "__next__") or hasattr(result, "__aiter__"):
        stream = await open_stream(deployment, result)
        stream.method = operation.method
        return stream
    return result


async def _without_exits(items: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    try:
        async for item in items:
            yield item
    except (SystemExit, KeyboardInterrupt) as error:  # in Starlette's task these would end the server
        raise_pipeline_error(error)


async def _take_slot(slots: Slots) -> None:
    # Not in `invoke`: an error's traceback would keep the lease alive.
    lease = current_lease.get()
    if lease is not None and lease.slot is None:
        lease.slot = await slots.take()  # held to the last byte


async def collect(stream: Stream) -> list[Any]:
    """Return every item of *stream*."""
    items: list[Any] = []
    async with aclosing(stream):
        while batch := await stream.next():
            items += batch
    return items


async def in_thread(deployment: Deployment, call: partial[Any]) -> Any:
    """Run *call* in a thread, which runs on if this is cancelled."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Outcome] = loop.create_future()

    def settle(outcome: Outcome) -> None:
        if not future.done():  # cancelled meanwhile
            future.set_result(outcome)

    run_in_thread(
        deployment,
        getattr(call.func, "__name__", "a method"),
        call,
        lambda outcome: call_soon(loop, partial(settle, outcome)),
    )
    # An error that a future, or a frame of its traceback, refers to would be a cycle.
    return (await future).unwrap()


async def call_owner(deployment: Deployment, method: Callable[..., Any], request: Any) -> Any:
    """Call ``durable_owner_id``, sync or async, with *request*; PipelineError if it raises."""
    enter_package(deployment.package)
    try:
        result = method(request)
        return await result if inspect.isawaitable(result) else result
    except BaseException as error:
        if is_control_flow(error):
            raise
        raise_pipeline_error(error)
