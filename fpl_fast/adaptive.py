"""A threshold for every pixel, chosen by its neighbours: Adaptive Fuzzy Positive Learning (A-FPL)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fpl_fast import checks
from fpl_fast.functional import Engine
from fpl_fast.kernels.arguments import ContextOptions
from fpl_fast.ops.adaptive_threshold import chosen_thresholds
from fpl_fast.teacher import teacher_inputs


@torch.no_grad()
def adaptive_threshold(
    teacher_logits: Tensor,
    thresholds: Sequence[float] = (0.84, 0.89, 0.94, 0.99),
    window: int = 5,
    *,
    max_positives: int | None = None,
    valid_mask: Tensor | None = None,
    size: tuple[int, int] | None = None,
    align_corners: bool = True,
    partner_logits: Tensor | None = None,
    mix_mask: Tensor | None = None,
    engine: Engine = "auto",
) -> Tensor:
    r"""The threshold of each pixel whose fuzzy positives agree best with those of its neighbours.

    For each candidate T_m, :func:`fuzzy_positive_loss` would give a pixel the K_m positives y_m. With B_m(c) the number
    of pixels in the window around it, without the pixel itself, that have class c among their positives,

        b_m(c) = eps + B_m(c) / sum_c B_m(c),   d_m(c) = eps + y_m(c) / K_m,   eps = 1e-6,
        D_m = sum_c b_m(c) (log b_m(c) - log d_m(c)),

    the pixel's threshold is that of the least D_m, the first one among equals. Given to the loss as ``threshold``, with
    the same ``max_positives``, it yields the positives y_m and, with ``weighting``, the weight at K_m: nothing else is
    needed. With a single candidate the loss is that of FPL.

    Source: "Adaptive Fuzzy Positive Learning for Annotation-Scarce Semantic Segmentation", IJCV 2024. Its public code
    takes the candidates (0.84, 0.89, 0.94, 0.99), a window of 5, at most 4 positives and the concave weighting.

    Pixels outside the image and those that ``valid_mask`` excludes are no neighbours. A pixel without a neighbour (such
    as an image of 1 x 1) and one that is excluded itself have the first threshold. Where logits are not finite, the
    choice of the pixels around is not defined.

    The terms of D_m are rounded to multiples of 2^-26 and added as integers: engines choose the same wherever they find
    the same positives, and divergences that are equal, such as 0 amid a region of one label, count as equal.
    Deterministic, without host synchronisation and without gradient.

    Args:
        teacher_logits: (N, C, h, w), C >= 2, any strides; float16, bfloat16, float32 or float64.
        thresholds: T_1 < ... < T_M in (0, 1].
        window: Side of the window, odd, 3 to 15.
        max_positives: Cap on K, at least 1; None for no cap. That of the loss.
        valid_mask: (N, H, W) bool; False excludes a pixel, whatever its logits hold.
        size: (H, W); logits are upsampled bilinearly to it. None: H, W = h, w.
        align_corners: Of the upsampling, as in the loss.
        partner_logits: Like ``teacher_logits``; they replace the teacher where ``mix_mask`` is True.
        mix_mask: (N, H, W) bool, given with ``partner_logits``.
        engine: "auto", "triton", "compiled" or "eager", as in the loss. Triton takes at most 256 classes, 4 thresholds
            and a cap of at most 4 (or at most 5 classes), "compiled" at most 32 classes, 4 thresholds and a product
            of cap and window that is not too large; "auto" takes "eager" for more.

    Returns:
        (N, H, W) float32.

    Raises:
        ValueError: If an argument breaks a rule above; the message names the argument, the rule and the value.

    Example:
        >>> student, teacher = torch.randn(2, 19, 64, 64), torch.randn(2, 19, 64, 64)
        >>> threshold = adaptive_threshold(teacher, (0.84, 0.89, 0.94, 0.99), max_positives=4)
        >>> loss = fuzzy_positive_loss(student, teacher, threshold=threshold, max_positives=4, weighting="concave")
    """
    checks.check_logits("teacher_logits", teacher_logits)
    candidates = checks.check_thresholds("thresholds", thresholds)
    window, cap = checks.check_window("window", window), checks.check_cap(max_positives)
    checks.check_options(checks.LOSS_RULES, engine=engine)
    inputs = teacher_inputs(teacher_logits, partner_logits, mix_mask, valid_mask, size, align_corners)
    if len(candidates) == 1:  # nothing to choose, nothing to compile
        return torch.full(inputs.pixels(), candidates[0], dtype=torch.float32, device=teacher_logits.device)
    num_classes = teacher_logits.shape[1]
    options = ContextOptions(candidates, window, num_classes - 1 if cap is None else min(cap, num_classes - 1))
    return chosen_thresholds(inputs, options, engine)
