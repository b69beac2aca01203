"""The student's logits, split into positives and negatives, and the two terms of its plain cross entropy."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import INFINITY, LOG2_E, log, nan_if_void
from fpl_fast.kernels.device.classes import fold_max, fold_min, fold_sum


@triton.jit
def part(keys, cut, logits):
    """Split the classes into positives, key >= cut, and negatives.

    One comparison and two selections a class serve every later step: exp(-z) of the first tuple vanishes off the
    positives and exp(z) of the second one on them, so that sums and gradients need no further selection.

    Returns:
        (positives, negatives, lowest, highest): the logits with +inf off the positives, with -inf on them, the
        smallest positive logit and the largest negative one.
    """
    positives = ()
    negatives = ()
    for g in tl.static_range(len(logits)):
        positive = keys[g] >= cut
        positives = positives + (tl.where(positive, logits[g], INFINITY),)
        negatives = negatives + (tl.where(positive, -INFINITY, logits[g]),)
    lowest = positives[0]
    highest = negatives[0]
    for g in tl.static_range(1, len(logits)):
        lowest = tl.minimum(lowest, positives[g])
        highest = tl.maximum(highest, negatives[g])
    return positives, negatives, fold_min(lowest), fold_max(highest)


@triton.jit
def label_logit(keys, top, logits):
    """The logit of the pseudo-label, the lowest class whose key is the top one."""
    if len(keys[0].shape) == 2:  # the keys of tiles are unique
        found = tl.where(keys[0] == top, logits[0], 0.0)
        for g in tl.static_range(1, len(keys)):
            found += tl.where(keys[g] == top, logits[g], 0.0)
        return fold_sum(found)
    else:
        found = logits[len(keys) - 1]
        for i in tl.static_range(2, len(keys) + 1):  # backwards: the lower class has the last word
            found = tl.where(keys[len(keys) - i] == top, logits[len(keys) - i], found)
        return found


@triton.jit
def label_cross_entropy(keys, top, logits, chosen, FAST: tl.constexpr):
    """Cross entropy with the pseudo-label for the chosen pixels; not computed in blocks that have none."""
    found = tl.where(chosen, 0.0, 0.0)
    if tl.max(chosen.to(tl.int32)) > 0:
        found = log_sum_exp(logits, FAST) - label_logit(keys, top, logits)
    return found


@triton.jit
def log_sum_exp(logits, FAST: tl.constexpr):
    """Logarithm of the sum of exp(z) over the classes, per pixel."""
    highest = logits[0]
    for g in tl.static_range(1, len(logits)):
        highest = tl.maximum(highest, logits[g])
    highest = fold_max(highest)
    shift = highest * LOG2_E
    total = tl.exp2(logits[0] * LOG2_E - shift)
    for g in tl.static_range(1, len(logits)):
        total += tl.exp2(logits[g] * LOG2_E - shift)
    return log(nan_if_void(fold_sum(total)), FAST) + highest
