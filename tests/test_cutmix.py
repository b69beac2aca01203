import numpy as np
import pytest
import torch

from fpl_fast.trainer.data.cutmix import cutmix_masks


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
