import numpy as np
import pytest
import torch

from fpl_fast.trainer.data.cutmix import cutmix_masks, fitting_boxes


def test_statistics_are_the_published_ones():
    # spec of the CPS code: 2000 masks of 128 x 128 from NumPy's legacy generator with seed 0
    covered = cutmix_masks(2000, (128, 128), np.random.RandomState(0)).float().mean((1, 2))
    assert covered.mean().item() == pytest.approx(0.253, abs=5e-4)
    assert covered.std().item() == pytest.approx(0.070, abs=5e-4)
    assert covered.min().item() == pytest.approx(0.09, abs=5e-3)
    assert covered.max().item() == pytest.approx(0.46, abs=5e-3)


def test_draw_order_and_exclusive_or():
    num, height, width, boxes = 7, 31, 57, 3
    rng = np.random.default_rng(11)
    area, u, place = (
        rng.uniform(0.25, 0.5, (num, boxes)),
        rng.uniform(size=(num, boxes)),
        rng.uniform(size=(num, boxes, 2)),
    )
    expected = torch.zeros(num, height, width, dtype=torch.bool)
    for n in range(num):
        for k in range(boxes):
            h = area[n, k] ** u[n, k]
            w = area[n, k] / h
            h, w = round(h * height / 3**0.5), round(w * width / 3**0.5)
            top, left = round((height - h) * place[n, k, 0]), round((width - w) * place[n, k, 1])
            expected[n, top : top + h, left : left + w] ^= True
    masks = cutmix_masks(num, (height, width), np.random.default_rng(11))
    assert masks.dtype == torch.bool
    assert torch.equal(masks, expected)


def test_one_box_of_the_whole_image_takes_everything():
    assert cutmix_masks(2, (5, 9), np.random.default_rng(0), num_boxes=1, area_range=(1.0, 1.0)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (200, 3)])  # degenerate and very long images
def test_any_size(size):
    assert cutmix_masks(4, size, np.random.default_rng(5)).shape == (4, *size)


def test_no_masks():
    assert cutmix_masks(0, (8, 8), np.random.default_rng(0)).shape == (0, 8, 8)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_boxes": 0}, "num_boxes must be at least 1, got 0"),
        ({"area_range": (0.5, 0.25)}, r"area_range .* got \(0.5, 0.25\)"),
        ({"area_range": (0.0, 0.5)}, r"area_range .* got \(0.0, 0.5\)"),
        ({"area_range": (0.5, 1.5)}, r"area_range .* got \(0.5, 1.5\)"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        cutmix_masks(1, (8, 8), np.random.default_rng(0), **options)


def test_boxes_are_drawn_until_they_fit():
    """Against the loop that the public code runs."""
    size, rng = (37, 61), np.random.default_rng(3)
    ours = box_sizes(fitting_boxes(3000, size, rng, probability=1.0, area_range=(0.1, 0.5)))
    theirs = []
    while len(theirs) < 3000:
        area = rng.uniform(0.1, 0.5)
        while True:
            r = rng.uniform(0.3, 1 / 0.3)
            h, w = int(size[0] * (area * r) ** 0.5), int(size[1] * (area / r) ** 0.5)
            y, x = rng.integers(size)
            if y + h <= size[0] and x + w <= size[1]:
                break
        theirs.append((h, w, y, x))
    theirs = np.array(theirs)
    error = 5 * np.sqrt(ours.var(0) / 3000 + theirs.var(0) / 3000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < error).all()
    assert ours.std(0) == pytest.approx(theirs.std(0), rel=0.1)


def box_sizes(masks):
    """Height, width, top and left of the one box of each mask."""
    found = []
    for mask in masks.numpy():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns) > 0
        assert rows[-1] - rows[0] + 1 == len(rows) and columns[-1] - columns[0] + 1 == len(columns)
        found.append((len(rows), len(columns), rows[0], columns[0]))
    return np.array(found)


def test_some_masks_have_no_box():
    drawn = fitting_boxes(2000, (20, 20), np.random.default_rng(0), probability=0.3, area_range=(0.2, 0.2))
    assert drawn.flatten(1).any(1).float().mean().item() == pytest.approx(0.3, abs=0.05)
    for probability in (0.0, 1.0):
        masks = fitting_boxes(50, (20, 20), np.random.default_rng(0), probability=probability)
        assert (masks.flatten(1).any(1) == bool(probability)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (200, 3)])
def test_boxes_fit_any_size_and_area(size):
    assert fitting_boxes(4, size, np.random.default_rng(5)).shape == (4, *size)
    fitting_boxes(4, size, np.random.default_rng(5), probability=1.0, area_range=(1.0, 1.0))


def test_a_box_of_the_whole_image():
    """But for a line that an aspect beside 1 costs by rounding."""
    masks = fitting_boxes(20, (40, 40), np.random.default_rng(0), probability=1.0, area_range=(1.0, 1.0))
    assert (masks.flatten(1).sum(1) >= 39 * 40).all()
