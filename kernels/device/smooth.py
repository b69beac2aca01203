"""Smooth fuzzy positive regularisation, L = log(1 + A * B), A = sum_Y exp(-z), B = sum_N exp(z)."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import LARGEST, LOG2_E, divide, log
from fpl_fast.kernels.device.classes import fold_sum

SMALLEST = tl.constexpr(1e-37)


@triton.jit
def smooth_loss(positives, negatives, lowest, highest, coefficient, FAST: tl.constexpr):
    """Loss and gradient of one block.

    A and B have separate shifts, the lowest positive and the highest negative logit: a common one overflows where a
    student's logits range over more than about 175. With s = log A + log B and S = sigmoid(s),
    dL/dz_i = -S exp(-z_i) / A on Y and +S exp(z_j) / B off Y.

    Args:
        positives: class groups, float32, +inf off the positives.
        negatives: class groups, float32, -inf on the positives.
        lowest: smallest positive logit of a pixel.
        highest: largest negative logit of a pixel.
        coefficient: factor of the gradient, per pixel.
        FAST: see ``arithmetic``.

    Returns:
        (loss, gradient): per pixel, and class groups of coefficient * dL/dz.
    """
    # Behind these bounds a side vanishes, as it would in exact numbers.
    lowest = tl.minimum(lowest, LARGEST)
    highest = tl.maximum(highest, -LARGEST)
    pull_shift = lowest * LOG2_E
    push_shift = highest * LOG2_E
    pull = ()
    push = ()
    for g in tl.static_range(len(positives)):
        pull = pull + (tl.exp2(pull_shift - positives[g] * LOG2_E),)
        push = push + (tl.exp2(negatives[g] * LOG2_E - push_shift),)
    pull_sum = pull[0]
    push_sum = push[0]
    for g in tl.static_range(1, len(positives)):
        pull_sum += pull[g]
        push_sum += push[g]
    sides = fold_sum(pull_sum), fold_sum(push_sum)
    loss, pull_scale, push_scale = two_sided_loss(*sides, lowest, highest, coefficient, FAST)
    gradient = ()
    for g in tl.static_range(len(positives)):
        gradient = gradient + (pull[g] * pull_scale + push[g] * push_scale,)
    return loss, gradient


@triton.jit
def two_sided_loss(pull_sum, push_sum, lowest, highest, coefficient, FAST: tl.constexpr):
    """Loss of the sums of both sides, and what their terms are multiplied by in its gradient.

    Args:
        pull_sum: sum of exp(lowest - z) on Y, per pixel.
        push_sum: sum of exp(z - highest) off Y.
        lowest: shift of the first sum.
        highest: shift of the second one.
        coefficient: factor of the gradient.
        FAST: see ``arithmetic``.

    Returns:
        (loss, pull_scale, push_scale), per pixel.
    """
    pull_sum = tl.maximum(pull_sum, SMALLEST)
    push_sum = tl.maximum(push_sum, SMALLEST)
    s = log(pull_sum * push_sum, FAST) + (highest - lowest)
    decay = tl.exp2(-tl.abs(s) * LOG2_E)
    loss = tl.maximum(s, 0.0) + log(1.0 + decay, FAST)
    sigmoid = divide(tl.where(s >= 0, 1.0, decay), 1.0 + decay, FAST)
    pull_scale = -divide(coefficient * sigmoid, pull_sum, FAST)
    push_scale = divide(coefficient * sigmoid, push_sum, FAST)
    return loss, pull_scale, push_scale
