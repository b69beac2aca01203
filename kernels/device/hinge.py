"""Hinge form of fuzzy positive regularisation, L = max(0, max_N z - min_Y z)."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import class_index, fold_min
from fpl_fast.kernels.device.keys import MAX_CLASSES


@triton.jit
def hinge_loss(positives, negatives, lowest, highest, coefficient, G: tl.constexpr):
    """Loss and gradient: -1 at the lowest positive, +1 at the highest negative, the lower class among equals.

    Arguments and results as in ``smooth_loss``; G is the number of classes in a group.
    """
    loss = tl.maximum(highest - lowest, 0.0)
    low_class = find_class(positives, lowest, G)
    high_class = find_class(negatives, highest, G)
    slope = tl.where(loss > 0.0, coefficient, coefficient * 0.0)
    gradient = ()
    for g in tl.static_range(len(positives)):
        c = class_index(g, G)
        gradient = gradient + (tl.where(c == low_class, -slope, tl.where(c == high_class, slope, slope * 0.0)),)
    return loss, gradient


@triton.jit
def find_class(groups, value, G: tl.constexpr):
    """The lowest class whose logit equals ``value``, per pixel."""
    found = tl.where(groups[0] == value, class_index(0, G), MAX_CLASSES)
    for g in tl.static_range(1, len(groups)):
        found = tl.minimum(found, tl.where(groups[g] == value, class_index(g, G), MAX_CLASSES))
    return fold_min(found)
