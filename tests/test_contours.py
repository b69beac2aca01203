import pytest
import torch

from fpl_fast.trainer.methods.contours import erase_boxes, fill_holes, find_contours

# Right, then counterclockwise, as (row, column).
STEPS = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]


def border(inside, start):
    """Walk around the component of its first pixel (Suzuki and Abe), and keep the pixels where the way turns."""
    row, column = start
    last = next((i for i in (3, 2, 1, 0, 7, 6, 5) if inside(row + STEPS[i][0], column + STEPS[i][1])), None)
    if last is None:
        return [start]
    end = (row + STEPS[last][0], column + STEPS[last][1])
    points, place, before, arrived = [], start, last, (last + 4) % 8
    while True:
        leave = next(
            i % 8 for i in range(before + 1, before + 9)
            if inside(place[0] + STEPS[i % 8][0], place[1] + STEPS[i % 8][1])
        )  # fmt: skip
        if leave != arrived:
            points.append(place)
        following = (place[0] + STEPS[leave][0], place[1] + STEPS[leave][1])
        if following == start and place == end:
            return points
        place, before, arrived = following, (leave + 4) % 8, leave


def spread(places, near, member):
    """All that can be reached from places through members."""
    reached, edge = set(places), list(places)
    while edge:
        row, column = edge.pop()
        for i, j in near:
            place = (row + i, column + j)
            if place not in reached and member(*place):
                reached.add(place)
                edge.append(place)
    return reached


def literal(mask):
    """Points and bounding box of each outer contour, sorted."""
    height, width = mask.shape

    def within(row, column):
        return -1 <= row <= height and -1 <= column <= width

    def inside(row, column):
        return 0 <= row < height and 0 <= column < width and bool(mask[row, column])

    outside = spread([(-1, -1)], STEPS[::2], lambda r, c: within(r, c) and not inside(r, c))
    contours, seen = [], set()
    for row in range(height):
        for column in range(width):
            if inside(row, column) and (row, column) not in seen:
                component = spread([(row, column)], STEPS, inside)
                seen |= component
                if (row, column - 1) in outside:  # otherwise it lies in a hole
                    points = border(inside, (row, column))
                    rows, columns = zip(*component, strict=True)
                    contours.append((len(points), min(rows), max(rows), min(columns), max(columns)))
    return sorted(contours)


def blobs(size):
    """Smooth shapes with bays, holes and islands in the holes."""
    noise = torch.nn.functional.avg_pool2d(torch.randn(3, 1, size[0] + 8, size[1] + 8), 9, stride=1)[:, 0]
    return noise.sin().mul(40).sin() > 0.3


@pytest.mark.parametrize("density", [0.3, 0.5, 0.7, None])
def test_contours_equal_a_walk_around_each_component(density):
    masks = torch.rand(3, 19, 26) < density if density else blobs((37, 30))
    contours = find_contours(masks)
    for n, mask in enumerate(masks):
        slots = contours.points[n].nonzero().flatten()
        ours = sorted(tuple(values[n, slot].item() for values in contours) for slot in slots)
        assert ours == literal(mask)


def test_shapes_with_a_known_number_of_points():
    """A rectangle has 4, a pixel 1, a line 2, a diamond 4; a ring is its outer border alone."""
    mask = torch.zeros(5, 12, 12, dtype=torch.bool)
    mask[0, 2:7, 3:9] = True
    mask[1, 4, 4] = True
    mask[2, 4, 4:9] = True
    mask[3] = (torch.arange(12).view(-1, 1) - 5).abs() + (torch.arange(12) - 5).abs() <= 4
    mask[4, 1:11, 1:11] = True
    mask[4, 2:10, 2:10] = False
    mask[4, 5, 5] = True
    assert [sorted(points[points > 0].tolist()) for points in find_contours(mask).points] == [[4], [1], [2], [4], [4]]
    assert fill_holes(mask)[4].sum() == 100
    assert torch.equal(fill_holes(mask)[:4], mask[:4])


def test_an_empty_mask_has_no_contour_and_no_box():
    contours = find_contours(torch.zeros(2, 1, 3, dtype=torch.bool))
    assert not contours.points.any()
    assert not erase_boxes(contours, torch.rand(2, 2, 4), (1, 3), min_points=0).any()


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1 - 2**-24])
def test_boxes_of_large_contours_lie_where_the_numbers_say(fraction):
    mask = blobs((70, 61))
    contours = find_contours(mask)
    start = torch.full((3, 2, 70 * 61 + 1), fraction)
    erased = erase_boxes(contours, start, (70, 61), min_points=12)
    expected = torch.zeros_like(erased)
    for n in range(3):
        for points, top, bottom, left, right in literal(mask[n]):
            if points > 12:
                high, wide = bottom - top, right - left
                row, column = (first + min(int(fraction * (int(0.6 * side) + 1)), int(0.6 * side))
                               for first, side in ((top, high), (left, wide)))  # fmt: skip
                expected[n, row : row + int(0.4 * high), column : column + int(0.4 * wide)] = True
    assert expected.any()
    assert torch.equal(erased, expected)
