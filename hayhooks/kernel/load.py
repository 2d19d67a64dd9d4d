"""Load: from a revision to a deployment that is ready to serve, or to the failure that says why not."""

import inspect
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from loguru import logger as log

from hayhooks.errors import LoadError
from hayhooks.kernel import haystack_hooks
from hayhooks.kernel.failure import failure_of
from hayhooks.kernel.gate import OnLoop, run_check
from hayhooks.kernel.isolation import close_package, open_package, running_package
from hayhooks.kernel.limits import Slots
from hayhooks.kernel.making import make_wrapper
from hayhooks.kernel.operations import Operation, TransportTypes, inspect_method
from hayhooks.kernel.options import KernelOptions
from hayhooks.kernel.state import Deployment, DeploymentRuntime, Failure, Revision
from hayhooks.kernel.threads import DaemonThreadPool
from hayhooks.wrapper import BasePipelineWrapper

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

BuildRoutes = Callable[[Deployment], Any]


def load(
    revision: Revision,
    *,
    options: KernelOptions,
    transport: TransportTypes,
    build_routes: BuildRoutes,
    on_loop: OnLoop,
) -> Deployment | Failure:
    """Import the wrapper of *revision*, set it up, warm it up, describe its methods and let it check itself.

    Args:
        revision: what was scanned; exactly these bytes run.
        options: the deployment's threads and limits, and how long its ``check`` may take.
        transport: the serving layer's classes in annotations, see ``inspect_method``.
        build_routes: makes the deployment's ``endpoints``; what it raises is the revision's failure too.
        on_loop: for what must be made on the serving loop, as Haystack's async clients.
    """
    if revision.problem:
        return failure_of(revision, LoadError(revision.problem))
    package = open_package(revision, after_import=haystack_hooks.install_hooks)
    try:
        return _load(revision, package, options, transport, build_routes, on_loop)
    # The user's code may raise anything, SystemExit included; whatever it raises must not end the server.
    except BaseException as error:
        failure = failure_of(revision, error)
    finally:
        _mend_streams(revision.name)
    haystack_hooks.forget_components(package)
    close_package(package)
    return failure


def _load(
    revision: Revision,
    package: str,
    options: KernelOptions,
    transport: TransportTypes,
    build_routes: BuildRoutes,
    on_loop: OnLoop,
) -> Deployment:
    began = time.perf_counter()
    with running_package(package):
        haystack_hooks.install_hooks()
        wrapper = make_wrapper(revision, package)
        limits = options.limits.of(wrapper)
        operations = _operations(wrapper, transport)
        _warm_up(wrapper, operations, on_loop)
        run_check(wrapper, options.check_s, on_loop)
    deployment = Deployment(
        revision=revision,
        package=package,
        wrapper=wrapper,
        operations=operations,
        description=inspect.getdoc(wrapper) or "" if wrapper.__doc__ else "",
        loaded_at=time.time(),
        load_ms=(time.perf_counter() - began) * 1000,
        runtime=DeploymentRuntime(
            threads=DaemonThreadPool(revision.name, options.threads),
            slots=Slots(revision.name, limits.concurrency, limits.queue) if limits.concurrency else None,
        ),
        timeout_s=limits.timeout_s,
    )
    return replace(deployment, endpoints=build_routes(deployment))


def _operations(wrapper: BasePipelineWrapper, transport: TransportTypes) -> dict[str, Operation]:
    """Describe the methods that the wrapper implements itself; the base class has a stub for each."""
    implemented = {name: getattr(wrapper, name) for name in METHODS if _is_its_own(wrapper, name)}
    if not implemented:
        listed = ", ".join(METHODS[:4])
        raise LoadError(f"{type(wrapper).__name__} implements none of {listed}: it could not answer any request")
    return {name: inspect_method(method, transport) for name, method in implemented.items()}


def _is_its_own(wrapper: BasePipelineWrapper, name: str) -> bool:
    """Whether *wrapper* has a method *name*, of its class or put there by ``setup``, and not the base class's stub."""
    return getattr(getattr(wrapper, name), "__func__", None) is not getattr(BasePipelineWrapper, name)


def _warm_up(wrapper: BasePipelineWrapper, operations: dict[str, Operation], on_loop: OnLoop) -> None:
    """Warm up here, in the loader's thread, whatever takes long; then on the loop what async methods need there."""
    for warm_up in haystack_hooks.lifecycle_methods(wrapper, "warm_up"):
        warm_up()
    if any(operation.on_loop for operation in operations.values()):
        for warm_up_async in haystack_hooks.lifecycle_methods(wrapper, "warm_up_async"):
            on_loop(warm_up_async)


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
    with running_package(deployment.package):
        steps: list[tuple[str, Callable[[], Any]]] = [("teardown()", deployment.wrapper.teardown)]
        if any(operation.on_loop for operation in deployment.operations.values()):
            closings = haystack_hooks.lifecycle_methods(deployment.wrapper, "close_async")
            steps += [("close_async()", partial(on_loop, close)) for close in closings]
        steps += [("close()", close) for close in haystack_hooks.lifecycle_methods(deployment.wrapper, "close")]
        for what, step in steps:
            try:
                step()
            # The user's code may raise anything; the rest must be let go of all the same.
            except BaseException:
                log.opt(exception=True).warning("{}: {} of revision {} failed", deployment.name, what, _id(deployment))
    deployment.runtime.threads.close()
    haystack_hooks.forget_components(deployment.package)
    close_package(deployment.package)


def _id(deployment: Deployment) -> str:
    return deployment.revision.id
