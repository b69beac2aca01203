"""Annealed bootstrapping: a supervised loss on few, uncertain pixels at first, and on ever more of them."""

import torch
from torch import Tensor, distributed

from fpl_fast import cross_entropy
from fpl_fast.label_losses import LabelEngine
from fpl_fast.trainer.methods.ramps import ramp
from fpl_fast.trainer.processes import rank_and_world_size, weight_among_processes
from fpl_fast.trainer.upsample import pixel_size

__all__ = ["annealed_cross_entropy", "annealed_threshold"]

_SHARE = 0.4  # of the run, over which the threshold rises


def annealed_threshold(progress: float, num_classes: int, end: float) -> float:
    """Compute the threshold: from 1 / C it rises by the ramp "log" over the first 40 % of the run towards ``end``."""
    start = 1 / num_classes
    return start + (end - start) * ramp("log", progress, _SHARE)


def annealed_cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    threshold: float,
    ignore_index: int = 255,
    engine: LabelEngine = "auto",
) -> Tensor:
    """Compute the cross entropy over the pixels whose true class is still improbable.

    With p the probability of the true class and B the images of the step, labelled pixels with
    p < max(threshold, the (B + 1)-th smallest p of the step) count. The order statistic is taken over the images of all
    processes. The result is weighted so that its mean over processes is the mean over all pixels that count.

    Source: Ouali et al., Semi-Supervised Semantic Segmentation with Cross-Consistency Training (CVPR 2020) and its
    public code.

    Args:
        logits: (N, C, h, w), upsampled to the labels' size bilinearly with align_corners.
        label: (N, H, W) int64.
        threshold: Of ``annealed_threshold``.
        ignore_index: Label of pixels that do not count.
        engine: Engine of the cross entropy.

    Returns:
        0-d; 0 where no pixel counts.
    """
    with torch.no_grad():
        losses = cross_entropy(
            logits.detach(),
            label,
            ignore_index=ignore_index,
            size=pixel_size(label),
            reduction="none",
            engine=engine,
        )
        # Ignored pixels come last. A sum with a tensor: inside a compiler a schedule's number stays an input that way.
        p = (-losses).exp().masked_fill(label == ignore_index, torch.inf)
        kept = p < torch.maximum(_next_smallest(p), threshold + p.new_zeros(()))
        weight = weight_among_processes(kept.sum())
    loss = cross_entropy(
        logits,
        label,
        ignore_index=ignore_index,
        pixel_weight=kept.float(),
        size=pixel_size(label),
        engine=engine,
    )
    return loss * weight


def _next_smallest(p: Tensor) -> Tensor:
    """Find the (B + 1)-th smallest number of the B images of all processes, 0-d."""
    _, world_size = rank_and_world_size()
    position = len(p) * world_size
    smallest = p.flatten().topk(min(position + 1, p.numel()), largest=False).values
    if world_size > 1:
        parts = [torch.empty_like(smallest) for _ in range(world_size)]
        distributed.all_gather(parts, smallest)
        smallest = torch.cat(parts).sort().values
    return smallest[min(position, len(smallest) - 1)]
