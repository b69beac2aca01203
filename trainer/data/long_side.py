"""Random scale, crop and flip of UniMatch and its successors, and of CAC."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from fpl_fast.trainer.data.sample import Sample
from fpl_fast.trainer.data.transforms import View

__all__ = ["LongSideAugmentation", "scaled_size"]


@dataclass(frozen=True, slots=True)
class LongSideAugmentation:
    """Scale, crop, flip (Yang et al. 2023, the same for labelled and unlabelled images).

    The longer side L becomes an integer, uniform on int(low * L) ... int(high * L), both included; the other side
    follows, rounded to the nearest pixel. Images are resized by Pillow with anti-aliasing, labels by nearest neighbour.
    An image smaller than the crop is padded at the right and at the bottom; the flip comes last and takes
    the padding along.

    Args:
        crop_size: Height and width of the result in pixels.
        scale_range: low and high.
        flip_probability: Probability of a left-right flip.
        pad_label: Label of padding.
        pad_color: Colour of padding.
        base_size: L, or None for the longer side of each image.
        bicubic: Whether images are resized bicubically instead of bilinearly, and each pixel of a label takes the one
            at its upper left corner, as OpenCV does, instead of the one at its centre (Lai et al. 2021).
    """

    crop_size: tuple[int, int]
    scale_range: tuple[float, float] = (0.5, 2.0)
    flip_probability: float = 0.5
    pad_label: int = 255
    pad_color: tuple[int, int, int] = (0, 0, 0)
    base_size: int | None = None
    bicubic: bool = False

    def __call__(self, sample: Sample, rng: np.random.Generator) -> View:
        """Draw long side, offsets and flip (in this order) from ``rng`` and cut out the view."""
        size = self.draw_size(sample, rng)
        offset = [int(rng.integers(max(side - crop, 0) + 1)) for side, crop in zip(size, self.crop_size, strict=True)]
        return self.cut(self.resize(sample, size), size, offset, flip=rng.random() < self.flip_probability)

    def draw_size(self, sample: Sample, rng: np.random.Generator) -> list[int]:
        """Draw the height and width that a sample is resized to."""
        longest = self.base_size or max(sample.image.shape[-2:])
        low, high = (max(1, int(factor * longest)) for factor in self.scale_range)
        return scaled_size(sample.image.shape[-2:], int(rng.integers(low, high + 1)))

    def resize(self, sample: Sample, size: Sequence[int]) -> Sample:
        """Resize a sample bicubically; a bilinear one stays as it is, because ``cut`` resizes the part that it needs.

        (Pillow's bicubic filter gives other values for a part than for the whole: up to 15 of 255.)
        """
        if not self.bicubic:
            return sample
        picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
        image = tv.pil_to_tensor(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC))
        label = sample.label
        if label is not None:
            rows, columns = (torch.arange(new) * old // new for old, new in zip(label.shape, size, strict=True))
            label = label[rows.unsqueeze(1), columns]
        return Sample(image, label)

    def cut(self, sample: Sample, size: Sequence[int], offset: Sequence[int], *, flip: bool) -> View:
        """Cut out the view at ``offset`` of a sample that is resized to ``size``."""
        inside = [min(side - o, crop) for side, o, crop in zip(size, offset, self.crop_size, strict=True)]
        image = _resized_part(sample.image, size, offset, inside)
        image = torch.stack([self._pad(*args) for args in zip(image, (flip,) * 3, self.pad_color, strict=True)])
        label = sample.label
        if label is not None:
            rows, columns = (_nearest(*args) for args in zip(label.shape, size, offset, inside, strict=True))
            label = self._pad(label[rows.unsqueeze(1), columns], flip, self.pad_label)
        return View(image, label, self._pad(torch.ones(inside, dtype=torch.bool), flip, 0))

    def _pad(self, plane: Tensor, flip: bool, value: int) -> Tensor:
        (height, width), (rows, columns) = self.crop_size, plane.shape[-2:]
        padded = F.pad(plane, (0, width - columns, 0, height - rows), value=value)
        return padded.flip(-1) if flip else padded


def scaled_size(size: Sequence[int], long_side: int) -> list[int]:
    """Height and width after the longer side has become ``long_side``, at least one pixel each.

    Example:
        >>> scaled_size((50, 70), 35)
        [25, 35]
    """
    longest = max(size)
    return [long_side if side == longest else max(1, int(side * long_side / longest + 0.5)) for side in size]


def _resized_part(image: Tensor, size: Sequence[int], offset: Sequence[int], part: Sequence[int]) -> Tensor:
    """Resize (3, H, W) uint8 to ``size`` and keep ``part`` at ``offset``; only pixels that it depends on are read.

    A crop of 801 x 801 out of 1024 x 2048 takes 7 to 19 ms on a CPU core; resizing the whole image takes up to 84. Some
    values round to a neighbouring level.
    """
    source, box = [], []
    for length, side, first, count in zip(image.shape[-2:], size, offset, part, strict=True):
        ratio = length / side
        begin, end = first * ratio, min((first + count) * ratio, length)
        margin = math.ceil(max(ratio, 1)) + 1  # neighbours that interpolation reads
        start = max(math.floor(begin) - margin, 0)
        source.append(slice(start, min(math.ceil(end) + margin, length)))
        box.append((begin - start, end - start))
    pixels = image[:, source[0], source[1]].permute(1, 2, 0).numpy()
    (top, bottom), (left, right) = box
    resized = Image.fromarray(pixels).resize((part[1], part[0]), Image.Resampling.BILINEAR, (left, top, right, bottom))
    return tv.pil_to_tensor(resized)


def _nearest(length: int, side: int, first: int, count: int) -> Tensor:
    """Indices into a side of ``length`` that has been resized to ``side``, rounded where two are near as by Pillow."""
    ratio = length / side
    centres = np.cumsum([ratio / 2, *[ratio] * (first + count - 1)])  # Pillow adds, too, instead of multiplying
    return torch.from_numpy(centres[first:].astype(np.int64).clip(max=length - 1))
