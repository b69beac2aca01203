"""Pairs of overlapping crops."""

import numpy as np
import pytest
import torch
from PIL import Image

from fpl_fast.trainer.data.long_side import LongSideAugmentation
from fpl_fast.trainer.data.paired_crops import PairedCrops
from fpl_fast.trainer.data.sample import Sample
from fpl_fast.trainer.data.strong import StrongAugmentation

PLAIN = StrongAugmentation(jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0)


def noise(height, width):
    return Sample(torch.randint(0, 256, (3, height, width), dtype=torch.uint8), None)


def make(crop, *, colours=PLAIN, **changes):
    options = {"pad_color": (124, 116, 104), "bicubic": True, **changes}
    return PairedCrops(LongSideAugmentation(crop, (0.8, 2.0), **options), colours)


def generator():
    return np.random.default_rng(torch.randint(2**31, ()).item())


@pytest.mark.parametrize(("size", "crop"), [((90, 120), (48, 64)), ((40, 100), (48, 40)), ((200, 30), (32, 48))])
def test_crops_are_parts_of_one_resized_image(size, crop):
    pairs, rng = make(crop), generator()
    for _ in range(15):
        sample, drawn = noise(*size), []

        class Recorded(LongSideAugmentation):
            def draw_size(self, *args, drawn=drawn):
                drawn.append(super().draw_size(*args))
                return drawn[-1]

        recorded = Recorded(crop, (0.8, 2.0), pad_color=(124, 116, 104), bicubic=True)
        pair = PairedCrops(recorded, PLAIN)(sample, rng)
        ((height, width),) = drawn
        assert int(0.8 * max(size)) <= max(height, width) <= 2 * max(size)
        picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy()).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        missing = [max(0, c - s) for c, s in zip(crop, (height, width), strict=True)]
        padded = np.empty((height + missing[0], width + missing[1], 3), np.uint8)
        padded[:] = (124, 116, 104)
        padded[:height, :width] = np.asarray(picture)
        for place in range(2):
            (top, left), flip = pair.offset[place].tolist(), pair.flipped[place].item()
            part = padded[top : top + crop[0], left : left + crop[1]]
            rows, columns = np.arange(crop[0]) + top < height, np.arange(crop[1]) + left < width
            inside = rows[:, None] & columns
            expected = [torch.from_numpy((p[:, ::-1] if flip else p).copy()) for p in (part, inside)]
            assert torch.equal(pair.image[place].permute(1, 2, 0), expected[0])
            assert torch.equal(pair.valid[place], expected[1])
    assert pairs.crop_size == crop


def test_offsets_are_whole_strides_apart_and_the_overlap_is_in_its_range():
    rng, shares, shifts, flips = generator(), [], set(), []
    pairs = PairedCrops(LongSideAugmentation((32, 40), (0.8, 1.0)), PLAIN, 8, (0.2, 0.6))
    for _ in range(400):
        pair = pairs(noise(80, 90), rng)
        shift = (pair.offset[1] - pair.offset[0]).tolist()
        assert all(d % 8 == 0 for d in shift) and pair.offset.min() >= 0
        intersection = (32 - abs(shift[0])) * (40 - abs(shift[1]))
        shares.append(intersection / (2 * 32 * 40 - intersection))
        shifts.add(tuple(shift))
        flips.append(pair.flipped)
    assert min(shares) >= 0.2 and max(shares) <= 0.6
    assert {np.sign(d) for shift in shifts for d in shift} == {-1, 0, 1}
    share = torch.stack(flips).float().mean(0)
    assert ((share - 0.5).abs() < 0.11).all()  # four standard deviations
    assert 0.3 < torch.stack(flips).float().T.corrcoef()[0, 1].add(0.5) < 0.7  # of each other independent


def test_crops_are_the_same_where_no_pair_overlaps_enough():
    """An image with a single place for a crop has no two crops that share a part of each other alone."""
    pairs = PairedCrops(LongSideAugmentation((48, 48), (1.0, 1.0)), PLAIN, 8, (0.1, 0.9))
    pair = pairs(noise(40, 48), generator())
    assert torch.equal(*pair.offset) and not pair.offset.any()


def test_each_crop_has_its_own_colours_and_the_generator_decides():
    sample = noise(64, 64)
    pairs = PairedCrops(LongSideAugmentation((64, 64), (1.0, 1.0), 0.0), StrongAugmentation(jitter_probability=1.0))
    ours, same, other = (pairs(sample, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(ours.image, same.image) and not torch.equal(ours.image, other.image)
    assert torch.equal(*ours.offset) and not torch.equal(*ours.image)
