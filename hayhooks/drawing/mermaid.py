"""Mermaid: a flowchart as text."""

from collections.abc import Iterator

from hayhooks.drawing.graph import Graph

_MAX_LABEL = 200  # characters

_PLAIN = frozenset(" .,:_-+/()[]→")


def mermaid(graphs: list[Graph]) -> str:
    """Draw *graphs* as one flowchart; each of several is in a frame with its name."""
    lines = []
    for index, graph in enumerate(graphs):
        body = list(_statements(f"p{index}", graph))
        if len(graphs) > 1:
            body = [f"subgraph p{index}[{_label(graph.name)}]", *(f"  {line}" for line in body), "end"]
        lines += body
    return "\n".join(["flowchart TD", *(f"  {line}" for line in lines), ""])


def _statements(prefix: str, graph: Graph) -> Iterator[str]:
    """Yield the statements of *graph* without indentation; all ids begin with *prefix*."""
    for index, node in enumerate(graph.nodes):
        yield f"{prefix}_{index}[{_label(node.name, node.type)}]"
        if node.model is not None:
            yield f"{prefix}_{index} --- {prefix}_{index}_llm([{_label(node.model)}])"
        for tool_index, tool in enumerate(node.tools):
            yield f"{prefix}_{index} --- {prefix}_{index}_t{tool_index}[/{_label(tool)}/]"
    if graph.edges:
        yield f"{prefix}_in([{_label('input')}])"
        yield f"{prefix}_out([{_label('output')}])"
    for sender, receiver, sockets, is_mandatory in graph.edges:
        start = f"{prefix}_in" if sender is None else f"{prefix}_{sender}"
        end = f"{prefix}_out" if receiver is None else f"{prefix}_{receiver}"
        label = _label(*(f"{socket.name}: {socket.type}" for socket in sockets))
        yield f"{start} {'-->' if is_mandatory else '-.->'}|{label}| {end}"


def _label(*lines: str) -> str:
    """Quote *lines* so that no character has a meaning in Mermaid or HTML."""
    quoted = []
    for line in lines:
        text = line if len(line) <= _MAX_LABEL else line[: _MAX_LABEL - 3] + "..."
        quoted.append(
            "".join(c if c.isalnum() or c in _PLAIN else f"#{ord(c)};" if c.isprintable() else " " for c in text)
        )
    return '"' + "<br/>".join(quoted) + '"'
