"""The cells that two crops have in common, against the pixels that they show."""

import pytest
import torch

from fpl_fast.trainer.methods import Place, View
from fpl_fast.trainer.methods.overlap import find_overlap

STRIDE = 8


def crops(image_size, crop_size, offset, flipped):
    """Crops that show, at each pixel, its number in the image, and -1 on the padding behind it."""
    height, width = image_size
    image = torch.arange(height * width, dtype=torch.float32).view(height, width)
    missing = [max(0, c - s) for c, s in zip(crop_size, image_size, strict=True)]
    padded = torch.nn.functional.pad(image, (0, missing[1], 0, missing[0]), value=-1)
    parts = []
    for (top, left), flip in zip(offset.tolist(), flipped.tolist(), strict=True):
        part = padded[top : top + crop_size[0], left : left + crop_size[1]]
        parts.append(part.flip(-1) if flip else part)
    pixels = torch.stack(parts)
    return View(pixels.unsqueeze(1), pixels >= 0, place=Place(offset, flipped))


def contents(view):
    """The set of pixels of each cell (N, h * w), None where one is padding."""
    cells = view.image[:, 0].unfold(1, STRIDE, STRIDE).unfold(2, STRIDE, STRIDE).flatten(3).flatten(1, 2)
    return [[frozenset(cell) if min(cell) >= 0 else None for cell in image] for image in cells.tolist()]


@pytest.mark.parametrize(
    ("image_size", "crop_size"), [((64, 80), (32, 48)), ((45, 90), (48, 40)), ((33, 27), (32, 32)), ((8, 8), (8, 8))]
)
def test_common_cells_show_the_same_pixels_and_all_others_differ(image_size, crop_size):
    num = 12
    ranges = [max(0, s - c) for s, c in zip(image_size, crop_size, strict=True)]
    first = torch.stack([torch.randint(r + 1, (num,)) for r in ranges], dim=1)
    second = torch.stack([torch.randint(r + 1, (num,)) for r in ranges], dim=1)
    second = first + (second - first) // STRIDE * STRIDE
    second = torch.where(second < 0, second + STRIDE, second)
    views = [crops(image_size, crop_size, offset, torch.rand(num) < 0.5) for offset in (first, second)]
    grid = (crop_size[0] // STRIDE, crop_size[1] // STRIDE)
    overlap = find_overlap(*views, grid)
    ours, theirs = map(contents, views)
    found = 0
    for n in range(num):
        known = {cell for cell in theirs[n] if cell is not None}
        for place in range(grid[0] * grid[1]):
            assert overlap.common[n, place] == (ours[n][place] is not None and ours[n][place] in known)
            if overlap.common[n, place]:
                assert theirs[n][overlap.partner[n, place]] == ours[n][place]
                found += 1
    assert found > 0


def test_values_come_from_the_partner():
    place = [Place(torch.tensor([[0, x]]), torch.tensor([flip])) for x, flip in ((0, False), (8, True))]
    views = [View(torch.zeros(1, 3, 8, 24), torch.ones(1, 8, 24, dtype=torch.bool), place=p) for p in place]
    overlap = find_overlap(*views, (1, 3))
    assert overlap.common.tolist() == [[False, True, True]]
    values = torch.tensor([[10, 11, 12]])  # of the second crop, whose cells run from right to left
    assert overlap.of_second(values)[0, 1:].tolist() == [12, 11]
    features = torch.stack([values, -values], dim=-1)
    assert overlap.of_second(features)[0, 1:].tolist() == [[12, -12], [11, -11]]
