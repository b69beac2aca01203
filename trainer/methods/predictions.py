"""What networks predict at full resolution, read without gradient and image by image, so that memory stays bounded."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fpl_fast.trainer.methods.consistency import Target

__all__ = ["Prediction", "class_confidence", "confidence_map", "predict"]


class Prediction(NamedTuple):
    """The most probable class of each pixel."""

    confidence: Tensor  # (N, H, W) float32, its probability
    label: Tensor  # (N, H, W) int64


@torch.no_grad()
def predict(logits: Tensor, size: tuple[int, int]) -> Prediction:
    """The prediction after bilinear upsampling (align_corners) to (H, W) of logits (N, C, h, w)."""
    parts = []
    for image in logits.float().split(1):
        upsampled = _upsample(image, size)
        top = upsampled.max(1)
        parts.append((top.values.sub_(upsampled.logsumexp(1)).exp_(), top.indices))
    return Prediction(*(torch.cat(part) for part in zip(*parts, strict=True)))


def confidence_map(target: Target, size: tuple[int, int]) -> Tensor:
    """(N, H, W) float32: the highest probability of each pixel of a target, mixed as the target is."""
    confidence = predict(target.teacher_logits, size).confidence
    if target.partner_logits is None:
        return confidence
    return torch.where(target.mix_mask, predict(target.partner_logits, size).confidence, confidence)


@torch.no_grad()
def class_confidence(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """How sure a network is of the true class, class by class.

    Args:
        logits: (N, C, h, w), upsampled to the labels' size bilinearly with align_corners.
        label: (N, H, W) int64; values outside 0 ... C - 1 are ignored.

    Returns:
        Sum of the true class's probability, and number of pixels, each (C,) float32. Sums over rows instead of a
        scatter: deterministic on a GPU.
    """
    num_classes = logits.shape[1]
    classes = torch.arange(num_classes, device=logits.device).unsqueeze(1)
    total, count = logits.new_zeros(2, num_classes, dtype=torch.float32)
    for image, truth in zip(logits.float().split(1), label.flatten(1), strict=True):
        known = truth.clamp(0, num_classes - 1)
        log_probability = _upsample(image, label.shape[-2:]).log_softmax(1).flatten(2)[0]
        probability = log_probability.gather(0, known.unsqueeze(0))[0].exp_()
        members = (classes == truth).float()
        total += (members * probability).sum(1)
        count += members.sum(1)
    return total, count


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=True)
