"""Bilinear upsampling with aligned corners: that of the papers, and all that the trainer upsamples with."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

__all__ = ["pixel_size", "upsample"]


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, h, w) bilinearly, with aligned corners, to (N, C, *size), as the losses do it within themselves.

    Example:
        >>> upsample(torch.tensor([[[[0.0, 2.0]]]]), (1, 3))
        tensor([[[[0., 1., 2.]]]])
    """
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def pixel_size(x: Tensor) -> tuple[int, int]:
    """(H, W), the last two dimensions."""
    return x.shape[-2], x.shape[-1]
