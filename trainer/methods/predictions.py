"""Predictions at full resolution, computed without gradient and image by image, so that memory stays bounded."""

from typing import NamedTuple

import torch
from torch import Tensor

from fpl_fast import cross_entropy
from fpl_fast.label_losses import LabelEngine
from fpl_fast.trainer.methods.consistency import Target
from fpl_fast.trainer.upsample import pixel_size, upsample

__all__ = ["Prediction", "class_confidence", "confidence_map", "predict"]


class Prediction(NamedTuple):
    """Most probable class of each pixel."""

    confidence: Tensor  # (N, H, W) float32, its probability
    label: Tensor  # (N, H, W) int64


@torch.no_grad()
def predict(logits: Tensor, size: tuple[int, int]) -> Prediction:
    """Predict from logits (N, C, h, w) after bilinear upsampling (align_corners) to (H, W)."""
    parts = []
    for image in logits.float().split(1):
        upsampled = upsample(image, size)
        top = upsampled.max(1)
        parts.append((top.values.sub_(upsampled.logsumexp(1)).exp_(), top.indices))
    return Prediction(*(torch.cat(part) for part in zip(*parts, strict=True)))


def confidence_map(target: Target, size: tuple[int, int]) -> Tensor:
    """Highest probability of each pixel of a target, (N, H, W) float32, mixed like the target."""
    confidence = predict(target.teacher_logits, size).confidence
    if target.partner_logits is None or target.mix_mask is None:
        return confidence
    return torch.where(target.mix_mask, predict(target.partner_logits, size).confidence, confidence)


@torch.no_grad()
def class_confidence(
    logits: Tensor, label: Tensor, *, ignore_index: int = 255, engine: LabelEngine = "auto"
) -> tuple[Tensor, Tensor]:
    """Sum a network's probabilities of the true class, class by class.

    Args:
        logits: (N, C, h, w), upsampled to the labels' size bilinearly with align_corners.
        label: (N, H, W) int64.
        ignore_index: Label of pixels that do not count.
        engine: Engine of the cross entropy that gives the true class's probability.

    Returns:
        Sum of the true class's probability, and number of pixels, each (C,) float32. They are sums over masks instead
        of a scatter, and therefore deterministic on a GPU.
    """
    probability = cross_entropy(
        logits, label, ignore_index=ignore_index, size=pixel_size(label), reduction="none", engine=engine
    )
    probability = probability.neg_().exp_()
    members = [label == c for c in range(logits.shape[1])]
    total, count = torch.stack([(m * probability).sum() for m in members]), torch.stack([m.sum() for m in members])
    return total.float(), count.float()
