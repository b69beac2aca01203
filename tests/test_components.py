from collections import Counter

import pytest
import torch

from fpl_fast.trainer.methods.components import connected_components, random_component_box


def flood(mask, corners=True):
    """The components of one mask, as sets of (row, column)."""
    left = {tuple(place) for place in mask.nonzero().tolist()}
    components = []
    while left:
        grown, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            grown.add((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if corners or not i * j} & left
            left -= near
            edge += near
        components.append(grown)
    return components


def meander(size):
    """Rows joined alternately at their right and left ends: the longest way through a square."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    return mask


@pytest.mark.parametrize("density", [0.05, 0.3, 0.4, 0.5, 0.8])  # around the percolation threshold, 0.407, paths wind
def test_components_equal_a_flood_fill(density):
    masks = torch.rand(3, 23, 31) < density
    for mask, label in zip(masks, connected_components(masks), strict=True):
        expected = torch.zeros_like(label)
        for component in flood(mask):
            for row, column in component:
                expected[row, column] = 1 + max(r * 31 + c for r, c in component)
        assert torch.equal(label, expected)


def test_corners_touch_unless_sides_alone_count():
    masks = torch.rand(3, 23, 31) < 0.55
    for mask, label in zip(masks, connected_components(masks, neighbours=4), strict=True):
        for component in flood(mask, corners=False):
            assert len({label[place].item() for place in component}) == 1
            highest = max(r * 31 + c for r, c in component)
            assert all(label[place] == 1 + highest for place in component)
    corner = torch.eye(5, dtype=torch.bool).unsqueeze(0)
    assert len(connected_components(corner)[corner].unique()) == 1
    assert len(connected_components(corner, neighbours=4)[corner].unique()) == 5


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("size", [64, 193, 257])
def test_the_longest_way_is_one_component(size, turn, neighbours):
    mask = meander(size).T if turn else meander(size)
    label = connected_components(mask.unsqueeze(0), neighbours=neighbours)[0]
    assert len(label[mask].unique()) == 1
    assert not label[~mask].any()


def test_degenerate_masks():
    assert not connected_components(torch.zeros(2, 5, 7, dtype=torch.bool)).any()
    assert (connected_components(torch.ones(2, 5, 7, dtype=torch.bool)) == 35).all()
    assert connected_components(torch.ones(1, 1, 1, dtype=torch.bool)).item() == 1
    checkers = torch.arange(30).view(1, 5, 6) % 7 % 2 == 0  # corners touch
    assert len(connected_components(checkers)[checkers].unique()) == len(flood(checkers[0]))


def test_boxes_are_drawn_evenly_among_the_large_components():
    masks = torch.rand(1, 12, 17) < 0.3
    large = [c for c in flood(masks[0]) if len(c) > 0.02 * 12 * 17]
    expected = set()
    for component in large:
        rows, columns = zip(*component, strict=True)
        box = torch.zeros(12, 17, dtype=torch.bool)
        box[min(rows) : max(rows) + 1, min(columns) : max(columns) + 1] = True
        expected.add(tuple(box.flatten().tolist()))
    draws = 200 * len(large)
    boxes, found = random_component_box(masks.expand(draws, -1, -1), 0.02, torch.rand(draws, 12 * 17 + 1))
    assert found.all() if large else not found.any()
    counts = Counter(tuple(box) for box in boxes.flatten(1).tolist())
    if len(expected) == len(large) > 0:
        assert set(counts) == expected
        assert min(counts.values()) > 100  # 200 expected, standard deviation below 14.2


def test_no_large_component():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[1, 2:4, 2:4] = True
    masks[2, 2:4, 2:5] = True
    boxes, found = random_component_box(masks, 4 / 64, torch.rand(3, 65))  # exceeds, not reaches
    assert found.tolist() == [False, False, True]
    assert boxes.sum((1, 2)).tolist() == [0, 0, 6]
