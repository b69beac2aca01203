"""The losses as functions. Shapes: N images, C classes, h x w logits, H x W pixels of the loss."""

from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

import torch
from torch import Tensor

from fpl_fast import checks
from fpl_fast.kernels.arguments import NUMBERS, Form, LossOptions, Weighting
from fpl_fast.kernels.statistics import STATISTICS
from fpl_fast.ops.finish import balance_factor
from fpl_fast.ops.fuzzy_positive import loss_and_statistics, pixel_losses
from fpl_fast.ops.gradient import refuse_transforms
from fpl_fast.reference import accumulate_dtype, assign_positives
from fpl_fast.teacher import loss_inputs

Reduction = Literal["none", "sum", "mean", "weighted_mean"]
Engine = Literal["auto", "triton", "compiled", "eager"]

_HISTOGRAM = STATISTICS.index("one_positive"), 4  # first place and length


class LossStats(NamedTuple):
    """Statistics of a loss for a training log, from the same pass: tensors without gradient, never synchronised."""

    num_valid: Tensor  # () valid pixels
    valid_share: Tensor  # () valid pixels as a share of all
    selected_share: Tensor  # () share of the valid pixels at or above ``confidence_threshold``
    mean_positives: Tensor  # () mean of K over the valid pixels
    positives_histogram: Tensor  # (4,) shares of the valid pixels with K = 1, 2, 3 and more
    mean_confidence: Tensor  # () the teacher's largest probability, mean over the valid pixels
    cross_entropy: Tensor  # () plain cross entropy with the teacher's most probable class, mean over the valid pixels
    unweighted_loss: Tensor  # () L, mean over the valid pixels
    weighted_loss: Tensor  # () w * L, mean over the valid pixels, without ``pixel_weight`` and confidence
    weight_sum: Tensor  # () sum of b over the valid pixels: the divisor of "weighted_mean"


class PseudoLabelOptions(TypedDict, total=False):
    """The options of :func:`pseudo_label_cross_entropy`, for typing code that passes them on."""

    size: tuple[int, int] | None
    align_corners: bool
    confidence_threshold: float
    confidence_power: float
    reduction: Reduction
    engine: Engine


class FuzzyPositiveOptions(PseudoLabelOptions, total=False):
    """The options of :func:`fuzzy_positive_loss`, but for ``return_stats``."""

    threshold: float | Tensor
    max_positives: int | None
    weighting: Weighting
    convex_scale: float
    balance: bool
    form: Form


class LossKeywords(FuzzyPositiveOptions, total=False):
    """The keywords of :func:`fuzzy_positive_loss`: its options, and the tensors of a call."""

    pixel_weight: Tensor | None
    valid_mask: Tensor | None
    partner_logits: Tensor | None
    mix_mask: Tensor | None


@overload
def fuzzy_positive_loss(student_logits: Tensor, teacher_logits: Tensor, **keywords: Unpack[LossKeywords]) -> Tensor: ...


@overload
def fuzzy_positive_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, return_stats: Literal[True], **keywords: Unpack[LossKeywords]
) -> tuple[Tensor, LossStats]: ...


@overload
def fuzzy_positive_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, return_stats: bool, **keywords: Unpack[LossKeywords]
) -> Tensor | tuple[Tensor, LossStats]: ...


def fuzzy_positive_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    threshold: float | Tensor = 0.9,
    max_positives: int | None = None,
    weighting: Weighting = "none",
    convex_scale: float = 1.0,
    pixel_weight: Tensor | None = None,
    valid_mask: Tensor | None = None,
    size: tuple[int, int] | None = None,
    align_corners: bool = True,
    partner_logits: Tensor | None = None,
    mix_mask: Tensor | None = None,
    confidence_threshold: float = 0.0,
    confidence_power: float = 0.0,
    balance: bool = False,
    form: Form = "smooth",
    reduction: Reduction = "mean",
    return_stats: bool = False,
    engine: Engine = "auto",
) -> Tensor | tuple[Tensor, LossStats]:
    r"""Fuzzy positive loss of a student's logits under a teacher's.

    The teacher's probabilities q = softmax(t), sorted p_1 >= p_2 >= ..., choose each pixel's fuzzy positives Y: the K
    most probable classes, K = min(max(n - 1, 1), C - 1, max_positives) with n = min{n : p_1 + ... + p_n >= threshold}.
    The student's logits z of all positives are then pushed above all others:

        smooth: L = log(1 + sum_{i in Y} exp(-z_i) * sum_{j not in Y} exp(z_j))
        hinge:  L = max(0, max_{j not in Y} z_j - min_{i in Y} z_i)

    With K = 1 the smooth form is the cross entropy with the pseudo-label argmax t. A pixel contributes g * b * w * L:
    w is the weight below; with q = p_1, b = pixel_weight * q ** confidence_power and g = [q >= confidence_threshold],
    which are 1 unless asked for. With m = (p_1 + ... + p_{K+1}) / (K + 1) and r = p_{K+1},

        linear: (m - r) / m,   convex: (m - r) / (m + convex_scale * r),   concave: log(1 + 50(m - r)) / log(1 + 50 m).

    Source: Fuzzy Positive Learning for Semi-supervised Semantic Segmentation, CVPR 2023. The public code caps K at 3
    (``max_positives=3``); the paper's rule has no cap.

    A gate at or above ``threshold`` turns the loss into a plain cross entropy: where p_1 >= confidence_threshold >=
    threshold, n = 1 and K = 1. A warning says so once. Gates of FixMatch-like methods (0.95) belong to
    :func:`pseudo_label_cross_entropy`; here, leave the gate out (the fuzzy positives stand in for it), or set it below
    ``threshold``.

    So do two classes, of which one is no positive. A warning says so, too.

    Accumulates in float32 (float64 for float64 logits), deterministically, without host synchronisation. No gradient
    flows into the teacher, the weights or the balance. Double backward, forward mode and ``torch.func.grad`` raise an
    error. Equal teacher logits are ranked by class index, lower first. With ``size``, nothing of the upsampled logits'
    size is held: interpolation and its adjoint are part of the pass. Numbers may follow a schedule inside
    ``torch.compile``.

    Args:
        student_logits: (N, C, h, w), C >= 2, any strides; float16, bfloat16, float32 or float64. Never written to.
        teacher_logits: Like ``student_logits``; the dtype and the strides may differ. Raw logits: of probabilities, the
            softmax would be taken once more (not checked: that would synchronise). ``p.log()`` turns probabilities p
            into logits. For integer labels there is :func:`cross_entropy`.
        threshold: T in (0, 1], the cumulative probability at which a pixel's positives stop; or each
            pixel's own, a float32 tensor (N, H, W) without gradient. Its values are not checked (that would
            synchronise): up to 0 and for NaN a pixel has one positive, above 1 as many as the cap allows.
            :func:`adaptive_threshold` chooses it.
        max_positives: Cap on K, at least 1; None, the paper's rule, for no cap. The trainer's methods cap K at 3
            (``method.max_positives``), as the code that made the published tables does.
        weighting: Confidence weight w: "none" (w = 1), "linear", "convex" or "concave".
        convex_scale: Factor of r in "convex": 1 in the paper's CPS experiments, 4 in its AEL experiments.
        pixel_weight: (N, H, W) floating point, non-negative (not checked: that would synchronise); None for 1.
        valid_mask: (N, H, W) bool; False excludes a pixel from loss, gradient and every mean, whatever its logits hold.
        size: (H, W); all logits are upsampled bilinearly to it. None: H, W = h, w.
        align_corners: As in :func:`torch.nn.functional.interpolate`, for ``size``. The default is True, as in the
            published methods; the default of PyTorch's function is False.
        partner_logits: Like ``teacher_logits``; for CutMix, they replace the teacher where ``mix_mask`` is True.
        mix_mask: (N, H, W) bool, given with ``partner_logits``.
        confidence_threshold: In [0, 1]; pixels whose teacher is less confident contribute no loss, but count in "mean".
        confidence_power: At least 0; the teacher's confidence to this power is a factor of a pixel's loss.
        balance: Rescale the loss to the value of the plain pseudo-label cross entropy: multiply it by
            min(sum(cross entropy) / sum(w * L), 1000) over the valid pixels, a number without gradient.
            ``pixel_weight`` and the confidence stay out of the ratio, as in the public code. The factor is 1 where
            sum(w * L) is 0; :func:`balance_factor` gives the reason for the bound. The trainer's methods balance by
            default (``method.balance``).
        form: "smooth" or "hinge".
        reduction: "none" gives (N, H, W), zero where not valid; "sum"; "mean" divides the sum by the number of valid
            pixels, "weighted_mean" by the sum of b over them. With nothing to divide by the loss is 0.
        return_stats: Also return :class:`LossStats`.
        engine: "auto", "triton", "compiled" or "eager" (see :mod:`fpl_fast.engines`).

    Returns:
        The loss, float32 (float64 for float64 logits): 0-d, or (N, H, W) with ``reduction="none"``; with
        ``return_stats`` a pair of the loss and :class:`LossStats`.

    Raises:
        ValueError: If an argument breaks a rule above; the message names the argument, the rule and the value.

    Example:
        >>> student = torch.randn(2, 19, 64, 64, requires_grad=True)
        >>> teacher = torch.randn(2, 19, 64, 64)
        >>> fuzzy_positive_loss(student, teacher, threshold=0.9, weighting="concave").backward()
        >>> student.grad.shape
        torch.Size([2, 19, 64, 64])
    """
    checks.check_logits("student_logits", student_logits)
    checks.check_same_shape("teacher_logits", teacher_logits, "student_logits", student_logits)
    options = _loss_options(
        student_logits.shape[1],
        threshold=_of_no_pixel(threshold) if isinstance(threshold, Tensor) else threshold,
        max_positives=max_positives,
        weighting=weighting,
        convex_scale=convex_scale,
        form=form,
        confidence_threshold=confidence_threshold,
        confidence_power=confidence_power,
        reduction=reduction,
        engine=engine,
        align_corners=align_corners,
        balance=balance,
        return_stats=return_stats,
    )
    inputs = loss_inputs(
        student_logits,
        teacher_logits,
        partner_logits=partner_logits,
        mix_mask=mix_mask,
        pixel_weight=pixel_weight,
        valid_mask=valid_mask,
        size=size,
        align_corners=align_corners,
    )
    of_pixels = checks.check_pixel_threshold(threshold, inputs.pixels(), student_logits.device)
    if of_pixels is not None:
        inputs = inputs._replace(threshold=of_pixels.detach().to(accumulate_dtype(student_logits, inputs.teacher)))
    refuse_transforms(student_logits)
    if student_logits.shape[1] == 2 and max_positives != 1 and not torch.compiler.is_compiling():
        checks.warn_of_two_classes()
    if reduction != "none":
        loss, statistics = loss_and_statistics(
            inputs, options, engine, reduction=reduction, balance=balance, with_stats=return_stats
        )
    else:
        loss, statistics = pixel_losses(inputs, options, engine), None
        if balance or return_stats:
            inputs = inputs._replace(student=student_logits.detach())
            _, statistics = loss_and_statistics(
                inputs, options, engine, reduction="sum", balance=False, with_stats=True
            )
        if balance and statistics is not None:
            named = dict(zip(STATISTICS, statistics.unbind(), strict=True))
            loss = loss * balance_factor(named["cross_entropy"], named["weighted_loss"])
    if not return_stats:
        return loss
    assert statistics is not None
    return loss, _stats(statistics)


def pseudo_label_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    pixel_weight: Tensor | None = None,
    valid_mask: Tensor | None = None,
    size: tuple[int, int] | None = None,
    align_corners: bool = True,
    partner_logits: Tensor | None = None,
    mix_mask: Tensor | None = None,
    confidence_threshold: float = 0.0,
    confidence_power: float = 0.0,
    reduction: Reduction = "mean",
    return_stats: bool = False,
    engine: Engine = "auto",
) -> Tensor | tuple[Tensor, LossStats]:
    """Cross entropy of the student with the teacher's most probable class: the fuzzy positive loss at K = 1.

    L = -log softmax(z)[argmax t]. Equal teacher logits give the lower class. This is the loss of Cross Pseudo
    Supervision (CVPR 2021), through the same engines; arguments, result and errors as in :func:`fuzzy_positive_loss`.
    ``confidence_threshold`` is the gate of FixMatch-like methods, and ``confidence_power=2`` with
    ``reduction="weighted_mean"`` the re-weighting of Adaptive Equalization Learning (NeurIPS 2021).

    Example:
        >>> student, teacher = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
        >>> expected = torch.nn.functional.cross_entropy(student, teacher.argmax(1))
        >>> torch.allclose(pseudo_label_cross_entropy(student, teacher), expected)
        True
    """
    return fuzzy_positive_loss(
        student_logits,
        teacher_logits,
        max_positives=1,
        pixel_weight=pixel_weight,
        valid_mask=valid_mask,
        size=size,
        align_corners=align_corners,
        partner_logits=partner_logits,
        mix_mask=mix_mask,
        confidence_threshold=confidence_threshold,
        confidence_power=confidence_power,
        reduction=reduction,
        return_stats=return_stats,
        engine=engine,
    )


@torch.no_grad()
def fuzzy_positive_assignment(
    teacher_logits: Tensor, *, threshold: float | Tensor = 0.9, max_positives: int | None = None
) -> tuple[Tensor, Tensor]:
    """The fuzzy positives themselves, for analysis and pictures.

    Args:
        teacher_logits: (N, C, H, W) floating point, C >= 2.
        threshold: T in (0, 1], or a tensor of each pixel's as in :func:`fuzzy_positive_loss`.
        max_positives: Cap on K, at least 1; None for no cap.

    Returns:
        K, (N, H, W) int64, and the set Y, (N, C, H, W) bool.

    Raises:
        ValueError: If an argument breaks a rule above.

    Example:
        >>> teacher = torch.tensor([0.5, 0.3, 0.15, 0.03, 0.02]).log().view(1, 5, 1, 1)
        >>> fuzzy_positive_assignment(teacher, threshold=0.9)[0].item()
        2
    """
    checks.check_logits("teacher_logits", teacher_logits)
    checked = checks.check_options(checks.LOSS_RULES, threshold=threshold, max_positives=max_positives)
    n, _, h, w = teacher_logits.shape
    checks.check_pixel_threshold(threshold, (n, h, w), teacher_logits.device)
    cap = teacher_logits.shape[1] if checked["max_positives"] is None else checked["max_positives"]
    assignment = assign_positives(teacher_logits, checked["threshold"], cap)
    return assignment.num_positives, assignment.positives


def _of_no_pixel(threshold: Tensor) -> float:
    """A number in the place of the thresholds of pixels, which are checked."""
    checks.check_threshold("threshold", threshold)
    return 1.0


@checks.kept
def _loss_options(num_classes: int, **given: Any) -> LossOptions:
    """Check the options of a call and make those of the loss of them.

    Raises:
        ValueError: If one breaks its rule.
    """
    checked = checks.check_options(checks.LOSS_RULES, **given)
    if not torch.compiler.is_compiling():  # integers of Python and numbers of NumPy, which no launch knows
        checked |= {name: float(checked[name]) for name in NUMBERS}
    cap = num_classes - 1 if checked["max_positives"] is None else min(checked["max_positives"], num_classes - 1)
    return LossOptions(**{**{name: checked[name] for name in LossOptions._fields}, "max_positives": cap})


def _stats(statistics: Tensor) -> LossStats:
    """Views of the statistics by their names."""
    num_valid, weighted, unweighted, cross_entropy, positives, *_, confidence, selected, weight, valid = (
        statistics.unbind()
    )
    return LossStats(
        num_valid=num_valid,
        valid_share=valid,
        selected_share=selected,
        mean_positives=positives,
        positives_histogram=statistics.narrow(0, *_HISTOGRAM),
        mean_confidence=confidence,
        cross_entropy=cross_entropy,
        unweighted_loss=unweighted,
        weighted_loss=weighted,
        weight_sum=weight,
    )
