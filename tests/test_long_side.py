"""Scale, crop and flip of UniMatch."""

import numpy as np
import pytest
import torch
from PIL import Image

from fpl_fast.trainer.data.long_side import LongSideAugmentation, scaled_size
from fpl_fast.trainer.data.sample import Sample

RESAMPLE = Image.Resampling


def noise(height, width, labelled=True):
    image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8).permute(2, 0, 1)
    return Sample(image, torch.randint(0, 20, (height, width), dtype=torch.uint8) if labelled else None)


def literal(sample, size, offset, crop, flip):
    """Resize with Pillow as a whole, pad, crop, flip."""
    image, label = (
        np.array(Image.fromarray(array).resize((size[1], size[0]), resample))
        for array, resample in (
            (sample.image.permute(1, 2, 0).numpy(), RESAMPLE.BILINEAR),
            (sample.label.numpy(), RESAMPLE.NEAREST),
        )
    )
    missing = [max(c - s, 0) for c, s in zip(crop, size, strict=True)]
    places = [(0, m) for m in missing]
    part = tuple(slice(o, o + c) for o, c in zip(offset, crop, strict=True))
    planes = [
        np.pad(image, (*places, (0, 0)))[part],
        np.pad(label, places, constant_values=255)[part],
        np.pad(np.ones_like(label, dtype=bool), places)[part],
    ]
    return [torch.from_numpy((p[:, ::-1] if flip else p).copy()) for p in planes]


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_equals_the_crop_of_the_whole_resized_image(flip):
    rng = np.random.default_rng(torch.randint(2**31, ()).item())
    for _ in range(60):
        height, width = map(int, rng.integers(1, 90, 2))
        sample, crop = noise(height, width), tuple(map(int, rng.integers(1, 70, 2)))
        longest = max(height, width)
        size = scaled_size((height, width), int(rng.integers(max(1, longest // 2), 2 * longest + 1)))
        offset = [int(rng.integers(max(s - c, 0) + 1)) for s, c in zip(size, crop, strict=True)]
        view = LongSideAugmentation(crop).cut(sample, size, offset, flip=flip)
        image, label, valid = literal(sample, size, offset, crop, flip)
        assert torch.equal(view.label, label) and torch.equal(view.valid, valid)
        # Two levels, each from one of the two roundings of Pillow, which resizes columns and then rows.
        assert (view.image.permute(1, 2, 0).int() - image.int()).abs().max() <= 2


def test_draws_cover_their_ranges():
    sizes, offsets, flips = set(), set(), []

    class Recorded(LongSideAugmentation):
        def cut(self, sample, size, offset, *, flip):
            sizes.add(tuple(size))
            offsets.add((tuple(size), tuple(offset)))
            flips.append(flip)
            return super().cut(sample, size, offset, flip=flip)

    augmentation, rng = Recorded((6, 6)), np.random.default_rng(0)
    for _ in range(1500):
        view = augmentation(noise(5, 7), rng)
        assert view.image.shape == (3, 6, 6) and view.label.shape == view.valid.shape == (6, 6)
    assert {size[1] for size in sizes} == set(range(3, 15))  # int(3.5) to 14
    assert {size[0] for size in sizes} == {int(5 * long_side / 7 + 0.5) for long_side in range(3, 15)}
    rows, columns = map(set, zip(*(offset for size, offset in offsets if size == (10, 14)), strict=True))
    assert (rows, columns) == (set(range(5)), set(range(9)))
    assert all(offset == (0, 0) for size, offset in offsets if max(size) <= 6)
    assert np.mean(flips) == pytest.approx(0.5, abs=0.06)


def test_unlabelled_images_and_tiny_ones():
    for size in ((1, 1), (1, 9), (9, 1)):
        view = LongSideAugmentation((4, 4), pad_label=254)(noise(*size, labelled=False), np.random.default_rng(1))
        assert view.label is None and view.valid.any()
        assert (view.image.permute(1, 2, 0)[~view.valid] == 0).all()


@pytest.mark.parametrize(
    ("size", "long_side", "expected"),
    [((50, 70), 35, [25, 35]), ((50, 70), 113, [81, 113]), ((70, 50), 35, [35, 25]), ((1, 90), 45, [1, 45])],
)
def test_the_other_side_is_rounded(size, long_side, expected):
    assert scaled_size(size, long_side) == expected
