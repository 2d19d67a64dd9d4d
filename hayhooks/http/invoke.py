"""Invoke: call a wrapper's method, sync or async, and return its result or its stream.

Sync code runs in the deployment's own threads, async code on the event loop.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from functools import partial
from typing import Any

from hayhooks.http.stream import Stream
from hayhooks.http.user_code import call_soon, is_control_flow, pipeline_error, run_in_thread
from hayhooks.kernel.admission import Slots, current_lease
from hayhooks.kernel.isolation import enter_package
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.state import Deployment
from hayhooks.kernel.threads import Outcome

_PLAIN = frozenset({str, bytes, int, float, bool, dict, list, type(None)})  # neither awaited nor streamed


async def invoke(deployment: Deployment, operation: Operation, arguments: dict[str, Any]) -> Any:
    """Call *operation* of *deployment* with keyword *arguments*.

    Returns:
        What the method returned, awaited; a ``Stream`` if that is an iterator, or can be iterated asynchronously.

    Raises:
        PipelineError: the wrapper's code raised; the cause is what it raised.
        UnavailableError: the deployment works on as many requests as it may, and as many wait.
        Exception: a Starlette ``HTTPException`` is raised as it is.
    """
    if deployment.runtime.slots is not None:
        await _take_slot(deployment.runtime.slots)
    enter_package(deployment.package)
    try:
        if operation.on_loop:
            result = operation.method(**arguments)
        else:
            result = await _in_thread(deployment, partial(operation.method, **arguments))
        if type(result) not in _PLAIN and hasattr(result, "__await__"):
            result = await result
    # The user's code may raise anything, SystemExit included; none of it may end the server.
    except BaseException as error:
        if is_control_flow(error):
            raise
        raise pipeline_error(error) from error
    if type(result) in _PLAIN:
        return result
    if hasattr(result, "body_iterator"):  # a response that the wrapper made itself
        result.body_iterator = _without_exits(result.body_iterator)
    return await Stream.of(deployment, result) if _is_stream(result) else result


async def _without_exits(items: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    """*items*, which are iterated in a task that is not ours: raised there, these would end the server."""
    try:
        async for item in items:
            yield item
    except (SystemExit, KeyboardInterrupt) as error:
        raise pipeline_error(error) from error


async def _take_slot(slots: Slots) -> None:
    """Wait for the turn of the request that runs in this context; it has it to its last byte."""
    lease = current_lease.get()
    if lease is not None and lease.slot is None:
        lease.slot = await slots.take()


def _is_stream(result: Any) -> bool:
    # By attribute, as above: the checks of collections.abc cost more than the rest of a short call.
    return hasattr(result, "__next__") or hasattr(result, "__aiter__")


async def collect(stream: Stream) -> list[Any]:
    """Every item of *stream*."""
    items: list[Any] = []
    async with aclosing(stream):
        while batch := await stream.next():
            items += batch
    return items


async def _in_thread(deployment: Deployment, call: partial[Any]) -> Any:
    """Run *call* in a thread of *deployment*; when this is cancelled, the thread runs on."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Outcome] = loop.create_future()
    run_in_thread(
        deployment,
        getattr(call.func, "__name__", "a method"),
        call,
        lambda outcome: call_soon(loop, partial(_settle, future, outcome)),
    )
    # An error that a future, or a frame of its traceback, refers to would be a cycle.
    return (await future).unwrap()


def _settle(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():  # cancelled meanwhile
        future.set_result(outcome)
