"""Random flip, scale and crop of Cross Pseudo Supervision, and the normalisation that follows on the device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from fpl_fast.trainer.data.sample import Sample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """An augmented crop.

    Attributes:
        image: (3, h, w) uint8; black where not valid.
        label: (h, w) uint8, ignore_index where not valid; None for an unlabelled image.
        valid: (h, w) bool, False on padding.
    """

    image: Tensor
    label: Tensor | None
    valid: Tensor


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Flip, scale, crop, pad (Chen et al. 2021, the same for labelled and unlabelled images).

    The scaled size is rounded down; the image is resized bilinearly without anti-aliasing, the label by nearest
    neighbour. With ``scale_range`` the flip follows the resizing, as in the code of Hu et al. (2021): the order decides
    which of two neighbours a label takes. The crop offset is uniform on 0 ... size - crop, both ends included. (The
    published code draws up to size - crop + 1, which sometimes cuts a crop short by one pixel; that is not reproduced.)
    An image smaller than the crop is padded around its centre, the odd pixel at the bottom and right.

    Args:
        crop_size: Height and width of the result in pixels.
        scales: The set that a scale is drawn from, uniformly.
        flip_probability: Probability of a left-right flip.
        pad_label: Label of padding.
        scale_range: Replaces ``scales``: with equal chances uniform below 1 or above it (Hu et al. 2021).

    Raises:
        ValueError: If a field breaks its rule.
    """

    crop_size: tuple[int, int]
    scales: Sequence[float] = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)
    flip_probability: float = 0.5
    pad_label: int = 255
    scale_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if min(self.crop_size) < 1:
            raise ValueError(f"crop_size must be at least 1 x 1, got {self.crop_size}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more positive numbers, got {tuple(self.scales)}")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability must be in [0, 1], got {self.flip_probability}")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> View:
        """Draw flip, scale and offsets (in this order) from ``rng`` and cut out the view."""
        image, label = sample.image, sample.label
        flip = rng.random() < self.flip_probability
        scale = self._draw_scale(rng)
        size = [max(1, math.floor(side * scale)) for side in image.shape[-2:]]
        offset = [int(rng.integers(max(side - crop, 0) + 1)) for side, crop in zip(size, self.crop_size, strict=True)]

        # Only the part in the crop is resized: 3 ms instead of 17 on average for 800 x 800 of 1024 x 2048 (one thread).
        spans = [_span(*args) for args in zip(image.shape[-2:], size, offset, self.crop_size, strict=True)]
        rows, columns = (span.source for span in spans)
        # Nearest neighbours depend on the order, which differs between the two public codes.
        first, last = (flip, False) if self.scale_range is None else (False, flip)
        if first:
            columns = slice(image.shape[-1] - columns.stop, image.shape[-1] - columns.start)
        size, offset = [span.size for span in spans], [span.offset for span in spans]
        valid = torch.ones([min(side, crop) for side, crop in zip(size, self.crop_size, strict=True)], dtype=torch.bool)
        image = self._cut(_resize(_mirror(image[:, rows, columns], first), size), offset, last, fill=0)
        if label is not None:
            label = tv.resize(_mirror(label[None, rows, columns], first), size, InterpolationMode.NEAREST)[0]
            label = self._cut(label, offset, last, fill=self.pad_label)
        return View(image, label, self._cut(valid, (0, 0), flip=False, fill=False))

    def _draw_scale(self, rng: np.random.Generator) -> float:
        if self.scale_range is None:
            return self.scales[int(rng.integers(len(self.scales)))]
        low, high = self.scale_range
        return rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)

    def _cut(self, plane: Tensor, offset: Sequence[int], flip: bool, fill: float) -> Tensor:
        """Cut the crop at ``offset``, flip and pad it. As offsets are uniform, cutting last would be equivalent."""
        (top, left), (height, width) = offset, self.crop_size
        plane = plane[..., top : top + height, left : left + width]
        missing = [height - plane.shape[-2], width - plane.shape[-1]]
        before = [pixels // 2 for pixels in missing]
        padding = [before[1], missing[1] - before[1], before[0], missing[0] - before[0]]
        return torch.nn.functional.pad(_mirror(plane, flip), padding, value=fill)


def _mirror(plane: Tensor, flip: bool) -> Tensor:
    return plane.flip(-1) if flip else plane


def _resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (3, H, W) uint8 bilinearly without anti-aliasing."""
    if max(size) > 1:
        return tv.resize(image, list(size), InterpolationMode.BILINEAR, antialias=False)
    # PyTorch's uint8 kernel stops at an internal assertion where the result is a single pixel.
    return tv.resize(image.float(), list(size), InterpolationMode.BILINEAR, antialias=False).round().to(torch.uint8)


class _Span(NamedTuple):
    """A part of one side of an image that is resized by itself."""

    source: slice
    size: int  # that the part is resized to
    offset: int  # of the crop in it


def _span(length: int, size: int, offset: int, crop: int) -> _Span:
    """Find the part of a side that its crop, after resizing the side from ``length`` to ``size``, depends on.

    With g = gcd(length, size), resizing is periodic: every length / g pixels become size / g. A part that begins and
    ends between periods is resized exactly as in the whole; one more period on either side holds the neighbours that
    interpolation reads.
    """
    periods = math.gcd(length, size)
    before, after = length // periods, size // periods
    first = max(offset // after - 1, 0)
    last = min((offset + crop - 1) // after + 2, periods)
    return _Span(slice(first * before, last * before), (last - first) * after, offset - first * after)


def normalize(
    image: Tensor,
    valid: Tensor | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """Compute (image / 255 - mean) / std, exactly 0 (the mean colour) where not valid; meant to run on the device.

    Args:
        image: (..., 3, H, W) uint8.
        valid: (..., H, W) bool, or None if every pixel is valid.
        mean: Mean of the three channels, in units of full scale.
        std: Standard deviation of the three channels, in units of full scale.

    Returns:
        float32 of the image's shape and memory format.
    """
    # Filled in on the device, scalar by scalar: a tensor made from a Python list would be a blocking copy.
    shift, scale = (torch.empty(3, 1, 1, device=image.device) for _ in range(2))
    for channel in range(3):
        shift[channel].fill_(-mean[channel] / std[channel])
        scale[channel].fill_(1 / (255 * std[channel]))
    normalized = image * scale + shift
    return normalized if valid is None else normalized * valid.unsqueeze(-3)
