"""Load: turn a revision into a deployment, or into the failure that says why not.

The steps are: make the wrapper, run its ``setup``, warm up its pipelines, describe its methods, run its ``check``.
"""

import asyncio
import contextvars
import difflib
import importlib
import inspect
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from loguru import logger as log

from hayhooks.errors import LoadError, closest, fold, shortened
from hayhooks.kernel import haystack_hooks
from hayhooks.kernel.admission import LIMITS, Leases, Slots
from hayhooks.kernel.annotations import evaluated_annotations, functions_in
from hayhooks.kernel.discovery import WRAPPER_FILE
from hayhooks.kernel.durable import durable_method, owner_method
from hayhooks.kernel.failure import failure_of
from hayhooks.kernel.isolation import (
    close_package,
    import_public,
    keep_shared,
    open_package,
    running_package,
    shared_modules,
)
from hayhooks.kernel.operations import DurableMethod, Operation, TransportTypes, inspect_method, require_receiver
from hayhooks.kernel.options import KernelOptions
from hayhooks.kernel.phases import Phase, Phases
from hayhooks.kernel.places import place_of_definition
from hayhooks.kernel.shared_modules import named_modules
from hayhooks.kernel.standard_streams import reopen_streams
from hayhooks.kernel.state import Deployment, DeploymentRuntime, Failure, Revision, RevisionKind
from hayhooks.kernel.threads import DaemonThreadPool, OnLoop, Outcome
from hayhooks.toolkit.yaml_wrapper import YAMLPipelineWrapper
from hayhooks.wrapper import DURABLE_METHODS, OPERATIONS, SWITCHES, BasePipelineWrapper

check_threads = DaemonThreadPool("check", limit=4, stuck_after_s=1.0)

BuildRoutes = Callable[[Deployment], Any]

_CLASS = "PipelineWrapper"
_OPTIONS = (*LIMITS, *SWITCHES, "a2a_card", "ray_options")  # attributes of wrappers
_MISSPELLED = 0.85  # how much alike two names are, from 0 to 1
_HAYSTACK_PACKAGES = ("haystack", "haystack_integrations", "haystack_experimental")


def load(
    revision: Revision,
    *,
    options: KernelOptions,
    transport: TransportTypes,
    build_routes: BuildRoutes,
    on_loop: OnLoop,
    phases: Phases,
    leases: Leases | None = None,
) -> Deployment | Failure:
    """Make a deployment of exactly the bytes that were scanned as *revision*.

    An error of *build_routes* makes it a failure too. *on_loop* is for Haystack's async clients and the like.
    What runs meanwhile is in *phases*.
    """
    if revision.problem:
        return failure_of(revision, LoadError(revision.problem))
    package = open_package(revision, after_import=haystack_hooks.patch_haystack, helpers=options.threads)
    try:
        return _load(revision, package, options, transport, build_routes, on_loop, phases, leases or Leases())
    # User code may raise anything, SystemExit included; none of it may end the server.
    except BaseException as error:
        failure = failure_of(revision, error)
    finally:
        if reopened := reopen_streams():  # only now: logging to a closed stream would fail
            log.warning("{}: the wrapper closed {}; reopened", revision.name, " and ".join(reopened))
    haystack_hooks.forget_components(package)
    close_package(package)
    return failure


def unload(deployment: Deployment, on_loop: OnLoop, phases: Phases) -> None:
    """Tear down the wrapper, close its pipelines and forget its modules."""
    revision = deployment.revision
    with running_package(deployment.package), phases.begin(revision, "teardown()") as running:
        steps: list[tuple[str, Callable[[], Any]]] = []
        if deployment.is_set_up:
            steps.append(("teardown()", deployment.wrapper.teardown))
        if any(operation.on_loop for operation in deployment.operations.values()):
            closings = haystack_hooks.lifecycle_methods(deployment.wrapper, "close_async")
            steps += [("close_async()", partial(_await_phase, close, running, phases, on_loop)) for close in closings]
        steps += [("close()", close) for close in haystack_hooks.lifecycle_methods(deployment.wrapper, "close")]
        for step_name, step in steps:
            running.enter(step_name)
            try:
                step()
            # User code may raise anything; the other steps must run all the same.
            except BaseException as error:
                fold(error)
                log.opt(exception=error).warning(
                    "{}: {} of revision {} failed", deployment.name, step_name, revision.id
                )
    deployment.runtime.threads.close()
    haystack_hooks.forget_components(deployment.package)
    close_package(deployment.package)


def _load(
    revision: Revision,
    package: str,
    options: KernelOptions,
    transport: TransportTypes,
    build_routes: BuildRoutes,
    on_loop: OnLoop,
    phases: Phases,
    leases: Leases,
) -> Deployment:
    began = time.perf_counter()
    with running_package(package), phases.begin(revision, "import") as running:
        haystack_hooks.patch_haystack()
        wrapper = _make_wrapper(revision, package, running, set_up=not options.describe_only)
        running.enter("description of its methods")
        limits = options.limits.of(wrapper)
        if options.describe_only:  # nothing of it runs here that could fail
            limits = replace(limits, trial_s=0, canary=0)
        implemented = {  # methods that differ from the base class's: the wrapper class or setup has defined them
            name: method
            for name in OPERATIONS
            if getattr(method := getattr(wrapper, name), "__func__", None) is not getattr(BasePipelineWrapper, name)
        }
        _check_options(revision.name, wrapper, implemented)
        misspelled = _misspelled(wrapper, implemented)
        durable, owner = _durable(wrapper)
        if not implemented and durable is None:
            listed = ", ".join(OPERATIONS[:6])
            meant = " ".join(f"did you mean {right}() instead of {name}()?" for name, right in misspelled.items())
            message = f"{type(wrapper).__name__} implements none of {listed}: it could not answer any request"
            raise LoadError(message, place=place_of_definition(type(wrapper)), hint=meant)
        for name, right in misspelled.items():
            log.warning(
                "{}: nothing calls {}() of {}: did you mean {}()?", revision.name, name, type(wrapper).__name__, right
            )
        operations = {name: _operation(revision.name, method, transport) for name, method in implemented.items()}
        if wrapper.warm_up is not False and not options.describe_only:
            running.enter("warm_up()")
            for warm_up in haystack_hooks.lifecycle_methods(wrapper, "warm_up"):
                warm_up()
            if any(operation.on_loop for operation in operations.values()) or (durable and durable.on_loop):
                running.enter("warm_up_async()")
                for warm_up_async in haystack_hooks.lifecycle_methods(wrapper, "warm_up_async"):
                    _await_phase(warm_up_async, running, phases, on_loop)
        running.enter("check()")
        if not options.describe_only:
            _check(wrapper, options.check_s, running, phases, on_loop)
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
            leases=leases,
            slots=Slots(revision.name, limits.concurrency, limits.queue_size) if limits.concurrency else None,
        ),
        timeout_s=limits.timeout_s,
        trial_s=limits.trial_s,
        canary=limits.canary,
        durable=durable,
        owner=owner,
        is_set_up=not options.describe_only,
    )
    with phases.begin(revision, "its routes"):
        return replace(deployment, endpoints=build_routes(deployment))


def _make_wrapper(revision: Revision, package: str, running: Phase, *, set_up: bool) -> BasePipelineWrapper:
    wrapper: BasePipelineWrapper
    match revision.kind:
        case RevisionKind.FOLDER:
            with shared_modules.renewed(revision.shared):
                wrapper_class = _wrapper_class(package)
                keep_shared(package, revision.shared)
            wrapper = wrapper_class()
        case RevisionKind.YAML:
            content = revision.files[revision.path.name].source or b""
            dotted = sorted(name for name in named_modules(content) if name.partition(".")[0] in _HAYSTACK_PACKAGES)
            with shared_modules.renewed(revision.shared) as gone:
                for module in gone:
                    haystack_hooks.forget_components(module)
                for module in (
                    "haystack",
                    *(name.rpartition(".")[0] for name in dotted),
                ):  # one by one, see isolation.py
                    with suppress(Exception):  # the pipeline raises it again, with the place in the file
                        import_public(module, haystack_hooks.patch_haystack)
                for module in revision.shared:
                    haystack_hooks.register_components(importlib.import_module(module))
                wrapper = YAMLPipelineWrapper(content, file=str(revision.path), allowed_modules=tuple(revision.shared))
        case RevisionKind.CODE:
            assert revision.make is not None
            wrapper = revision.make()
            if not isinstance(wrapper, BasePipelineWrapper):
                raise LoadError(
                    f"the pipeline given in code made an object of {type(wrapper).__name__}, not of BasePipelineWrapper"
                )
    _check_hooks(wrapper)
    _warn_of_misspelled_options(revision.name, wrapper)
    if isinstance(wrapper, YAMLPipelineWrapper) and revision.kind is not RevisionKind.YAML:
        import_public("haystack", haystack_hooks.patch_haystack)
    if set_up or revision.kind is RevisionKind.YAML:  # whose setup() defines its methods
        running.enter("setup()")
        wrapper.setup()
    return wrapper


def _check_hooks(wrapper: BasePipelineWrapper) -> None:
    """Check that there is a ``setup``, and that ``setup``, ``check`` and ``teardown`` can be called."""
    if getattr(wrapper.setup, "__func__", None) is BasePipelineWrapper.setup:
        own = [name for name in vars(type(wrapper)) if not hasattr(BasePipelineWrapper, name)]
        meant = closest("setup", own)
        place = place_of_definition(getattr(type(wrapper), meant, type(wrapper)))
        hint = f"did you mean setup() instead of {meant}()?" if meant else ""
        raise LoadError(f"{type(wrapper).__name__} has no setup()", place=place, hint=hint)
    for method in (wrapper.setup, wrapper.check, wrapper.teardown):
        try:
            require_receiver(method)
        except TypeError as error:
            raise LoadError(str(error), place=place_of_definition(method)) from error
    if inspect.iscoroutinefunction(wrapper.setup):
        name = type(wrapper).__name__
        message = f"setup() of {name} is async: make it a plain method (it runs in a thread of its own)"
        raise LoadError(message, place=place_of_definition(wrapper.setup))


def _wrapper_class(package: str) -> type[BasePipelineWrapper]:
    module = importlib.import_module(f"{package}.{WRAPPER_FILE.removesuffix('.py')}")
    found = getattr(module, _CLASS, None)
    if isinstance(found, type) and issubclass(found, BasePipelineWrapper) and found is not BasePipelineWrapper:
        return found
    base = f"class {_CLASS}(BasePipelineWrapper)"
    if found is not None:
        raise LoadError(f"{_CLASS} in {module.__file__} does not derive from BasePipelineWrapper: write {base}")
    others = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BasePipelineWrapper) and value is not BasePipelineWrapper
    ]
    hint = f"rename {others[0]} to {_CLASS}" if others else f"define {base}"
    raise LoadError(f"{module.__file__} has no class {_CLASS}: {hint}")


def _operation(name: str, method: Callable[..., Any], transport: TransportTypes) -> Operation:
    try:
        operation = inspect_method(method, transport)
        _warn_of_functions(name, method)
    except TypeError as error:
        raise LoadError(str(error), place=place_of_definition(method)) from error
    return operation


def _durable(wrapper: BasePipelineWrapper) -> tuple[DurableMethod | None, Callable[..., Any] | None]:
    try:
        return durable_method(wrapper), owner_method(wrapper)
    except LoadError as error:
        error.place = place_of_definition(type(wrapper))
        raise


def _warn_of_functions(name: str, method: Callable[..., Any]) -> None:
    """Log the functions that *method* of the deployment *name* has as types."""
    for parameter, annotation in evaluated_annotations(method, strict=False).items():
        for function in functions_in(annotation):
            wrong, place = function.__name__, place_of_definition(method)
            meant = f"did you mean {wrong.capitalize()}?" if function in (any, callable) else "write a type"
            which = "its result" if parameter == "return" else parameter
            message = "{}: {}() at {}: {} is annotated with the function {}, which says nothing: {}"
            where = place.short if place else "an unknown line"
            log.warning(message, name, method.__name__, where, which, wrong, meant)


def _check_options(name: str, wrapper: BasePipelineWrapper, implemented: Collection[str]) -> None:
    """Check the attributes of *wrapper* that MCP and A2A read, as far as that needs no SDK."""
    for switch in SWITCHES:
        value = getattr(wrapper, switch)
        if not isinstance(value, bool):
            raise LoadError(f"{switch} of the wrapper is {shortened(repr(value))}: it must be True or False")
    if wrapper.mcp_chat and not any(method.startswith(("run_chat_", "run_response")) for method in implemented):
        needed = "it needs run_chat_completion(), or in YAML the key chat"
        log.warning("{}: mcp_chat is True, but nothing answers chats: {}", name, needed)
    card = wrapper.a2a_card
    if card is None:
        return
    if not isinstance(card, dict) or not all(isinstance(key, str) for key in card):
        found = f"a2a_card of the wrapper is {shortened(repr(card))}"
        raise LoadError(f"{found}: it must be a dict with the names of fields as its keys, or None")
    for field in ("name", "description", "version", "skills"):
        value, accepted = card.get(field), "a text"
        fits = isinstance(value, str | None)
        if field == "skills":
            accepted = "a list of dicts"
            fits = value is None or (isinstance(value, list | tuple) and all(isinstance(each, dict) for each in value))
        if not fits:
            found = f"a2a_card[{field!r}] of the wrapper is {shortened(repr(value))}"
            raise LoadError(f"{found}: it must be {accepted}")


def _warn_of_misspelled_options(name: str, wrapper: BasePipelineWrapper) -> None:
    """Log the class attributes of *wrapper* with nearly the name of an option."""
    for attribute, value in vars(type(wrapper)).items():
        if not isinstance(value, int | float | str | dict) or hasattr(BasePipelineWrapper, attribute):
            continue
        if close := difflib.get_close_matches(attribute.lower(), _OPTIONS, n=1, cutoff=_MISSPELLED):
            message = "{}: nothing reads {} = {!r} of {}: did you mean {}?"
            log.warning(message, name, attribute, value, type(wrapper).__name__, close[0])


def _misspelled(wrapper: BasePipelineWrapper, implemented: Collection[str]) -> dict[str, str]:
    """Return the methods of *wrapper* with nearly the name of one that it does not implement, and that name."""
    wrapper_class = type(wrapper)
    hooks = [name for name in ("check", "teardown") if name not in vars(wrapper_class)]
    missing = [*(name for name in (*OPERATIONS, *DURABLE_METHODS) if name not in implemented), *hooks]
    own = [base for base in wrapper_class.__mro__ if base.__module__ == wrapper_class.__module__]
    methods = {name for base in own for name, value in vars(base).items() if callable(value)}
    names = sorted(name for name in methods if not hasattr(BasePipelineWrapper, name))
    close = {
        name: difflib.get_close_matches(name, missing, n=1, cutoff=_MISSPELLED)
        for name in names
        if not name.endswith("_sync")  # what it calls from an async one, probably
    }
    return {name: matches[0] for name, matches in close.items() if matches}


def _await_phase(method: Callable[[], Awaitable[Any]], running: Phase, phases: Phases, on_loop: OnLoop) -> None:
    on_loop(lambda: phases.await_(running.revision, running.name, method()))


def _check(wrapper: BasePipelineWrapper, timeout_s: float, running: Phase, phases: Phases, on_loop: OnLoop) -> None:
    check = wrapper.check
    if type(wrapper).check is BasePipelineWrapper.check:
        return
    try:
        inspect.signature(check).bind()
    except TypeError:  # it needs arguments: a method of the wrapper's own that happens to have this name
        return
    if inspect.isgeneratorfunction(check) or inspect.isasyncgenfunction(check):
        raise LoadError("check() is a generator, so none of it would run: remove the yield")

    def call() -> Any:
        with phases.begin(running.revision, "check()"):
            return check()

    async def await_with_timeout(awaitable: Awaitable[Any]) -> Any:
        # Not asyncio.timeout, which waits for the end of an awaitable that ignores the cancellation.
        awaited = phases.await_(running.revision, "check()", awaitable)
        task = asyncio.create_task(Outcome.awaited(awaited))
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            task.cancel()
            raise _check_timeout(timeout_s)
        return task.result().unwrap()

    if inspect.iscoroutinefunction(check):
        result = on_loop(lambda: await_with_timeout(check()))
    else:
        result = _call_with_timeout(call, timeout_s)
        if inspect.isawaitable(result):
            result = on_loop(partial(await_with_timeout, result))
    if result is False:
        raise LoadError("check() returned False: the revision reports that it does not work")


def _call_with_timeout(function: Callable[[], Any], timeout_s: float) -> Any:
    """Call *function* in a thread, which is abandoned after the timeout."""
    future = check_threads.call(partial(contextvars.copy_context().run, function))
    done, _ = wait([future], timeout_s)
    if not done:
        raise _check_timeout(timeout_s)
    return future.result()


def _check_timeout(timeout_s: float) -> LoadError:
    return LoadError(f"check() did not finish within {timeout_s:g} s (HAYHOOKS_CHECK_TIMEOUT)")
