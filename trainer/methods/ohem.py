"""Cross entropy on the hard pixels of each image (online hard example mining)."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ohem_cross_entropy"]


def ohem_cross_entropy(
    logits: Tensor, label: Tensor, *, min_kept: int, threshold: float = 0.7, ignore_index: int = 255
) -> Tensor:
    """Mean cross entropy over the pixels whose true class has a low probability, image by image.

    With p the probability of the true class (1 where ignored), an image keeps its valid pixels with
    p <= max(threshold, the min_kept-th smallest p), or all of them when fewer than ``min_kept`` are valid.
    Source: Cross Pseudo Supervision (CVPR 2021) on Cityscapes, where each GPU held one image.

    Args:
        logits: (N, C, H, W).
        label: (N, H, W) int64.
        min_kept: Pixels kept per image at least.
        threshold: Probability below which a pixel is hard in any case.
        ignore_index: Label of pixels that are never kept.

    Returns:
        0-d, the mean over images of the mean over kept pixels; an image without a valid pixel counts as 0.
    """
    cross_entropy = F.cross_entropy(logits.float(), label, ignore_index=ignore_index, reduction="none").flatten(1)
    valid = (label != ignore_index).flatten(1)
    with torch.no_grad():
        p = (-cross_entropy).exp()  # 1 where ignored, as their cross entropy is 0
        kth_smallest = p.kthvalue(min(min_kept, p.shape[1]), dim=1, keepdim=True).values
        too_few = valid.sum(dim=1, keepdim=True) < min_kept
        kept = valid & (too_few | (p <= kth_smallest.clamp(min=threshold)))
    per_image = (cross_entropy * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
    return per_image.mean()
