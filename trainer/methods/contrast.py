"""Contrastive loss of U2PL: anchors of a class against its mean feature and against keys that are unlike it.

Source: Wang et al., Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels (CVPR 2022).
Shapes: M pixels of this process, labelled images first, C classes, D channels, Q anchors and K keys an anchor.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fpl_fast.trainer.methods.key_bank import KeyBank
from fpl_fast.trainer.methods.selection import Selection, sum_over_processes
from fpl_fast.trainer.processes import rank_and_world_size

__all__ = ["Pixels", "contrastive_loss", "push_keys"]

_LOW_RANK, _HIGH_RANK = 3, 20  # of a class among a pixel's predictions
_TEMPERATURE = 0.5


class Pixels(NamedTuple):
    """Pixels of a step as the teacher sees them, at the resolution of the features."""

    label: Tensor  # (C, M) bool, whether each carries the label of each class, given or predicted
    probability: Tensor  # (M, C)
    feature: Tensor  # (M, D)
    reliable: Tensor  # (M,) bool; all labelled pixels
    unreliable: Tensor  # (M,) bool; all labelled pixels
    num_labelled: int  # pixels of labelled images, which come first

    @property
    def members(self) -> Tensor:
        """Reliable pixels of each class, (C, M) bool."""
        return self.label & self.reliable


def push_keys(bank: KeyBank, pixels: Pixels, lot: Tensor, *, published: bool = False) -> Tensor:
    """Add the features of pixels that are unlike each class to its bank.

    Unlike c are labelled pixels of other classes with c among the three most probable, and unreliable unlabelled pixels
    at which c ranks fourth to twentieth. All are added if there are at most K; otherwise one of each K-th part of them.

    Args:
        bank: Bank to add to.
        pixels: Pixels of the step.
        lot: (C, K) in [0, 1), random, equal in all processes.
        published: Whether such a pixel must also carry the label c, as in the public code by mistake.

    Returns:
        (C,) int64, pixels that are unlike each class.
    """
    rank = pixels.probability.argsort(dim=1, descending=True, stable=True).argsort(dim=1).T
    labelled = torch.arange(rank.shape[1], device=rank.device) < pixels.num_labelled
    confused = ~pixels.label & (rank < _LOW_RANK)
    unlikely = (rank >= _LOW_RANK) & (rank < _HIGH_RANK)
    unlike = torch.where(labelled, confused, unlikely) & pixels.unreliable
    if published:
        unlike = unlike & pixels.label
    selection = Selection(unlike, pixels.num_labelled)
    total, most = selection.total.unsqueeze(1), lot.shape[1]
    place = torch.arange(most, device=lot.device)
    wanted = torch.where(total <= most, place, ((place + lot.double()) * total / most).long())
    index, here = selection.find(wanted)
    keys = sum_over_processes(pixels.feature[index].float() * here.unsqueeze(-1))  # one process has each, others 0
    bank.push(keys, selection.total)
    return selection.total


def contrastive_loss(
    feature: Tensor,
    pixels: Pixels,
    bank: KeyBank,
    anchor_lot: Tensor,
    key_lot: Tensor,
    *,
    threshold: float,
    published: bool = False,
) -> Tensor:
    """Compute the loss of the student's features: InfoNCE on cosines / 0.5, a mean over the classes that are present.

    Anchors of a class are drawn among its reliable pixels with a probability above the threshold; the positive is the
    mean of the teacher's features of all its reliable pixels; the keys are drawn from its bank. All draws are with
    replacement. A class without anchors or keys adds 0, and so do all if fewer than two classes are present.

    Args:
        feature: (M, D), the student's.
        pixels: Pixels of the step.
        bank: Keys, equal in all processes.
        anchor_lot: (C, Q) in [0, 1), random, equal in all processes.
        key_lot: (C, Q, K), as ``anchor_lot``.
        threshold: Probability that an anchor's class must exceed.
        published: Whether the i-th of the classes that are present is compared by features of class i with keys of
            itself, as in the public code by mistake: a wrong index.

    Returns:
        0-d; its mean over processes is the loss of all anchors.
    """
    members = pixels.members
    sums = torch.cat([members.float() @ pixels.feature.float(), members.sum(1, keepdim=True).float()], dim=1)
    sums = sum_over_processes(sums)
    count, positive = sums[:, -1], sums[:, :-1] / sums[:, -1:].clamp(min=1)
    present = count > 0
    anchors = Selection(members & pixels.probability.T.gt(threshold), pixels.num_labelled)
    queue = torch.arange(len(present), device=present.device)
    active = present
    if published:
        active, queue = queue < present.sum(), (~present).long().argsort(dim=0, stable=True)
    length = bank.length[queue]
    active = active & (anchors.total > 0) & (length > 0) & (present.sum() > 1)

    index, here = anchors.find(_ordinal(anchor_lot, anchors.total))
    with torch.no_grad():
        drawn = bank.take(queue, _ordinal(key_lot, length))
        others = torch.cat([positive[:, None, None].expand(*drawn.shape[:2], 1, -1), drawn], dim=2)
        others = F.normalize(others, dim=-1)
    anchor = F.normalize(feature[index].float(), dim=-1)
    cosines = torch.einsum("cqd,cqkd->cqk", anchor, others)
    losses = -(cosines / _TEMPERATURE).log_softmax(-1)[..., 0]
    counted = here & active.unsqueeze(1)
    total = losses.masked_fill(~counted, 0).sum() / anchor_lot.shape[1]
    return total * rank_and_world_size()[1] / present.sum().clamp(min=1)


def _ordinal(lot: Tensor, total: Tensor) -> Tensor:
    """Numbers from 0 to total - 1, (C, ...), from random ones in [0, 1)."""
    total = total.view(-1, *[1] * (lot.ndim - 1))
    return torch.minimum((lot.double() * total).long(), (total - 1).clamp(min=0))
