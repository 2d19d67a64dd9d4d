"""User code: run it in the deployment's threads, and convert its errors."""

import asyncio
import contextvars
import threading
import traceback as tracebacks
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from starlette.exceptions import HTTPException, WebSocketException

from hayhooks.errors import PipelineError, UnavailableError, fold, safe_str, sendable, type_and_message
from hayhooks.kernel.admission import Lease, current_lease
from hayhooks.kernel.isolation import with_public_names
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.places import OpenFiles, place_of_result
from hayhooks.kernel.state import Deployment
from hayhooks.kernel.threads import Outcome
from hayhooks.kernel.user_errors import headline, place_of
from hayhooks.observability.log import log, printable_line
from hayhooks.observability.request_record import record_error
from hayhooks.observability.traces import current_trace
from hayhooks.toolkit.durable import ExecutionControl

_MAX_LOGGED = 1_000  # characters of an error's message; its traceback has all of it

# Raised again elsewhere they would end the event loop or a generator, or look like our own.
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
    """Call *call* in a thread, in this context, then *done*, which must not raise.

    The deployment and the request's slot are kept meanwhile, even if the request ends first.
    """
    context = contextvars.copy_context()
    loop, leases, request = asyncio.get_running_loop(), deployment.runtime.leases, current_lease.get()
    slot = request.slot if request is not None else None
    lease = Lease(thread=method, request=request, is_attempt=request is not None and request.is_attempt)
    leases.take(lease)
    if slot is not None:
        slot.share()

    def job() -> None:
        lease.ident = threading.get_ident()
        outcome = Outcome.of(partial(context.run, call))
        leases.give_back(lease)
        if slot is not None:
            call_soon(loop, slot.give_back)
        if outcome.error is not None:
            outcome.error = honest(outcome.error)
        if isinstance(outcome.error, _NOT_RAISABLE):
            carrier = RuntimeError(type_and_message(outcome.error))
            carrier.__cause__ = outcome.error
            outcome.error = carrier
        done(outcome)

    try:
        deployment.runtime.threads.submit(job)
    except UnavailableError:
        if slot is not None:
            slot.give_back()
        leases.give_back(lease)
        raise


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Have *loop* call *callback*, from any thread, unless the loop has ended."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # the loop has ended, and nobody waits any more
        return


def honest(error: BaseException) -> BaseException:
    """Return *error*, or one in its place if its class overrides ``__class__``: ``isinstance`` may raise with it."""
    if all("__class__" not in vars(cls) for cls in type(error).__mro__[:-1]):
        return error
    return RuntimeError(f"{type(error).__name__}: {safe_str(error)}").with_traceback(error.__traceback__)


def is_control_flow(error: BaseException) -> bool:
    """Whether *error* cancels this task, is the response, leaves an attempt, or a lack of threads: no fault."""
    if issubclass(type(error), asyncio.CancelledError):  # `isinstance` also asks the error itself
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0  # else the wrapper itself raised it
    return issubclass(type(error), HTTPException | WebSocketException | UnavailableError | ExecutionControl)


def raise_pipeline_error(error: BaseException) -> NoReturn:
    """Raise *error*, of the wrapper, as PipelineError, if it is none."""
    if type(error) is PipelineError:
        raise error
    cause = honest(error)
    raise pipeline_error(cause) from cause


def log_failure(error: Exception, subject: str, operation: Operation | None = None) -> None:
    """Note *error* in the request's record, and log it: with its traceback, or the place of the *operation*."""
    record_error(error)
    place, exception = getattr(error, "place", None), error.__cause__ or error
    if (trace := current_trace.get()) is not None:
        trace.locate(place or place_of(exception, OpenFiles()))
    logger = log.opt(exception=exception)
    if isinstance(exception, PipelineError):  # the result is of no use: no code of the user's has raised
        place = place or (place_of_result(operation.method) if operation else None)
        logger = log.bind(place=place) if place else log
    logger.error("{}: {}", subject, printable_line(safe_str(error), _MAX_LOGGED))


def pipeline_error(error: BaseException) -> PipelineError:
    """Describe *error*, of the wrapper and honest, with the names that its author knows."""
    try:
        fold(error)
        traceback = "".join(tracebacks.format_exception(error))
        message = headline(error)
    except BaseException:  # it is of the user's own making, down to its attributes
        traceback = "".join(tracebacks.format_tb(error.__traceback__))
        message = f"{type(error).__name__}: {safe_str(error)}"
    return PipelineError(with_public_names(message), traceback=sendable(with_public_names(traceback)))
