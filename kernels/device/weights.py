"""Weights of a pixel, from its teacher, and the terms whose sums are loss and statistics."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import divide
from fpl_fast.kernels.device.confidence import confidence_weight


@triton.constexpr_function
def count_terms(weighted):
    """The terms that are whole numbers, as ``store_terms`` takes them; a weight that is 1 everywhere is one of them."""
    return (1, 6, 7), (8, 10) if weighted else (8, 10, 11), (5,)


class Weights(NamedTuple):
    """Weights of pixels."""

    confidence: Any  # q, the largest probability
    selected: Any  # g, whether q >= confidence_threshold
    factor: Any  # b = pixel_weight * q^confidence_power
    weight: Any  # w
    total: Any  # g * b * w


@triton.jit
def weights_of(
    num_positives, rejected, mass, total, pixel_weight, options, CONFIDENCE: tl.constexpr, FAST: tl.constexpr
):
    """The weights of pixels by their ranks.

    Args:
        num_positives: K as float32.
        rejected: relative mass of rank K + 1, see ``assignment``.
        mass: relative masses of the ranks up to K + 1.
        total: relative mass of all classes.
        pixel_weight: per pixel, or None for 1.
        options: ``LossOptions``, its names constexpr.
        CONFIDENCE: whether the confidence threshold and power are looked at.
        FAST: see ``arithmetic``.
    """
    weight = confidence_weight(num_positives, rejected, mass, total, options, FAST)
    confidence = divide(1.0, total, FAST)  # the top class has the mass 1
    factor = tl.full(total.shape, 1.0, tl.float32)
    if pixel_weight is not None:
        factor *= pixel_weight
    if CONFIDENCE:
        factor *= tl.exp2(-options.confidence_power * tl.log2(total))
        selected = confidence >= options.confidence_threshold
    else:
        selected = tl.full(total.shape, True, tl.int1)
    return Weights(confidence, selected, factor, weight, tl.where(selected, factor * weight, 0.0))


@triton.jit
def terms_of(loss, cross_entropy, num_positives, weights, valid):
    """Terms of pixels, zero where not valid: g*b*w*L and, with a cross entropy, all others.

    Those are 1, w*L, L, CE, K, [K = 1], [K = 2], [K = 3], q, g and b.
    """
    terms = (tl.where(valid, weights.total * loss, 0.0),)
    if cross_entropy is not None:
        one = tl.where(valid, 1.0, 0.0)
        terms = terms + (
            one,
            tl.where(valid, weights.weight * loss, 0.0),
            tl.where(valid, loss, 0.0),
            tl.where(valid, cross_entropy, 0.0),
            tl.where(valid, num_positives, 0.0),
            tl.where(valid & (num_positives == 1.0), 1.0, 0.0),
            tl.where(valid & (num_positives == 2.0), 1.0, 0.0),
            tl.where(valid & (num_positives == 3.0), 1.0, 0.0),
            tl.where(valid, weights.confidence, 0.0),
            tl.where(weights.selected, one, 0.0),
            tl.where(valid, weights.factor, 0.0),
        )
    return terms
