"""Layout: where boxes and the lines between them stand, in layers from top to bottom.

The longest path to a box is its layer. Between two layers is a row for the labels of lines; a line over several layers
has a place in each row that it crosses, so that it runs past the boxes.
"""

from itertools import accumulate, pairwise
from typing import NamedTuple

import networkx as nx

_GAP = 26.0  # between boxes of a row, pixels
_ROW_GAP = 20.0
_SWEEPS = 12  # over all rows, to order and to place them; more change nothing that one sees
_MOST_PLACES = 4_000  # beyond, lines run straight


class Link(NamedTuple):
    """A line from box to box, by index, with the size of its label."""

    sender: int
    receiver: int
    width: float
    height: float


class Layout(NamedTuple):
    """Centres and tops of boxes; points of lines, x and y; centres and tops of labels; the size of all."""

    boxes: list[tuple[float, float]]
    lines: list[list[tuple[float, float]]]
    labels: list[tuple[float, float]]
    width: float
    height: float


class _Places:
    """Boxes, labels and crossings: each with its row, size and neighbours in the rows above and below."""

    def __init__(self, sizes: list[tuple[float, float]]) -> None:
        self.sizes = list(sizes)
        self.rows: list[list[int]] = []
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]

    def put(self, row: int, place: int) -> None:
        self.rows += [[] for _ in range(row + 1 - len(self.rows))]
        self.rows[row].append(place)

    def add(self, row: int, size: tuple[float, float]) -> int:
        self.sizes.append(size)
        self.above.append([])
        self.below.append([])
        self.put(row, len(self.sizes) - 1)
        return len(self.sizes) - 1


def arrange(sizes: list[tuple[float, float]], links: list[Link]) -> Layout:
    """Place boxes of *sizes* (width, height) and *links* between different ones."""
    layers = _layers(len(sizes), links)
    places = _Places(sizes)
    for box, layer in enumerate(layers):
        places.put(2 * layer, box)
    chains, labels = _chains(places, layers, links)
    _order(places)
    xs = _columns(places)
    tops = [
        0.0,
        *accumulate(max((places.sizes[place][1] for place in row), default=0) + _ROW_GAP for row in places.rows),
    ]
    row_of = {place: index for index, row in enumerate(places.rows) for place in row}
    left = min(x - width / 2 for x, (width, _) in zip(xs, places.sizes, strict=True))
    right = max(x + width / 2 for x, (width, _) in zip(xs, places.sizes, strict=True))
    xs = [x - left for x in xs]
    heights = [end - start - _ROW_GAP for start, end in pairwise(tops)]

    def top(place: int) -> float:
        return tops[row_of[place]] + (heights[row_of[place]] - places.sizes[place][1]) / 2

    ports = _ports(places, xs, chains)
    lines = []
    for chain in chains:
        start, *inner, end = chain
        points = [(ports[start, inner[0]], top(start) + places.sizes[start][1])]
        for place in inner:
            row = row_of[place]
            points += [(xs[place], tops[row]), (xs[place], tops[row] + heights[row])]
        points.append((ports[end, inner[-1]], top(end)))
        lines.append(points)
    upwards = [layers[link.sender] > layers[link.receiver] for link in links]
    return Layout(
        [(xs[box], top(box)) for box in range(len(sizes))],
        [points[::-1] if is_upward else points for points, is_upward in zip(lines, upwards, strict=True)],
        [(xs[label], top(label)) for label in labels],
        right - left,
        tops[-1] - _ROW_GAP,
    )


def _layers(count: int, links: list[Link]) -> list[int]:
    """Return the layer of each box; links that close a cycle do not count."""
    graph = nx.DiGraph()
    fed = {link.receiver for link in links}
    graph.add_nodes_from(sorted(range(count), key=fed.__contains__))  # a walk begins where nothing leads to
    graph.add_edges_from((link.sender, link.receiver) for link in links)
    finished = {box: index for index, box in enumerate(nx.dfs_postorder_nodes(graph))}
    graph.remove_edges_from([(start, end) for start, end in graph.edges if finished[start] < finished[end]])
    layers = [0] * count
    for layer, boxes in enumerate(nx.topological_generations(graph)):
        for box in boxes:
            layers[box] = layer
    return layers


def _chains(places: _Places, layers: list[int], links: list[Link]) -> tuple[list[list[int]], list[int]]:
    """Add a place for each label and crossing; return each link's places from top to bottom, and each label's."""
    degrees = [0] * len(layers)
    for link in links:
        degrees[link.sender] += 1
        degrees[link.receiver] += 1
    spans = [sorted((link.sender, link.receiver), key=layers.__getitem__) for link in links]
    is_small = sum(2 * (layers[end] - layers[start]) for start, end in spans) <= _MOST_PLACES
    chains, labels = [], []
    for link, (start, end) in zip(links, spans, strict=True):
        first, last = 2 * layers[start] + 1, 2 * layers[end] - 1
        at = first if degrees[start] <= degrees[end] else last  # where fewer labels stand beside it
        crossed = range(first, last + 1) if is_small else [at]
        inner = [places.add(row, (link.width, link.height) if row == at else (0.0, 0.0)) for row in crossed]
        labels.append(next(place for place, row in zip(inner, crossed, strict=True) if row == at))
        chains.append([start, *inner, end])
        for above, below in pairwise(chains[-1]):
            places.below[above].append(below)
            places.above[below].append(above)
    return chains, labels


def _order(places: _Places) -> None:
    """Order each row by the mean position of its neighbours, down and up in turns."""
    position = {place: (index + 0.5) / len(row) for row in places.rows for index, place in enumerate(row)}
    for sweep in range(_SWEEPS):
        neighbours, rows = (places.below, places.rows[::-1]) if sweep % 2 else (places.above, places.rows)
        for row in rows:
            means = {place: _mean([position[each] for each in neighbours[place]], position[place]) for place in row}
            row.sort(key=means.__getitem__)
            position |= {place: (index + 0.5) / len(row) for index, place in enumerate(row)}


def _columns(places: _Places) -> list[float]:
    """Return the x of each place: as near as its row lets it to the mean of its neighbours."""
    xs = [0.0] * len(places.sizes)
    for sweep in range(_SWEEPS):
        neighbours, rows = (places.below, places.rows[::-1]) if sweep % 2 else (places.above, places.rows)
        for row in rows:
            wanted = [_mean([xs[each] for each in neighbours[place]], xs[place]) for place in row]
            for place, x in zip(row, _spread(wanted, [places.sizes[place][0] for place in row]), strict=True):
                xs[place] = x
    return xs


def _spread(wanted: list[float], widths: list[float]) -> list[float]:
    """Return centres near *wanted* in the least squares, in this order and without overlap."""
    offsets = [0.0, *accumulate((a + b) / 2 + _GAP for a, b in pairwise(widths))][: len(widths)]
    blocks: list[list[float]] = []  # sum and number of places that stand together
    for x, offset in zip(wanted, offsets, strict=True):
        blocks.append([x - offset, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    means = [total / count for total, count in blocks for _ in range(int(count))]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _ports(places: _Places, xs: list[float], chains: list[list[int]]) -> dict[tuple[int, int], float]:
    """Return, by box and the place that its line goes to, the x at which the line leaves the box."""
    ends: dict[tuple[int, bool], list[int]] = {}
    for chain in chains:
        ends.setdefault((chain[0], True), []).append(chain[1])
        ends.setdefault((chain[-1], False), []).append(chain[-2])
    ports = {}
    for (box, _), inner in ends.items():
        width = places.sizes[box][0]
        for index, place in enumerate(sorted(inner, key=xs.__getitem__)):
            ports[box, place] = xs[box] + width * ((index + 1) / (len(inner) + 1) - 0.5)
    return ports


def _mean(values: list[float], default: float) -> float:
    return sum(values) / len(values) if values else default
