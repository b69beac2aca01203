"""Bilinear upsampling with aligned corners, as in the papers; the trainer uses no other."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

__all__ = ["pixel_size", "upsample"]


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Upsample (N, C, h, w) to (N, C, *size) bilinearly with aligned corners, like the fused upsampling of the losses.

    Example:
        >>> upsample(torch.tensor([[[[0.0, 2.0]]]]), (1, 3))
        tensor([[[[0., 1., 2.]]]])
    """
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def pixel_size(x: Tensor) -> tuple[int, int]:
    """Height and width, the last two dimensions."""
    return x.shape[-2], x.shape[-1]
