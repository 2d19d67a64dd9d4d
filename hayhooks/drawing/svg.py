"""SVG: boxes and lines without styles or scripts, in the colours of the page that it stands in.

A component's group has ``data-component``, a tool's ``data-tool``. Colours are the variables ``--surface``,
``--text`` and ``--mono``; in a document of its own they are the system's.
"""

import re
import unicodedata
from typing import NamedTuple
from xml.etree import ElementTree as ET

from hayhooks.drawing.graph import Edge, Graph, Node, Socket
from hayhooks.drawing.layout import Layout, Link, arrange

_MOST_PARTS = 3_000  # components, tools and edges of one drawing
_MOST_TOOLS = 30  # of an agent that are shown
_MOST_SOCKETS = 4  # of an edge that its label shows
_LONGEST_NAME, _LONGEST_SOCKET = 40, 34  # characters that are shown; a tooltip has up to
_LONGEST_TOOLTIP = 500
_ONE_LINE = 18  # characters; a longer socket's type stands in a line of its own
_TITLE, _TYPE, _LABEL = 14, 12, 11  # font sizes, pixels
_LINE = 1.35  # of the font size
_ADVANCE = 0.61  # the width of a monospaced character, of the font size
_MARGIN, _PADDING = 16.0, 12.0
_UNFIT_FOR_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def svg(name: str, graphs: list[Graph]) -> bytes:
    """Draw *graphs* of the deployment *name*; each of several is in a frame with its name.

    :raises ValueError: there is too much to draw.
    """
    if (parts := sum(map(_count, graphs))) > _MOST_PARTS:
        raise ValueError(f"it has {parts} components, tools and connections, more than {_MOST_PARTS}")
    content = _flow(graphs[0]) if len(graphs) == 1 else _Stack(list(map(_framed, graphs)))
    width, height = content.width + 2 * _MARGIN, content.height + 2 * _MARGIN
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": _number(width),
            "height": _number(height),
            "viewBox": f"0 0 {_number(width)} {_number(height)}",
            "font-family": "var(--mono, ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace)",
            "color": "var(--text, CanvasText)",
            "fill": "currentColor",
            "text-anchor": "middle",
            "aria-label": _clean(f"Drawing of {name}"),
        },
    )
    ET.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "var(--surface, Canvas)"})
    content.draw(root, width / 2, _MARGIN)
    drawn: bytes = ET.tostring(root, encoding="utf-8")
    return drawn


class _Leaf:
    def __init__(self, title: str, type_: str, data: dict[str, str], corner: float = 5.0) -> None:
        texts = ((title, _TITLE), (type_, _TYPE))
        self._lines = [(_cut(text, _LONGEST_NAME), size) for text, size in texts if text]
        self._tooltip = ": ".join(filter(None, (title, type_)))
        self._data = data
        self._corner = corner
        self.width = _widest(self._lines) + 2 * _PADDING
        self.height = sum(size * _LINE for _, size in self._lines) + 1.4 * _PADDING

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        group = _group(parent, self._data, self._tooltip)
        _rectangle(group, x, y, self.width, self.height, self._corner)
        _write(group, x, y + 0.7 * _PADDING, self._lines)


class _Frame:
    def __init__(self, title: str, type_: str, data: dict[str, str], content: "_Flow | _Stack") -> None:
        self._head = _Leaf(title, type_, {})
        self._content = content
        self._data = data
        self.width: float = max(self._head.width, content.width + 2 * _PADDING)
        self.height: float = self._head.height + content.height + _PADDING

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        group = _group(parent, self._data, self._head._tooltip)
        _rectangle(group, x, y, self.width, self.height, 8.0)
        _write(group, x, y + 0.7 * _PADDING, self._head._lines)
        self._content.draw(parent, x, y + self._head.height)


class _Stack:
    def __init__(self, boxes: "list[_Leaf | _Frame]") -> None:
        self._boxes = boxes
        self.width: float = max(box.width for box in boxes)
        self.height: float = sum(box.height + _PADDING for box in boxes) - _PADDING

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        for box in self._boxes:
            box.draw(parent, x, y)
            y += box.height + _PADDING


class _Line(NamedTuple):
    """A line between two boxes, by index, and the lines of its label."""

    sender: int
    receiver: int
    sockets: list[Socket]
    is_mandatory: bool

    def label(self) -> list[tuple[str, int]]:
        lines: list[str] = []
        for name, type_ in self.sockets[:_MOST_SOCKETS]:
            is_short = len(name) + len(type_) <= _ONE_LINE
            lines += [f"{name}: {type_}"] if type_ and is_short else filter(None, (name, type_))
        if (more := len(self.sockets) - _MOST_SOCKETS) > 0:
            lines.append(f"and {more} more")
        return [(_cut(line, _LONGEST_SOCKET), _LABEL) for line in lines]


class _Flow:
    """Boxes in layers, with lines between them."""

    def __init__(self, boxes: list[_Leaf | _Frame], lines: list[_Line]) -> None:
        self._boxes = boxes
        self._lines = lines
        self._labels = [line.label() for line in lines]
        links = [
            Link(line.sender, line.receiver, _widest(label), _LINE * _LABEL * len(label))
            for line, label in zip(lines, self._labels, strict=True)
        ]
        self._layout: Layout = arrange([(box.width, box.height) for box in boxes], links)
        self.width, self.height = self._layout.width, self._layout.height

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        left = x - self.width / 2
        for line, points in zip(self._lines, self._layout.lines, strict=True):
            path, arrow = _path([(left + px, y + py) for px, py in points])
            dashes = {} if line.is_mandatory else {"stroke-dasharray": "5 4"}
            ET.SubElement(
                parent, "path", {"d": path, "fill": "none", "stroke": "currentColor", "stroke-opacity": "0.5", **dashes}
            )
            ET.SubElement(parent, "path", {"d": arrow, "fill-opacity": "0.7"})
        for line, label, (px, py) in zip(self._lines, self._labels, self._layout.labels, strict=True):
            group = _group(parent, {}, "\n".join(f"{socket.name}: {socket.type}" for socket in line.sockets))
            width, height = _widest(label), _LINE * _LABEL * len(label)
            _rectangle(group, left + px, y + py, width, height, stroke="none")
            _write(group, left + px, y + py, label)
        for box, (px, py) in zip(self._boxes, self._layout.boxes, strict=True):
            box.draw(parent, left + px, y + py)


def _count(graph: Graph) -> int:
    inner = sum(1 + len(node.tools) + (_count(node.inner) if node.inner else 0) for node in graph.nodes)
    return inner + len(graph.edges)


def _framed(graph: Graph) -> _Leaf | _Frame:
    [first, *others] = graph.nodes
    is_agent_alone = not others and first.name == graph.name and first.model is not None
    return _box(first) if is_agent_alone else _Frame(graph.name, "", {}, _flow(graph))


def _flow(graph: Graph) -> _Flow:
    boxes = [_box(node) for node in graph.nodes]
    ends = {}
    for end, title in ((0, "input"), (1, "output")):
        if any(edge[end] is None for edge in graph.edges):
            ends[title] = len(boxes)
            boxes.append(_Leaf(title, "", {}, corner=16.0))
    lines: dict[tuple[int, int], list[Edge]] = {}
    for edge in graph.edges:
        sender = ends["input"] if edge.sender is None else edge.sender
        receiver = ends["output"] if edge.receiver is None else edge.receiver
        if sender != receiver:
            lines.setdefault((sender, receiver), []).append(edge)
    return _Flow(
        boxes,
        [
            _Line(*between, [socket for edge in edges for socket in edge.sockets], any(e.is_mandatory for e in edges))
            for between, edges in lines.items()
        ],
    )


def _box(node: Node) -> _Leaf | _Frame:
    head = node.name, node.type, {"data-component": node.name}
    if node.inner is not None and node.inner.nodes:
        return _Frame(*head, _flow(node.inner))
    if node.model is None:
        return _Leaf(*head)
    model = _Leaf(node.model, "", {"data-component": "llm"})  # as the spans of an agent's steps name it
    if not node.tools:
        return _Frame(*head, _Flow([model], []))
    tools: list[_Leaf | _Frame] = [_Leaf(tool, "", {"data-tool": tool}) for tool in node.tools[:_MOST_TOOLS]]
    if (more := len(node.tools) - _MOST_TOOLS) > 0:
        tools.append(_Leaf("", f"and {more} more", {}))
    loop = [_Line(0, 1, [Socket("tool calls", "")], True), _Line(1, 0, [Socket("results", "")], True)]
    return _Frame(*head, _Flow([model, _Frame("tools", "", {}, _Stack(tools))], loop))


# ------------------------------------------------------------------------------------------------ elements


def _group(parent: ET.Element, data: dict[str, str], tooltip: str) -> ET.Element:
    group = ET.SubElement(parent, "g", {key: _clean(value) for key, value in data.items()})
    ET.SubElement(group, "title").text = _cut(tooltip, _LONGEST_TOOLTIP)
    return group


def _rectangle(
    parent: ET.Element, x: float, y: float, width: float, height: float, corner: float = 0, stroke: str = "currentColor"
) -> None:
    box = {"x": x - width / 2, "y": y, "width": width, "height": height, "rx": corner, "stroke-opacity": 0.6}
    colours = {"fill": "var(--surface, Canvas)", "stroke": stroke}
    ET.SubElement(parent, "rect", {key: _number(value) for key, value in box.items()} | colours)


def _write(parent: ET.Element, x: float, y: float, lines: list[tuple[str, int]]) -> None:
    """Write *lines* of text and font size below each other, centred at *x*."""
    for text, size in lines:
        y += size * _LINE
        weight = {"font-weight": "600"} if size == _TITLE else {"fill-opacity": "0.8"}
        position = {"x": _number(x), "y": _number(y - size * 0.3), "font-size": str(size)}
        ET.SubElement(parent, "text", position | weight).text = text


def _path(points: list[tuple[float, float]]) -> tuple[str, str]:
    """Return the path through *points*, which leaves each vertically, and that of the arrow's head at its end."""
    (x, y), *others = points
    path = [f"M{_number(x)} {_number(y)}"]
    for next_x, next_y in others:
        middle = _number((y + next_y) / 2)
        path.append(f"C{_number(x)} {middle} {_number(next_x)} {middle} {_number(next_x)} {_number(next_y)}")
        x, y = next_x, next_y
    back = -8 if y >= points[-2][1] else 8
    return "".join(path), f"M{_number(x)} {_number(y)}l-4 {back}h8z"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _widest(lines: list[tuple[str, int]]) -> float:
    cells = [
        size * sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text) for text, size in lines
    ]
    return max(cells, default=0) * _ADVANCE


def _cut(text: str, most: int) -> str:
    return _clean(text if len(text) <= most else text[: most - 1] + "…")


def _clean(text: str) -> str:
    """Replace the control characters that XML cannot hold."""
    return _UNFIT_FOR_XML.sub("\N{REPLACEMENT CHARACTER}", text)
