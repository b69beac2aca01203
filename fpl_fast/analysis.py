"""Positive gradient score: a comparison, pixel by pixel, of how strongly two losses raise the true class."""

from typing import NamedTuple

import torch
from torch import Tensor

from fpl_fast import checks
from fpl_fast.reference import accumulate_dtype, assign_positives
from fpl_fast.valid_labels import comparable, is_labelled


class PositiveGradientScore(NamedTuple):
    """Scores of every pixel, (N, H, W); NaN (and case 0) where the target is ``ignore_index``."""

    vanilla: Tensor  # R of the pseudo-label cross entropy, in [-1, 1]
    fuzzy: Tensor  # R of the fuzzy positive loss, in [-1, 1]
    case: Tensor  # uint8: 1 the pseudo-label is right, 2 the truth is another positive, 3 the truth is no positive


@torch.no_grad()
def positive_gradient_score(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    threshold: float | Tensor = 0.9,
    max_positives: int | None = None,
    ignore_index: int = 255,
) -> PositiveGradientScore:
    """Compute R = (dL/dz_gt) / sum_{i in Y} dL/dz_i, the share of the positives' push that the true class gets.

    R > 0 where the loss raises the true class, R < 0 where it lowers it. Three cases, by the truth gt:

        case 1, gt = argmax t:          R_vanilla = 1,                     R_fuzzy = exp(-z_gt) / sum_Y exp(-z_i)
        case 2, gt in Y, not argmax t:  R_vanilla = p_gt / (p_pse - 1),    R_fuzzy = exp(-z_gt) / sum_Y exp(-z_i)
        case 3, gt not in Y:            R_vanilla = p_gt / (p_pse - 1),    R_fuzzy = -exp(z_gt) / sum_{not Y} exp(z_j)

    with p the student's softmax and pse = argmax t. The fuzzy loss wins in case 2 and can only lose in 1 and 3.
    Looks at the labels before it computes: of all functions here, this one alone waits for the device.
    Source: the justification analysis of Fuzzy Positive Learning (CVPR 2023).

    Args:
        student_logits: (N, C, H, W) floating point, C >= 2.
        teacher_logits: (N, C, H, W).
        target: (N, H, W) uint8, int32 or int64 true classes in [0, C), or ``ignore_index``.
        threshold: T in (0, 1], or a tensor of each pixel's as in :func:`fpl_fast.fuzzy_positive_loss`.
        max_positives: Cap on K, at least 1; None for no cap.
        ignore_index: Target value of pixels without truth.

    Returns:
        :class:`PositiveGradientScore`.

    Raises:
        ValueError: If an argument breaks a rule above.

    Example:
        >>> z, t = torch.randn(1, 5, 4, 4), torch.randn(1, 5, 4, 4)
        >>> score = positive_gradient_score(z, t, t.argmax(1))
        >>> bool((score.vanilla == 1).all())
        True
    """
    checks.check_logits("student_logits", student_logits)
    checks.check_same_shape("teacher_logits", teacher_logits, "student_logits", student_logits)
    checked = checks.check_options(checks.LOSS_RULES, threshold=threshold, max_positives=max_positives)
    n, num_classes, h, w = student_logits.shape
    checks.check_pixel_threshold(threshold, (n, h, w), student_logits.device)
    checks.check_target(target, (n, h, w), student_logits.device)
    target, ignore_index = comparable(target, checks.check_ignore_index(ignore_index))
    known = is_labelled(target, ignore_index)
    truth = target.long().where(known, 0)
    outside = (truth < 0) | (truth >= num_classes)
    if bool(outside.any()):
        raise ValueError(
            f"target must lie in [0, {num_classes}) or be ignore_index={ignore_index}, got {int(truth[outside][0])}"
        )

    z = student_logits.to(accumulate_dtype(student_logits, teacher_logits))
    cap = num_classes if checked["max_positives"] is None else checked["max_positives"]
    fuzzy = assign_positives(teacher_logits, checked["threshold"], cap)
    vanilla = assign_positives(teacher_logits, checked["threshold"], 1)
    is_positive = fuzzy.positives.gather(1, truth.unsqueeze(1)).squeeze(1)
    case = torch.where(truth == fuzzy.pseudo_label, 1, torch.where(is_positive, 2, 3))
    nan = float("nan")
    return PositiveGradientScore(
        vanilla=_score(z, vanilla.positives, truth).where(known, nan),
        fuzzy=_score(z, fuzzy.positives, truth).where(known, nan),
        case=case.where(known, 0).to(torch.uint8),
    )


def _score(z: Tensor, positives: Tensor, truth: Tensor) -> Tensor:
    """Compute R from log-domain shares: a quotient of gradients would be 0 / 0 where the student is sure."""
    share_up = (-z).masked_fill(~positives, float("-inf")).softmax(1)
    share_down = z.masked_fill(positives, float("-inf")).softmax(1)
    return torch.where(positives, share_up, -share_down).gather(1, truth.unsqueeze(1)).squeeze(1)
