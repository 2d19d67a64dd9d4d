"""The target of a stream: a pipeline or an Agent, its run arguments, and its streaming components."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, TypeVar

from hayhooks.errors import StreamCall
from hayhooks.toolkit.observe import flat_tools, observed_pipeline, observed_tools

if TYPE_CHECKING:
    from haystack import Pipeline
    from haystack.components.agents import Agent

    from hayhooks.toolkit.observe import Report

    StreamingCallback = Callable[[Any], Any]
    MakeCallback = Callable[[Any, StreamingCallback | None], StreamingCallback]

T = TypeVar("T")

_VARIABLE = "HAYHOOKS_STREAMING_COMPONENTS"


@dataclass(frozen=True, slots=True)
class StreamTarget:
    """A pipeline or Agent with checked arguments and components; ``stream_target`` makes it."""

    pipeline: "Pipeline | Agent"
    run_args: Mapping[str, Any]
    include_outputs_from: set[str] | None
    components: Mapping[str, Any]  # the streaming ones by name; an Agent's only component is itself
    called_at: tuple[str, int]  # the file and line of the user's code that asks for the stream

    def arguments(self, make_callback: "MakeCallback") -> dict[str, Any]:
        """Return the keyword arguments for ``run`` or ``run_async`` with callbacks; ``run_args`` is not changed.

        Args:
            make_callback: called with a component and its callback in the run arguments, or ``None``.
        """
        pipeline = self.pipeline
        if not _is_pipeline(pipeline):
            callback = make_callback(pipeline, self.run_args.get("streaming_callback"))
            return {**self.run_args, "streaming_callback": callback}
        # The data may be nested by component or flat. Only Haystack knows; Pipeline.stream asks it here too. It changes
        # the dict, hence the copy.
        data = self.located(lambda: pipeline._prepare_component_input_data(dict(self.run_args)))
        for name, component in self.components.items():
            inputs = data.setdefault(name, {})
            inputs["streaming_callback"] = make_callback(component, inputs.get("streaming_callback"))
        return {"data": data, "include_outputs_from": self.include_outputs_from}

    def located(self, call: "Callable[[], T]") -> "T":
        """Return the result of *call*; an error notes where the user has asked for the stream."""
        try:
            return call()
        except BaseException as error:
            with suppress(Exception):  # the class is the user's
                error.__hayhooks_call__ = StreamCall(*self.called_at, tuple(self.run_args))  # type: ignore[attr-defined]
            raise

    def require_observable(self, callbacks: Any) -> None:
        """Check the *callbacks* at the end of components of a pipeline, or of tools of an Agent.

        Raises:
            ValueError: there is no such component or tool, or a callback is no function.
        """
        if not (isinstance(callbacks, Mapping) and all(map(callable, callbacks.values()))):
            example = "{'retriever': on_retrieved}"
            raise ValueError(f"on_component_end must map names to functions, such as {example}, not {callbacks!r}.")
        if _is_pipeline(self.pipeline):
            kind, known = "component", list(self.pipeline.graph.nodes)
        else:
            kind, known = "tool", [tool.name for tool in flat_tools(self._tools())]
        if unknown := [name for name in callbacks if name not in known]:
            raise ValueError(f"on_component_end: no {kind} is named {unknown}; there are {known}.")

    def observed(self, callbacks: Mapping[str, Any], report: "Report") -> "StreamTarget":
        """Return the target with components, or tools, that *report* their end where there is a callback for it."""
        if not callbacks:
            return self
        if _is_pipeline(self.pipeline):
            return replace(self, pipeline=observed_pipeline(self.pipeline, callbacks, report))
        return replace(self, run_args={**self.run_args, "tools": observed_tools(self._tools(), callbacks, report)})

    def _tools(self) -> Any:
        """Return the tools of the Agent's run, which may name some of its own."""
        own: Any = getattr(self.pipeline, "tools", None)
        given = self.run_args.get("tools")
        if isinstance(given, list) and given and all(isinstance(tool, str) for tool in given):
            return [tool for tool in flat_tools(own) if tool.name in given]
        tools = own if given is None else given
        return [] if tools is None else tools

    def require_async(self) -> None:
        """Check that no component would have to run in a thread.

        Raises:
            ValueError: one would; the message names it and the choices.
        """
        for name, component in self.components.items():
            if (part := _part_without_run_async(component)) is not None:
                raise ValueError(
                    f"Component '{name}' cannot stream to async_streaming_generator: {type(part).__name__} has no "
                    "run_async. Pass allow_sync_streaming_callbacks=True to let it run in a thread, use "
                    "streaming_generator, or take a component that has run_async."
                )


def stream_target(
    pipeline: "Pipeline | Agent",
    run_args: Mapping[str, Any] | None,
    include_outputs_from: set[str] | None,
    wanted: "Sequence[str] | Literal['all'] | None",
) -> StreamTarget:
    """Choose the streaming components of *pipeline*, for the caller of the function that calls this.

    Args:
        pipeline: a pipeline, an Agent, or any component that streams by itself.
        run_args: a pipeline's ``data``, or a component's arguments.
        include_outputs_from: as for ``Pipeline.run``; only for pipelines.
        wanted: names or "all"; ``None`` means what HAYHOOKS_STREAMING_COMPONENTS says, which is "all", names
            separated by commas, or a JSON list. The variable holds for all pipelines, so names that this one does not
            have are skipped. If none is left, the last streaming component in ``walk`` order is used.

    Raises:
        ValueError: nothing in it can stream, or *wanted* names something that does not stream.
    """
    parts = pipeline.walk() if _is_pipeline(pipeline) else [(type(pipeline).__name__, pipeline)]
    capable = {name: component for name, component in parts if can_stream(component)}
    if not capable:
        raise ValueError(
            f"No streaming component in this {type(pipeline).__name__}: none has a run parameter streaming_callback."
        )
    if not _is_pipeline(pipeline):
        wanted = "all"
    names = _from_environment(capable) if wanted is None else list(capable) if wanted == "all" else list(wanted)
    if unknown := [name for name in names if name not in capable]:
        raise ValueError(f"No streaming component is named {unknown}; there are {list(capable)}.")
    caller = sys._getframe(2)
    components, called_at = {name: capable[name] for name in names}, (caller.f_code.co_filename, caller.f_lineno)
    return StreamTarget(pipeline, run_args or {}, include_outputs_from, components, called_at)


def is_sync_only(component: Any) -> bool:
    """Whether *component*, or the generator inside an Agent, runs in a thread when Haystack runs a pipeline async."""
    return _part_without_run_async(component) is not None


def user_callback(component: Any, at_run: "StreamingCallback | None", *, is_async: bool) -> "StreamingCallback | None":
    """Return the user's streaming callback, *at_run* or the component's, as Haystack chooses.

    Raises:
        ValueError: it is a coroutine function and cannot be awaited here.
    """
    # Haystack takes a second to import, and the command line imports this module.
    from haystack.dataclasses.streaming_chunk import select_streaming_callback  # noqa: PLC0415

    at_init = getattr(component, "streaming_callback", None)
    chosen: StreamingCallback | None
    chosen = select_streaming_callback(at_init, at_run, requires_async=is_async)  # type: ignore[call-overload]
    return chosen


def _from_environment(capable: Mapping[str, Any]) -> list[str]:
    value = os.environ.get(_VARIABLE, "").strip()
    if value.lower() == "all":
        return list(capable)
    names = json.loads(value) if value.startswith("[") else [name.strip() for name in value.split(",")]
    return [name for name in names if name in capable] or [list(capable)[-1]]


def _part_without_run_async(component: Any) -> Any | None:
    parts = (component, getattr(component, "chat_generator", component))
    return next((part for part in parts if not hasattr(part, "run_async")), None)


def can_stream(component: Any) -> bool:
    """Whether *component* has a streaming callback."""
    run = getattr(component, "run", None)
    return run is not None and "streaming_callback" in inspect.signature(run).parameters


def _is_pipeline(value: Any) -> "TypeGuard[Pipeline]":
    # Haystack takes a second to import, and the command line imports this module.
    from haystack import Pipeline  # noqa: PLC0415

    return isinstance(value, Pipeline)
