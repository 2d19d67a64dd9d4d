"""Observe what the components of a pipeline return while it runs, or what the tools of an Agent do."""

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from hayhooks.toolkit.channel import settled

if TYPE_CHECKING:
    from haystack import Pipeline
    from haystack.tools import Toolset
    from haystack.tools.tool import Tool

    Report = Callable[["ComponentEnd"], Any]


class ComponentEnd(NamedTuple):
    """A component of a pipeline, or a tool of an Agent, has returned *outputs*."""

    name: str
    outputs: Any  # not a copy: later components get them too


def observed_pipeline(pipeline: "Pipeline", names: Collection[str], report: "Report") -> "Pipeline":
    """Return *pipeline* as an object that reports the end of each component in *names*, before the next one runs.

    Both objects share all state. *report* may return an awaitable, which ``run_async`` awaits.
    """
    plain = type(pipeline)

    def run_component(component_name: str, *args: Any, **kwargs: Any) -> Any:
        outputs = plain._run_component(component_name, *args, **kwargs)
        if component_name in names:
            report(ComponentEnd(component_name, outputs))
        return outputs

    async def run_component_async(component_name: str, *args: Any, **kwargs: Any) -> Any:
        outputs = await plain._run_component_async(component_name, *args, **kwargs)
        if component_name in names:
            await settled(report(ComponentEnd(component_name, outputs)))
        return outputs

    methods = {"_run_component": run_component, "_run_component_async": run_component_async}
    view: Pipeline = _view(pipeline, **{name: staticmethod(method) for name, method in methods.items()})
    return view


def observed_tools(
    tools: "list[Tool | Toolset] | Toolset", names: Collection[str], report: "Report"
) -> "list[Tool | Toolset]":
    """Return *tools*, as objects that report what those in *names* return; a call that raises is not reported."""
    from haystack.tools import Toolset  # noqa: PLC0415 - Haystack takes a second to import, the command line imports us

    def observed(tool: Any) -> Any:
        if isinstance(tool, Toolset):
            return _view(
                tool,
                __iter__=lambda _self: map(observed, iter(tool)),
                spawn=lambda _self, *args, **kwargs: observed(tool.spawn(*args, **kwargs)),
            )
        if tool.name not in names:
            return tool

        def invoke(_self: Any, **arguments: Any) -> Any:
            outputs = tool.invoke(**arguments)
            report(ComponentEnd(tool.name, outputs))
            return outputs

        async def invoke_async(_self: Any, **arguments: Any) -> Any:
            outputs = await tool.invoke_async(**arguments)
            await settled(report(ComponentEnd(tool.name, outputs)))
            return outputs

        return _view(tool, invoke=invoke, invoke_async=invoke_async)

    return [observed(tool) for tool in ([tools] if isinstance(tools, Toolset) else tools)]


def flat_tools(tools: "list[Tool | Toolset] | Toolset") -> "Iterator[Tool]":
    """Yield every one of *tools* that an Agent may call."""
    from haystack.tools import Toolset  # noqa: PLC0415 - as above

    for tool in [tools] if isinstance(tools, Toolset) else tools:
        yield from tool.get_selectable_tools() if isinstance(tool, Toolset) else (tool,)


def _view(whole: Any, **methods: Any) -> Any:
    """Return *whole* under a class with other *methods*: both objects share their attributes."""
    plain = type(whole)
    named = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    view: Any = object.__new__(type(plain.__name__, (plain,), {**named, **methods}))
    view.__dict__ = whole.__dict__
    return view
