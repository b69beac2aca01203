"""Maps of the flaws of a prediction: true ones of labelled images, and what detected ones decide.

Source: Ke et al., Guided Collaborative Training for Pixel-wise Semi-Supervised Learning (ECCV 2020), and its public
code, whose crops are square; here the shorter side decides the sizes of all blurs.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fpl_fast.trainer.upsample import pixel_size

__all__ = ["Comparison", "blur_kernel", "compare_flaws", "flaw_target", "handle_flaws"]

_LEAST = 1e-9  # added to a range that is divided by
_NOTHING = 0.1  # a map whose highest value is no higher shows no flaw
_TRUNCATE = 4.0  # standard deviations at which the filter ends


class Comparison(NamedTuple):
    """Outcome of two networks' flaw maps, pixel by pixel."""

    right_better: Tensor  # (N, H, W) bool, whether the left network learns from the right one
    left_better: Tensor  # (N, H, W) bool, the other way round
    both_bad: Tensor  # (N, H, W) bool, whether both are wrong


@torch.no_grad()
def flaw_target(probability: Tensor, label: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Compute how wrong a prediction is around each pixel, from 0 where an image is best to 1 where it is worst.

    The sum of absolute differences to the label, halved, is 1 - p_label; a pixel without label counts 1/2, as in the
    public code. It is blurred, dilated by 3 x 3 pixels and blurred once more, by kernels of an eighth and a quarter of
    the size, then stretched to 0 ... 1.

    Args:
        probability: (N, C, H, W).
        label: (N, H, W) int64.
        ignore_index: Label of pixels without label.

    Returns:
        (N, H, W), in the dtype of the probabilities.
    """
    ignored = label == ignore_index
    true = probability.gather(1, label.masked_fill(ignored, 0).unsqueeze(1)).squeeze(1)
    wrong = (1 - true).masked_fill(ignored, 0.5)
    dilated = F.max_pool2d(_blur(wrong, 8), 3, stride=1, padding=1)
    maps = _blur(dilated, 4)
    lowest, highest = _extremes(maps)
    return (maps - lowest) / (highest - lowest + _LEAST)


@torch.no_grad()
def handle_flaws(flaws: Tensor) -> Tensor:
    """Smooth detected flaw maps and stretch them to 0 ... 1.

    Values below 0 become 0, and the map is blurred by a kernel of a sixteenth of the size. A map whose maximum is then
    at most 0.1 becomes 0 before its minimum, taken earlier, is subtracted, and so ends up constant and below 0, as in
    the public code: it wins every comparison with a map that has flaws.

    Args:
        flaws: (N, H, W), float32 or float64.

    Returns:
        (N, H, W), in the same dtype.
    """
    maps = _blur(flaws.clamp(min=0), 16)
    lowest, highest = _extremes(maps)
    return (maps * (highest > _NOTHING) - lowest) / (highest - lowest + _LEAST)


def compare_flaws(left: Tensor, right: Tensor, threshold: float) -> Comparison:
    """Decide pixel by pixel which of two networks teaches the other, from their handled flaw maps (N, H, W).

    Flaws above the threshold are equally bad: there, and at equal flaws, each network keeps its own prediction.
    """
    left_bad, right_bad = left > threshold, right > threshold
    left, right = left.masked_fill(left_bad, 1), right.masked_fill(right_bad, 1)
    return Comparison(right < left, left < right, left_bad & right_bad)


def blur_kernel(size: int, device: torch.device | str | None = None) -> Tensor:
    """Make the Gaussian filter of an odd size, (size,) float64, whose outer product with itself is the public kernel.

    The public code filters a single pixel in an image of ``size`` by scipy, with sigma = 0.3 ((size - 1) / 2 - 1) + 0.8
    up to four standard deviations: what is cut off at the border is reflected into the image, and the sum is 1.

    Example:
        >>> blur_kernel(3)
        tensor([0.2502, 0.4996, 0.2502], dtype=torch.float64)
    """
    centre = size // 2
    sigma = 0.3 * (centre - 1) + 0.8
    radius = int(_TRUNCATE * sigma + 0.5)

    def weight(x: Tensor) -> Tensor:
        return torch.exp(-0.5 * (x / sigma) ** 2) * (x.abs() <= radius)

    place = torch.arange(size, dtype=torch.float64, device=device)
    kernel = weight(place - centre) + weight(place + centre + 1) + weight(place - size - centre)
    return kernel / kernel.sum()


def _blur(maps: Tensor, part: int) -> Tensor:
    """Blur (N, H, W) by a kernel of the shorter side / part, made odd, with reflected borders."""
    size = min(pixel_size(maps)) // part
    size += size % 2 == 0
    kernel, half = blur_kernel(size, maps.device).to(maps.dtype), size // 2
    padded = F.pad(maps.unsqueeze(1), (half, half, half, half), mode="reflect")
    with torch.autocast(maps.device.type, enabled=False):
        rows = F.conv2d(padded, kernel.view(1, 1, -1, 1))
        return F.conv2d(rows, kernel.view(1, 1, 1, -1)).squeeze(1)


def _extremes(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of each map, (N, 1, 1)."""
    return maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
