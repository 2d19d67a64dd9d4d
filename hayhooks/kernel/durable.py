"""Durable methods: ``run_durable`` of a wrapper, its types and its options, checked when it is loaded."""

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeGuard, cast

from pydantic import BaseModel, TypeAdapter

from hayhooks.errors import LoadError, shortened
from hayhooks.kernel.admission import is_number
from hayhooks.kernel.annotations import evaluated_annotations
from hayhooks.kernel.haystack_hooks import pipelines
from hayhooks.kernel.operations import DurableMethod, require_receiver
from hayhooks.kernel.validation import Validator
from hayhooks.wrapper import DURABLE_METHODS, BasePipelineWrapper

MISSING = 'run_durable() needs an extra: pip install "hayhooks[durable]"'


def durable_method(wrapper: BasePipelineWrapper) -> DurableMethod | None:
    """Describe the durable method of *wrapper*, None without one; LoadError if it, or an option of it, is of no use."""
    implemented = {
        name: method
        for name in DURABLE_METHODS
        if getattr(method := getattr(wrapper, name), "__func__", None) is not getattr(BasePipelineWrapper, name)
    }
    if not implemented:
        return None
    if len(implemented) > 1:
        raise LoadError("the wrapper has run_durable() and run_durable_async(): an execution runs one of them")
    (name, method), *_ = implemented.items()
    if importlib.util.find_spec("dbos") is None:
        raise LoadError(MISSING)
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise LoadError(
            f"{name}() yields: it must return its result; context.stream_chunk() sends what it has until then"
        )
    is_async = inspect.iscoroutinefunction(method)
    if is_async != (name == "run_durable_async"):
        keyword = "def" if is_async else "async def"
        raise LoadError(f"{name}() is `{'async def' if is_async else 'def'}`: it must be `{keyword}`")
    try:
        require_receiver(method)
        request, result = _models(name, method)
    except TypeError as error:
        raise LoadError(str(error)) from error
    resume_model = wrapper.durable_resume_model
    if resume_model is not None and not _is_model(resume_model):
        raise LoadError(f"durable_resume_model is {shortened(repr(resume_model))}: it must be a pydantic model or None")
    _check_memo(wrapper)
    return DurableMethod(
        name=name,
        method=method,
        on_loop=is_async,
        kind=_kind(wrapper),
        revision=_revision(wrapper),
        request=Validator(cast(Any, TypeAdapter(request))),
        request_model=request,
        resume=Validator(cast(Any, TypeAdapter(resume_model))) if resume_model is not None else None,
        resume_model=resume_model,
        result=TypeAdapter(result) if result is not None else None,
        concurrency=_number(wrapper, "durable_concurrency", int, 1, "a number of executions"),
        timeout_s=_number(wrapper, "durable_timeout", float, 0, "seconds, or 0 for no limit"),
    )


def _models(name: str, method: Callable[..., Any]) -> tuple[type[BaseModel], type[BaseModel] | None]:
    """Return the model of the request, and that of the result, None if it is of another type; TypeError."""
    parameters = list(inspect.signature(method).parameters.values())
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if len(parameters) != 2 or len(positional) != 2:
        right = f"{name}(self, context: DurableContext, request: MyModel)"
        raise TypeError(f"{name}() must have two parameters, a DurableContext and a pydantic model: {right}")
    hints = evaluated_annotations(method, strict=True)
    request = hints.get(positional[1].name)
    if not _is_model(request):
        found = "nothing" if request is None else shortened(repr(request))
        raise TypeError(f"{name}(): {positional[1].name!r} is annotated with {found}: it must be a pydantic model")
    result = hints.get("return")
    return request, result if _is_model(result) else None


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind(wrapper: BasePipelineWrapper) -> Literal["pipeline", "agent"]:
    from haystack import Pipeline  # noqa: PLC0415 - the wrapper has imported it
    from haystack.components.agents import Agent  # noqa: PLC0415 - as above

    if isinstance(wrapper.pipeline, Pipeline):
        return "pipeline"
    if isinstance(wrapper.pipeline, Agent):
        return "agent"
    found = f"self.pipeline is {shortened(repr(wrapper.pipeline))} after setup()"
    raise LoadError(f"{found}: a wrapper with run_durable() needs a Pipeline or an Agent there")


def owner_method(wrapper: BasePipelineWrapper) -> Callable[..., Any] | None:
    """Return ``durable_owner_id`` if *wrapper* has it; LoadError if it takes other arguments than a request."""
    method = wrapper.durable_owner_id
    if getattr(method, "__func__", None) is BasePipelineWrapper.durable_owner_id:
        return None
    try:
        inspect.signature(method).bind(None)
    except TypeError as error:
        right = "durable_owner_id(self, request)"
        raise LoadError(
            f"durable_owner_id() must take Starlette's request, and nothing else: {right}: {error}"
        ) from None
    return method


def _revision(wrapper: BasePipelineWrapper) -> str:
    revision: Any = wrapper.durable_revision
    if revision is None:
        return ""
    if not isinstance(revision, str) or not revision.strip():
        raise LoadError(f"durable_revision is {shortened(repr(revision))}: it must be a text, not empty, or None")
    return revision


def _check_memo(wrapper: BasePipelineWrapper) -> None:
    memo: Any = wrapper.durable_memo
    if isinstance(memo, bool):
        return
    graphs = [pipeline.graph for pipeline in pipelines(wrapper) if hasattr(pipeline, "graph")]
    names = [name for graph in graphs for name in graph.nodes]
    if not isinstance(memo, list | tuple | set | frozenset) or any(name not in names for name in memo):
        accepted = f"True, False or names of components, of {', '.join(names) or 'which there are none'}"
        raise LoadError(f"durable_memo is {shortened(repr(memo))}: it must be {accepted}")


def _number(wrapper: BasePipelineWrapper, name: str, kind: type, least: int, accepted: str) -> Any:
    value = getattr(wrapper, name)
    if value is None:
        return None
    if not is_number(value, kind, least):
        setting = f"HAYHOOKS_{name.upper()}"
        raise LoadError(f"{name} is {shortened(repr(value))}: it must be {accepted}, or None to use {setting}")
    return value
