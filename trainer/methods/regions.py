"""A confidence threshold that follows the network, and labels of whole regions, all on the device (CorrMatch)."""

import torch
from torch import Tensor, distributed

from fpl_fast.trainer.methods.predictions import Prediction
from fpl_fast.trainer.processes import rank_and_world_size

__all__ = ["moved_threshold", "relabelled"]


@torch.no_grad()
def moved_threshold(
    threshold: Tensor, predicted: Prediction, counted: Tensor, num_classes: int, momentum: float
) -> Tensor:
    """Move a threshold towards the mean, over the predicted classes, of the highest confidence.

    Args:
        threshold: 0-d float32.
        predicted: Label and confidence of each pixel of this process's images; all processes count together.
        counted: (N, H, W) bool, the pixels that count.
        num_classes: C.
        momentum: Share of the threshold that stays; all of it where no pixel counts.

    Returns:
        0-d float32, the same in all processes.
    """
    confidence = predicted.confidence.float().masked_fill(~counted, -1).flatten()
    highest = torch.full((num_classes,), -1.0, device=confidence.device)
    # A maximum does not depend on the order of the writes.
    highest = highest.scatter_reduce(0, predicted.label.flatten(), confidence, "amax")
    if rank_and_world_size()[1] > 1:
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
    present = highest >= 0
    mean = highest.clamp(min=0).sum() / present.sum().clamp(min=1)
    return torch.where(present.any(), momentum * threshold + (1 - momentum) * mean, threshold)


@torch.no_grad()
def relabelled(
    label: Tensor, confident: Tensor, regions: Tensor, threshold: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Give whole regions the label of their confident majority.

    A region is relabelled if at least a share ``threshold`` of its pixels is confident, and one class has more than a
    share ``threshold`` of the confident ones. Regions follow one another: later ones see the labels that earlier ones
    wrote. Of classes with equally many pixels the lowest wins. The host waits for nothing.

    Args:
        label: (N, H, W) int64.
        confident: (N, H, W) bool; it stays as it is while regions are relabelled.
        regions: (N, R, H, W) bool.
        threshold: 0-d.
        num_classes: C.

    Returns:
        The labels, (N, H, W) int64, and the pixels of relabelled regions, (N, H, W) bool.
    """
    classes = torch.arange(num_classes, dtype=torch.int16, device=label.device).view(-1, 1)
    short, changed = label.to(torch.int16), torch.zeros_like(confident)
    for region in regions.unbind(1):
        sure = short.masked_fill(~(region & confident), -1).flatten(1)
        counts = (sure.unsqueeze(1) == classes).sum(2, dtype=torch.int32)
        most, total = counts.max(1), counts.sum(1)
        agrees = (total / region.sum((1, 2)) >= threshold) & (most.values / total > threshold) & (total > 0)
        region = region & agrees.view(-1, 1, 1)
        short = torch.where(region, most.indices.view(-1, 1, 1).to(torch.int16), short)
        changed = changed | region
    return short.long(), changed
