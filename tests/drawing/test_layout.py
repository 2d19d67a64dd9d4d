"""Boxes and lines in layers."""

import random
from itertools import combinations, pairwise

import pytest

from hayhooks.drawing.layout import Link, arrange

SIZE = (100.0, 40.0)


def links(*pairs: tuple[int, int]) -> list[Link]:
    return [Link(sender, receiver, 50.0, 15.0) for sender, receiver in pairs]


def overlap(a: tuple[float, float], b: tuple[float, float], size: tuple[float, float] = SIZE) -> bool:
    """Whether two boxes, by centre and top, overlap."""
    return abs(a[0] - b[0]) < size[0] and abs(a[1] - b[1]) < size[1]


def test_one_box_is_the_whole_drawing():
    assert arrange([SIZE], [])[:1] == ([(50.0, 0.0)],)


def test_the_longest_path_is_the_layer_and_a_chain_is_straight():
    layout = arrange([SIZE] * 4, links((0, 1), (1, 2), (2, 3), (0, 3)))

    tops = [top for _, top in layout.boxes]
    assert tops == sorted(set(tops))
    assert [line[0][1] < line[-1][1] for line in layout.lines] == [True] * 4


def test_a_line_over_layers_runs_past_the_boxes_between():
    layout = arrange([SIZE] * 3, links((0, 1), (1, 2), (0, 2)))

    x, top = layout.boxes[1]
    beside = [px for px, py in layout.lines[2] if top <= py <= top + SIZE[1]]
    assert beside
    assert all(abs(px - x) > SIZE[0] / 2 for px in beside)


def test_a_cycle_is_drawn_with_one_line_upwards():
    layout = arrange([SIZE] * 3, links((0, 1), (1, 2), (2, 0)))

    assert [line[-1][1] > line[0][1] for line in layout.lines] == [True, True, False]
    assert layout.lines[2][0][1] == layout.boxes[2][1]  # leaves the top of the last box
    assert layout.lines[2][-1][1] == layout.boxes[0][1] + SIZE[1]  # and ends at the bottom of the first


def test_lines_that_need_not_cross_do_not():
    layout = arrange([SIZE] * 6, links((0, 5), (1, 4), (2, 3)))

    assert [layout.boxes[box][0] for box in (0, 1, 2)] == pytest.approx([layout.boxes[box][0] for box in (5, 4, 3)])


@pytest.mark.parametrize("seed", range(8))
def test_nothing_overlaps_and_nothing_is_outside(seed: int):
    """Any graph, with cycles and several parts."""
    choice = random.Random(seed)
    count = choice.randrange(2, 60)
    pairs = {(choice.randrange(count), choice.randrange(count)) for _ in range(choice.randrange(0, 2 * count))}
    layout = arrange([SIZE] * count, links(*sorted((a, b) for a, b in pairs if a != b)))

    assert not [pair for pair in combinations(layout.boxes, 2) if overlap(*pair)]
    labels = [(x, top) for x, top in layout.labels]
    assert not [pair for pair in combinations(labels, 2) if overlap(*pair, size=(50.0, 15.0))]
    for x, top in layout.boxes:
        assert -0.01 <= x - 50 < x + 50 <= layout.width + 0.01
        assert -0.01 <= top < top + 40 <= layout.height + 0.01
    assert all(-0.01 <= x <= layout.width + 0.01 for line in layout.lines for x, _ in line)


def test_hundreds_of_boxes_whose_lines_cross_hundreds_of_layers_have_few_points():
    count = 300
    layout = arrange([SIZE] * count, links(*pairwise(range(count)), *((0, box) for box in range(2, count))))

    assert sum(map(len, layout.lines)) < 5 * len(layout.lines)
