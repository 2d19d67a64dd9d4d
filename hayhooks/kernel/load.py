"""Load: from a revision to a deployment that is ready to serve, or to the failure that says why not."""

import asyncio
import contextvars
import importlib
import inspect
import linecache
import os
import sys
import threading
import time
import traceback as tracebacks
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from hayhooks.errors import LoadError, Place, sendable, told
from hayhooks.kernel import haystack
from hayhooks.kernel.crew import Crew
from hayhooks.kernel.limits import Limits, Slots
from hayhooks.kernel.modules import PREFIX, close_package, keep_shared, open_package, public, running, shared_modules
from hayhooks.kernel.outcome import Outcome
from hayhooks.kernel.scan import WRAPPER_FILE
from hayhooks.kernel.signature import Operation, describe
from hayhooks.kernel.snapshot import Deployment, Failure, Revision, with_endpoints
from hayhooks.logger import log
from hayhooks.wrapper import BasePipelineWrapper

CLASS = "PipelineWrapper"

_OURS = (str(Path(__file__).parent.parent), str(Path(importlib.__file__).parent), "<frozen importlib")  # frames

_DESCRIPTORS = {"stdout": 1, "stderr": 2}

METHODS = (
    "run_api",
    "run_api_async",
    "run_chat_completion",
    "run_chat_completion_async",
    "run_response",
    "run_response_async",
    "run_file_upload",
    "run_file_list",
    "run_file_retrieve",
    "run_file_content",
    "run_file_delete",
)

Equip = Callable[[Deployment], Any]
OnLoop = Callable[[Callable[[], Awaitable[Any]]], Any]  # run a coroutine function on the serving loop and wait


def load(
    revision: Revision, *, threads: int, limits: Limits, check_s: float, equip: Equip, on_loop: OnLoop
) -> Deployment | Failure:
    """Import the wrapper of *revision*, set it up, warm it up, describe its methods and let it check itself.

    Args:
        revision: what was scanned; exactly these bytes run.
        threads: how many of its sync calls may run at a time.
        limits: what its requests may take, where the wrapper does not say so itself.
        check_s: how many seconds the wrapper's ``check`` may take.
        equip: makes the deployment's ``endpoints``; what it raises is the revision's failure too.
        on_loop: for what must be made on the serving loop, as Haystack's async clients.
    """
    if revision.problem:
        return _failure(revision, LoadError(revision.problem))
    package = open_package(revision, after_import=haystack.prepare)
    try:
        return _load(revision, package, threads=threads, limits=limits, check_s=check_s, equip=equip, on_loop=on_loop)
    except LoadError as error:
        failure = _failure(revision, error)
    # The user's code may raise anything, SystemExit included; whatever it raises must not end the server.
    except BaseException as error:
        failure = _failure(revision, _translated(error, revision))
    finally:
        _mend_streams(revision.name)
    haystack.forget(package)
    close_package(package)
    return failure


def _load(
    revision: Revision, package: str, *, threads: int, limits: Limits, check_s: float, equip: Equip, on_loop: OnLoop
) -> Deployment:
    began = time.perf_counter()
    with running(package):
        haystack.prepare()
        with shared_modules.renewed(revision.shared):
            wrapper_class = _wrapper_class(package)
        keep_shared(package, revision.shared)
        wrapper = wrapper_class()
        _set_up(wrapper)
        limits = limits.of(wrapper)
        operations = _operations(wrapper)
        _warm_up(wrapper, operations, on_loop)
        _check(wrapper, check_s, on_loop)
    deployment = Deployment(
        revision=revision,
        package=package,
        wrapper=wrapper,
        operations=operations,
        description=inspect.getdoc(type(wrapper)) or "" if type(wrapper).__doc__ else "",
        loaded_at=time.time(),
        load_ms=(time.perf_counter() - began) * 1000,
        crew=Crew(revision.name, threads),
        timeout_s=limits.timeout_s,
        slots=Slots(revision.name, limits.concurrency, limits.queue) if limits.concurrency else None,
    )
    return with_endpoints(deployment, equip(deployment))


def _set_up(wrapper: BasePipelineWrapper) -> None:
    if inspect.iscoroutinefunction(wrapper.setup):
        raise LoadError(f"setup() of {CLASS} is async: make it a plain method (it runs in a thread of its own)")
    wrapper.setup()


def _wrapper_class(package: str) -> type[BasePipelineWrapper]:
    module = importlib.import_module(f"{package}.{WRAPPER_FILE.removesuffix('.py')}")
    found = getattr(module, CLASS, None)
    if isinstance(found, type) and issubclass(found, BasePipelineWrapper) and found is not BasePipelineWrapper:
        return found
    base = f"class {CLASS}(BasePipelineWrapper)"
    if found is not None:
        raise LoadError(f"{CLASS} in {module.__file__} does not derive from BasePipelineWrapper: write {base}")
    others = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BasePipelineWrapper) and value is not BasePipelineWrapper
    ]
    hint = f"rename {others[0]} to {CLASS}" if others else f"define {base}"
    raise LoadError(f"{module.__file__} has no class {CLASS}: {hint}")


def _operations(wrapper: BasePipelineWrapper) -> dict[str, Operation]:
    """Describe the methods that the wrapper's class implements itself; the base class has a stub for each."""
    implemented = [
        name for name in METHODS if getattr(type(wrapper), name, None) is not getattr(BasePipelineWrapper, name)
    ]
    if not implemented:
        listed = ", ".join(METHODS[:4])
        raise LoadError(f"{CLASS} implements none of {listed}: it could not answer any request")
    return {name: describe(getattr(wrapper, name)) for name in implemented}


def _warm_up(wrapper: BasePipelineWrapper, operations: dict[str, Operation], on_loop: OnLoop) -> None:
    """Warm up here, in the loader's thread, whatever takes long; then on the loop what async methods need there."""
    for warm_up in haystack.each(wrapper, "warm_up"):
        warm_up()
    if any(operation.on_loop for operation in operations.values()):
        for warm_up_async in haystack.each(wrapper, "warm_up_async"):
            on_loop(warm_up_async)


def _check(wrapper: BasePipelineWrapper, limit_s: float, on_loop: OnLoop) -> None:
    """The gate before the swap: what the wrapper's ``check`` raises is the revision's failure."""
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


def _mend_streams(name: str) -> None:
    """Open standard output and error again, if a wrapper has closed them: whoever prints would fail."""
    closed = [stream for stream in _DESCRIPTORS if getattr(getattr(sys, stream), "closed", False)]
    for stream in closed:
        try:
            mended = os.fdopen(os.dup(_DESCRIPTORS[stream]), "w", buffering=1, errors="backslashreplace")
        except OSError:  # what it led to is closed too
            mended = open(os.devnull, "w")  # noqa: SIM115 - it stays open
        setattr(sys, stream, mended)
    if closed:  # a log line before that might fail itself
        log.warning("{}: a wrapper has closed {}; it is open again", name, " and ".join(closed))


def unload(deployment: Deployment, on_loop: OnLoop) -> None:
    """Undo ``load``: teardown, close the pipelines, forget the modules. Every step is tried, what fails is logged."""
    with running(deployment.package):
        steps: list[tuple[str, Callable[[], Any]]] = [("teardown()", deployment.wrapper.teardown)]
        if any(operation.on_loop for operation in deployment.operations.values()):
            closings = haystack.each(deployment.wrapper, "close_async")
            steps += [("close_async()", partial(on_loop, close)) for close in closings]
        steps += [("close()", close) for close in haystack.each(deployment.wrapper, "close")]
        for what, step in steps:
            try:
                step()
            # The user's code may raise anything; the rest must be let go of all the same.
            except BaseException:
                log.opt(exception=True).warning("{}: {} of revision {} failed", deployment.name, what, _id(deployment))
    deployment.crew.close()
    haystack.forget(deployment.package)
    close_package(deployment.package)


def _id(deployment: Deployment) -> str:
    return deployment.revision.id


def _failure(revision: Revision, error: LoadError) -> Failure:
    place = error.place and Place(sendable(error.place.file), error.place.line, sendable(error.place.source))
    traceback, hint = sendable(error.traceback), sendable(error.hint)
    return Failure(revision, sendable(error.reason), traceback, place, hint, time.time())


def _translated(error: BaseException, revision: Revision) -> LoadError:
    """What the user's code raised, as text: reason, traceback without our own frames, place and hint."""
    message = " ".join(told(error).split()) or "(no message)"
    reason = f"{type(error).__name__}: {public(message)}"
    try:
        traceback = "".join(_without_our_frames(tracebacks.TracebackException.from_exception(error)).format())
        return LoadError(
            reason,
            traceback=public(traceback),
            place=_place(error, str(revision.path)),
            hint=_hint(error, revision),
        )
    # Errors may be of the user's own making, down to their attributes: then only the frames can be told.
    except BaseException:
        return LoadError(reason, traceback=public("".join(tracebacks.format_tb(error.__traceback__))))


def _without_our_frames(told: tracebacks.TracebackException) -> tracebacks.TracebackException:
    """*told*, and what it came from, without the frames of hayhooks and of the import machinery."""
    told.stack = tracebacks.StackSummary.from_list(
        [frame for frame in told.stack if not frame.filename.startswith(_OURS)]
    )
    for origin in (told.__cause__, told.__context__):
        if origin is not None:
            _without_our_frames(origin)
    return told


def _place(error: BaseException, folder: str) -> Place | None:
    """The innermost place in *folder*: of a syntax error the line it is in, else the last frame there."""
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(folder):
        return Place(error.filename, error.lineno or 1, (error.text or "").strip())
    for frame in reversed(tracebacks.extract_tb(error.__traceback__)):
        if frame.filename.startswith(folder):
            line = frame.lineno or 1
            linecache.checkcache(frame.filename)
            return Place(frame.filename, line, (frame.line or "").strip())
    return None


def _hint(error: BaseException, revision: Revision) -> str:
    if not isinstance(error, ModuleNotFoundError) or not error.name or error.name.startswith(PREFIX):
        return ""  # of a file that is missing beside the wrapper the message says all
    top = error.name.partition(".")[0]
    if "requirements.txt" in revision.files:
        return f"pip install -r {revision.path / 'requirements.txt'}"
    return f"pip install {_DISTRIBUTIONS.get(top, top.replace('_', '-'))}"


# Import names whose distribution is called something else, among those that Haystack users meet.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "haystack_integrations": "the integration's package (see https://haystack.deepset.ai/integrations)",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
