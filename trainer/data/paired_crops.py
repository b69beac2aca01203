"""Pairs of overlapping crops of an image: the views of CAC."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fpl_fast.trainer.data.long_side import LongSideAugmentation
from fpl_fast.trainer.data.sample import Sample
from fpl_fast.trainer.data.strong import StrongAugmentation

__all__ = ["CropPair", "PairedCrops"]

_TRIES = 50


class CropPair(NamedTuple):
    """Two crops of an image that is resized once; (h, w) pixels each."""

    image: Tensor  # (2, 3, h, w) uint8
    valid: Tensor  # (2, h, w) bool, False on padding
    offset: Tensor  # (2, 2) int64, row and column of each crop's first pixel in the resized image
    flipped: Tensor  # (2,) bool, whether left and right are exchanged in each crop


@dataclass(frozen=True, slots=True)
class PairedCrops:
    """Resize an image once and cut two crops, whose offsets differ by multiples of ``stride`` (Lai et al. 2021).

    The offset of the first crop is uniform. That of the second is drawn in the same way and moved to the next multiple
    of ``stride`` from the first, towards the upper left corner (away from it where it would leave the image), until
    the intersection over the union of both lies in ``overlap``; after 50 draws in vain both crops are the same. Each
    crop is flipped and coloured by itself.

    Args:
        augmentation: Sizes, scales, padding and the probability of a flip.
        colours: Random colours of each crop.
        stride: Pixels.
        overlap: Range of the intersection over the union.
    """

    augmentation: LongSideAugmentation
    colours: StrongAugmentation
    stride: int = 8
    overlap: tuple[float, float] = (0.1, 1.0)

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of a crop in pixels."""
        return self.augmentation.crop_size

    def __call__(self, sample: Sample, rng: np.random.Generator) -> CropPair:
        """Draw size, offsets, flips and colours (in this order) from ``rng`` and cut out the pair."""
        size = self.augmentation.draw_size(sample, rng)
        ranges = [max(side - crop, 0) + 1 for side, crop in zip(size, self.crop_size, strict=True)]
        first = _draw(ranges, rng)
        second = self._draw_second(first, ranges, rng)
        flips = [rng.random() < self.augmentation.flip_probability for _ in range(2)]
        resized = self.augmentation.resize(sample, size)
        views = [
            self.augmentation.cut(resized, size, offset, flip=flip)
            for offset, flip in zip((first, second), flips, strict=True)
        ]
        images = [self.colours(view.image, rng)[0] for view in views]
        valid = torch.stack([view.valid for view in views])
        return CropPair(torch.stack(images), valid, torch.tensor([first, second]), torch.tensor(flips))

    def _draw_second(self, first: list[int], ranges: list[int], rng: np.random.Generator) -> list[int]:
        for _ in range(_TRIES):
            drawn = _draw(ranges, rng)
            moved = [a + (b - a) // self.stride * self.stride for a, b in zip(first, drawn, strict=True)]
            second = [b + self.stride if b < 0 else b for b in moved]
            if self.overlap[0] <= self._intersection_over_union(first, second) <= self.overlap[1]:
                return second
        return first

    def _intersection_over_union(self, first: list[int], second: list[int]) -> float:
        sides = zip(self.crop_size, first, second, strict=True)
        intersection = float(np.prod([max(0, crop - abs(a - b)) for crop, a, b in sides]))
        return intersection / (2 * self.crop_size[0] * self.crop_size[1] - intersection)


def _draw(ranges: list[int], rng: np.random.Generator) -> list[int]:
    """Draw a row and a column below the ends of their ranges, the column first."""
    column, row = (int(rng.integers(end)) for end in reversed(ranges))
    return [row, column]
