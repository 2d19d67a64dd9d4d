"""Around the wrapper's code: a thread that keeps its deployment, and errors as the server can raise them."""

import asyncio
import contextvars
import traceback as tracebacks
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException, WebSocketException

from hayhooks.errors import PipelineError, safe_str, sendable
from hayhooks.kernel.admission import Lease, current_lease
from hayhooks.kernel.isolation import with_public_names
from hayhooks.kernel.state import Deployment
from hayhooks.kernel.threads import Outcome

_NOT_RAISABLE = (
    StopIteration,
    StopAsyncIteration,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    asyncio.CancelledError,
)


def run_in_thread(
    deployment: Deployment, method: str, call: Callable[[], Any], done: Callable[[Outcome], None]
) -> None:
    """Call *call* in a thread of *deployment*, in this context, and then *done* with its outcome, in that thread.

    The deployment and the request's slot are kept while *call* runs, also when the request has ended before.

    Args:
        deployment: whose thread.
        method: what it runs, as the log names it.
        call: the wrapper's code.
        done: must not raise.
    """
    context = contextvars.copy_context()
    unpin = _pin_deployment(deployment, method, asyncio.get_running_loop())

    def job() -> None:
        outcome = Outcome.of(partial(context.run, call))
        unpin()
        if outcome.error is not None:
            outcome.error = _raisable(outcome.error)
        done(outcome)

    deployment.runtime.threads.submit(job)


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Have *loop* call *callback*; from any thread, also when the loop has ended."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # the loop has ended, and nobody waits any more
        return


def is_control_flow(error: BaseException) -> bool:
    """Whether *error* is no fault of the wrapper: this task is cancelled, or it is the response itself."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0  # else the wrapper itself raised it
    return isinstance(error, HTTPException | WebSocketException)


def pipeline_error(error: BaseException) -> PipelineError:
    """Describe *error*, which the wrapper raised, with the names that its author knows."""
    try:
        traceback = "".join(tracebacks.format_exception(error))
    except BaseException:  # it is of the user's own making, down to its attributes
        traceback = "".join(tracebacks.format_tb(error.__traceback__))
    return PipelineError(
        with_public_names(safe_str(error)) or type(error).__name__, traceback=sendable(with_public_names(traceback))
    )


def _pin_deployment(deployment: Deployment, method: str, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Keep *deployment*, and the request's slot, for a thread; the returned function, called once there, ends it."""
    lease, request = Lease(thread=method), current_lease.get()
    leases = deployment.runtime.leases
    leases.take(lease)
    slot = request.slot if request is not None else None
    if slot is None:
        return partial(leases.give_back, lease)
    slot.share()

    def unpin() -> None:
        leases.give_back(lease)
        call_soon(loop, slot.give_back)

    return unpin


def _raisable(error: BaseException) -> BaseException:
    """*error* as a coroutine can raise it: some would end the loop, or a generator, or look like our own."""
    if not isinstance(error, _NOT_RAISABLE):
        return error
    carrier = RuntimeError(f"{type(error).__name__}: {error}".removesuffix(": "))
    carrier.__cause__ = error
    return carrier
