"""Predictions at full resolution, without gradient."""

from typing import NamedTuple

import torch
from torch import Tensor

from fpl_fast import cross_entropy, pseudo_labels
from fpl_fast.label_losses import LabelEngine
from fpl_fast.trainer.methods.consistency import Target
from fpl_fast.trainer.upsample import pixel_size

__all__ = ["Prediction", "class_confidence", "predict", "predict_target"]


class Prediction(NamedTuple):
    """Most probable class of each pixel."""

    confidence: Tensor  # (N, H, W) float32, its probability
    label: Tensor  # (N, H, W) int64


def predict(logits: Tensor, size: tuple[int, int]) -> Prediction:
    """Predict from logits (N, C, h, w) after bilinear upsampling (align_corners) to (H, W)."""
    return predict_target(Target(logits), size)


def predict_target(target: Target, size: tuple[int, int]) -> Prediction:
    """Predict from a target, mixed as it is, after bilinear upsampling (align_corners) to (H, W)."""
    found = pseudo_labels(**target._asdict(), size=size)
    return Prediction(found.confidence, found.label.long())


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
