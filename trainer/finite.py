"""Check that tensors hold no infinity and no NaN."""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["all_finite"]


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Test whether all numbers of tensors on one device are finite: 0-d bool there; nothing waits for it.

    Example:
        >>> all_finite([torch.tensor([1.0, 3e38]), torch.tensor(2)])
        tensor(True)
        >>> all_finite([torch.tensor([1.0, torch.nan])])
        tensor(False)
    """
    return torch.stack([x.isfinite().all() for x in tensors]).all()
