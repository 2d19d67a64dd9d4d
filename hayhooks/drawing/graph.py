"""Graph: what a drawing shows of a pipeline or agent. Nothing is imported from Haystack."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Self

from hayhooks.kernel.haystack_hooks import pipelines

_DEEPEST = 3  # pipelines inside of each other; one may contain itself


class Socket(NamedTuple):
    """A value that an edge carries; *name* is ``prompt → messages`` where the two ends differ."""

    name: str
    type: str

    @classmethod
    def of(cls, name: str, type_: Any) -> Self:
        """Describe *type_* as briefly as one writes it."""
        text = type_.__name__ if isinstance(type_, type) and not hasattr(type_, "__args__") else str(type_)
        return cls(name, re.sub(r"(?:\w+\.)+(?=\w)", "", text).replace("NoneType", "None"))


class Edge(NamedTuple):
    """From node to node, by index; None is the pipeline's input or output."""

    sender: int | None
    receiver: int | None
    sockets: list[Socket]
    is_mandatory: bool


class Node(NamedTuple):
    """A component, or an agent that is none and has its attribute's name."""

    name: str
    type: str
    model: str | None  # the class of an agent's generator; None: it is no agent
    tools: list[str]
    inner: "Graph | None"  # of a component that is a pipeline itself


class Graph(NamedTuple):
    """A pipeline, or the one node of an agent; *name* is its attribute's."""

    name: str
    nodes: list[Node]
    edges: list[Edge]


def graphs(wrapper: Any) -> list[Graph]:
    """Read the pipelines and agents of *wrapper* that are not empty, each once, by its first name."""
    ids = {id(pipeline) for pipeline in pipelines(wrapper)}
    by_id = {id(value): (name, value) for name, value in reversed(vars(wrapper).items()) if id(value) in ids}
    read = [_graph(name, value, _DEEPEST) for name, value in reversed(by_id.values())]
    return [graph for graph in read if graph.nodes]


def _graph(name: str, pipeline: Any, depth: int) -> Graph:
    if not hasattr(pipeline, "graph"):
        return Graph(name, [_node(name, pipeline, 0)], [])
    components = dict(pipeline.walk())
    indices = {component: index for index, component in enumerate(components)}
    nodes = [_node(component, value, depth - 1) for component, value in components.items()]
    return Graph(name, nodes, list(_edges(pipeline, indices)))


def _node(name: str, component: Any, depth: int) -> Node:
    generator = getattr(component, "chat_generator", None)
    is_agent = generator is not None and hasattr(component, "tools")
    inner = getattr(component, "pipeline", None)
    return Node(
        name,
        type(component).__name__,
        type(generator).__name__ if is_agent else None,
        list(_tools(component.tools)) if is_agent else [],
        _graph(name, inner, depth) if depth > 0 and hasattr(inner, "graph") else None,
    )


def _edges(pipeline: Any, indices: dict[str, int]) -> Iterator[Edge]:
    # Only mandatory inputs are drawn; of a component that has none and that no other feeds, the optional ones.
    fed = {receiver for _, receiver in pipeline.graph.edges()}
    for name, sockets in pipeline.inputs().items():
        needed = {socket: data for socket, data in sockets.items() if data["is_mandatory"]}
        if needed or name not in fed:
            shown = [Socket.of(socket, data["type"]) for socket, data in (needed or sockets).items()]
            yield Edge(None, indices[name], shown, bool(needed))
    for sender, receiver, data in pipeline.graph.edges(data=True):
        names = dict.fromkeys([data["from_socket"].name, data["to_socket"].name])
        socket = Socket(" → ".join(names), str(data["conn_type"]))
        yield Edge(indices[sender], indices[receiver], [socket], data["mandatory"])
    for name, sockets in pipeline.outputs().items():
        yield Edge(indices[name], None, [Socket.of(socket, data["type"]) for socket, data in sockets.items()], True)


def _tools(tools: Any) -> Iterator[str]:
    """Yield the names of an agent's tools; *tools* may be a list of toolsets."""
    for tool in tools if isinstance(tools, Iterable) else ():
        if hasattr(tool, "name"):
            yield str(tool.name)
        else:
            yield from _tools(tool)
