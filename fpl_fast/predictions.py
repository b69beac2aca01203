"""A teacher's predictions from its low-resolution logits."""

import torch
from torch import Tensor

from fpl_fast import checks
from fpl_fast.engines import choice
from fpl_fast.kernels.arguments import NUMBERS, PseudoLabelOptions, PseudoLabels
from fpl_fast.label_losses import LabelEngine
from fpl_fast.ops.pseudo_labels import predicted
from fpl_fast.teacher import teacher_inputs


@torch.no_grad()
def pseudo_labels(
    teacher_logits: Tensor,
    *,
    size: tuple[int, int] | None = None,
    align_corners: bool = True,
    partner_logits: Tensor | None = None,
    mix_mask: Tensor | None = None,
    threshold: float | None = None,
    max_positives: int | None = None,
    engine: LabelEngine = "auto",
) -> PseudoLabels:
    """The most probable class of every pixel, its probability, the entropy and the number of fuzzy positives.

    With p = softmax(t) of the upsampled logits t: label = argmax p, confidence = max p, entropy = -sum_c p_c log p_c,
    and K as :func:`fuzzy_positive_loss` has it, in one pass that holds nothing of the upsampled logits' size.

    A logit of -inf is a class of probability 0. Where one is NaN or +inf, or all are -inf, confidence and entropy are
    NaN, and label and K are not defined. Deterministic, without host synchronisation and without gradient.

    Args:
        teacher_logits: (N, C, h, w), C >= 2, any strides; float16, bfloat16, float32 or float64.
        size: (H, W); logits are upsampled bilinearly to it. None: H, W = h, w.
        align_corners: Of the upsampling, as in the loss.
        partner_logits: Like ``teacher_logits``; they replace the teacher where ``mix_mask`` is True.
        mix_mask: (N, H, W) bool, given with ``partner_logits``.
        threshold: T in (0, 1], for K; None: K is not computed, which is faster.
        max_positives: Cap on K, at least 1; None for no cap.
        engine: "auto", "triton" or "eager".

    Returns:
        :class:`PseudoLabels`, a tuple of ``label``, ``confidence``, ``entropy`` and ``num_positives``. Labels fit the
        losses with labels; with more than 255 classes, these need another ``ignore_index`` than 255.

    Raises:
        ValueError: If an argument breaks a rule above; the message names the argument, the rule and the value.

    Example:
        >>> label, confidence, entropy, _ = pseudo_labels(torch.randn(2, 19, 64, 64), size=(512, 512))
        >>> label.shape, label.dtype
        (torch.Size([2, 512, 512]), torch.uint8)
    """
    checks.check_logits("teacher_logits", teacher_logits)
    if threshold is not None:
        threshold = checks.check_number("threshold", threshold, allowed=NUMBERS["threshold"])
    cap = checks.check_cap(max_positives)
    inputs = teacher_inputs(teacher_logits, partner_logits, mix_mask, None, size, align_corners)
    num_classes = teacher_logits.shape[1]
    options = PseudoLabelOptions(threshold, num_classes - 1 if cap is None else min(cap, num_classes - 1))
    return predicted(inputs, options, choice.resolve_labels(engine, inputs.teacher))
