"""Targets of a student, and the losses that compare it with them.

Targets are passed on as whole distributions (logits). The losses upsample, mix and read them, so that the fuzzy
positive loss can replace the pseudo-label cross entropy everywhere.
"""

from functools import reduce
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

import fpl_fast
from fpl_fast import LossStats, adaptive_threshold, fuzzy_positive_loss, pseudo_label_cross_entropy
from fpl_fast.trainer.config import ConsistencyConfig, PseudoLabelConfig
from fpl_fast.trainer.processes import mean_over_processes
from fpl_fast.trainer.upsample import pixel_size

__all__ = [
    "Target",
    "balance_factor",
    "consistency_loss",
    "loss_telemetry",
    "pseudo_label_loss",
]


class Target(NamedTuple):
    """A teacher's logits of the images and, where mix_mask is True, of their partners."""

    teacher_logits: Tensor  # (N, C, h, w), without gradient
    partner_logits: Tensor | None = None  # (N, C, h, w), without gradient
    mix_mask: Tensor | None = None  # (N, H, W) bool


class AdaptiveStats(LossStats):
    """The statistics of a loss whose pixels have chosen their thresholds, and the mean of these."""

    mean_threshold: Tensor  # () over the valid pixels, 0 without any


def pseudo_label_loss(
    config: PseudoLabelConfig,
    student_logits: Tensor,
    target: Target,
    *,
    size: tuple[int, int],
    **keywords: Any,
) -> tuple[Tensor, LossStats]:
    """Compute the loss that ``config.loss`` names, "ce" or "fpl", by the engine ``config.engine``; not balanced.

    Args:
        config: Loss, engine and the numbers of the fuzzy positive loss.
        student_logits: (N, C, h, w).
        target: The teacher's logits.
        size: (H, W) of the pixels that are compared.
        keywords: Further keywords of ``fpl_fast.pseudo_label_cross_entropy``: masks, weights, reduction.

    Returns:
        The loss, 0-d, and its statistics on the device; :class:`AdaptiveStats` with ``config.threshold_candidates``.
    """
    keywords |= {**target._asdict(), "size": size, "return_stats": True, "engine": config.engine}
    if config.loss == "ce":
        result = pseudo_label_cross_entropy(student_logits, **keywords)
        return cast("tuple[Tensor, LossStats]", result)
    threshold = _pixel_thresholds(config, target, size, keywords.get("valid_mask"))
    result = fuzzy_positive_loss(
        student_logits,
        **keywords,
        threshold=config.threshold if threshold is None else threshold,
        max_positives=config.max_positives,
        weighting=config.weighting,
        convex_scale=config.convex_scale,
        form=config.form,
    )
    loss, stats = cast("tuple[Tensor, LossStats]", result)
    if threshold is not None:
        stats = AdaptiveStats(*stats)
        valid = torch.ones_like(threshold) if (mask := keywords.get("valid_mask")) is None else mask.float()
        stats.mean_threshold = (threshold * valid).sum() / valid.sum().clamp(min=1)
    return loss, stats


def _pixel_thresholds(
    config: PseudoLabelConfig, target: Target, size: tuple[int, int], valid_mask: Tensor | None
) -> Tensor | None:
    """Each pixel's choice among the candidates, (N, H, W); None where there are none."""
    if not config.threshold_candidates:
        return None
    return adaptive_threshold(
        **target._asdict(),
        thresholds=config.threshold_candidates,
        window=config.threshold_window,
        max_positives=config.max_positives,
        valid_mask=valid_mask,
        size=size,
        engine=config.engine,
    )


def balance_factor(config: PseudoLabelConfig, *stats: LossStats) -> Tensor | float:
    """Factor that rescales the fuzzy positive losses of a step, taken together, to the value of the cross entropy.

    It is sum(cross entropy) / sum(w * L) over the valid pixels of all processes, bounded as in
    ``fpl_fast.balance_factor``, 0-d without gradient. For one loss on one process it equals ``balance`` of
    ``fpl_fast.fuzzy_positive_loss``. It is 1 where ``config`` asks for no balance.

    Args:
        config: Loss and balance.
        stats: Statistics of each loss, on the device.
    """
    if config.loss != "fpl" or not config.balance:
        return 1.0
    sums = [torch.stack([s.cross_entropy, s.weighted_loss]) * s.num_valid for s in stats]
    cross_entropy, weighted = mean_over_processes(torch.stack(sums).sum(0))
    return fpl_fast.balance_factor(cross_entropy, weighted)


def consistency_loss(
    config: ConsistencyConfig, student_logits: Tensor, target: Target, valid: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss that ``config.loss`` names, "mse", "ce" or "fpl", a mean over pixels, and its telemetry.

    "mse" is the squared difference of probabilities, summed over classes.

    Args:
        config: The method's settings; ``ignore_padding`` decides which pixels count, ``divide_by_all`` whether the sum
            is still divided by all pixels.
        student_logits: (N, C, h, w).
        target: The teacher's logits.
        valid: (N, H, W) bool, False on padding.
    """
    size, valid_mask = pixel_size(valid), valid if config.ignore_padding else None
    part = valid.float().mean() if config.ignore_padding and config.divide_by_all else 1.0
    if config.loss == "mse":
        loss = fpl_fast.consistency_loss(
            student_logits,
            **target._asdict(),
            kind="mse",
            size=size,
            valid_mask=valid_mask,
            engine=config.engine,
        )
        return loss * part, {}
    loss, stats = pseudo_label_loss(config, student_logits, target, size=size, valid_mask=valid_mask)
    return loss * balance_factor(config, stats) * part, loss_telemetry(stats)


def loss_telemetry(*stats: LossStats) -> dict[str, Tensor]:
    """Telemetry of one or more pseudo-label losses, taken together."""
    cross_entropy = reduce(torch.add, [s.cross_entropy for s in stats])
    chosen = [s.mean_threshold for s in stats if isinstance(s, AdaptiveStats)]
    return {
        "mean_positives": reduce(torch.add, [s.mean_positives for s in stats]) / len(stats),
        "fpl_ce_ratio": cross_entropy / reduce(torch.add, [s.unweighted_loss for s in stats]),
        **({"mean_threshold": reduce(torch.add, chosen) / len(chosen)} if chosen else {}),
    }
