"""The gate before the swap: a wrapper's ``check``, which tries a new revision before it serves."""

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from hayhooks.errors import LoadError
from hayhooks.kernel.outcome import Outcome
from hayhooks.wrapper import BasePipelineWrapper

OnLoop = Callable[[Callable[[], Awaitable[Any]]], Any]  # run a coroutine function on the serving loop and wait


def run_check(wrapper: BasePipelineWrapper, limit_s: float, on_loop: OnLoop) -> None:
    """Let *wrapper* check itself; what that raises is the revision's failure.

    Raises:
        LoadError: it says no, is not done after *limit_s* seconds, or could not run at all.
    """
    check = wrapper.check
    if type(wrapper).check is BasePipelineWrapper.check or not _is_callable_without_arguments(check):
        return
    if inspect.isgeneratorfunction(check) or inspect.isasyncgenfunction(check):
        raise LoadError("check() is a generator, of which nothing would run: take the yield out of it")
    if inspect.iscoroutinefunction(check):
        result = on_loop(lambda: _within(limit_s, check()))
    else:
        result = _in_time(check, limit_s)
        if inspect.isawaitable(result):
            result = on_loop(partial(_within, limit_s, result))
    if result is False:
        raise LoadError("check() returned False: this revision says that it does not work")


def _is_callable_without_arguments(method: Callable[..., Any]) -> bool:
    """Whether it is our ``check``, and not one of the wrapper's own that happens to have the name."""
    try:
        inspect.signature(method).bind()
    except TypeError:
        return False
    return True


async def _within(limit_s: float, work: Awaitable[Any]) -> Any:
    """Await *work* on the loop, and go on without it when it takes too long: it may refuse to be cancelled."""
    task = asyncio.create_task(Outcome.awaited(work))
    done, _ = await asyncio.wait({task}, timeout=limit_s)
    if not done:
        task.cancel()
        raise _too_slow(limit_s)
    return task.result().take()


def _in_time(check: Callable[[], Any], limit_s: float) -> Any:
    """Call *check* in a thread, to be able to go on without it."""
    outcomes: list[Outcome] = []
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=lambda: outcomes.append(Outcome.of(partial(context.run, check))), name="hayhooks check", daemon=True
    )
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise _too_slow(limit_s)
    return outcomes.pop().take()


def _too_slow(limit_s: float) -> LoadError:
    return LoadError(f"check() was not done after {limit_s:g} s (HAYHOOKS_CHECK_TIMEOUT)")
