"""Labels and ``ignore_index``: which pixels of a label map count."""

import torch
from torch import Tensor


def comparable(target: Tensor, ignore_index: int) -> tuple[Tensor, int]:
    """Convert labels and ``ignore_index`` to values that every engine can compare.

    A comparison in the labels' dtype wraps: as uint8, 300 equals 44, and as int32, 2^32 equals 0. A value outside that
    dtype ignores nothing.
    """
    limits = torch.iinfo(target.dtype)
    if limits.min <= ignore_index <= limits.max:
        return target, ignore_index
    # Engines widen uint8 to int32, where no label is -1. Any int32 may be an int32 label, so these compare as int64.
    return (target, -1) if target.dtype == torch.uint8 else (target.long(), ignore_index)


def is_labelled(target: Tensor, ignore_index: int) -> Tensor:
    """Mask of the pixels whose label is not ``ignore_index``; the two must be :func:`comparable`."""
    return (target.to(torch.int32) if target.dtype == torch.uint8 else target) != ignore_index
