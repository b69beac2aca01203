"""Distance of two softmaxes, of a block of pixels whose logits are in registers."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import LOG2_E, divide, log
from fpl_fast.kernels.device.classes import fold_max, fold_sum


@triton.jit
def softmax_parts(logits):
    """Logits below the largest one, and their masses exp(logit - largest) with the sum of these, per pixel.

    The difference comes before the product with log2(e): that of a large logit would be infinite.
    """
    top = logits[0]
    for g in tl.static_range(1, len(logits)):
        top = tl.maximum(top, logits[g])
    top = fold_max(top)
    below = ()
    masses = ()
    for g in tl.static_range(len(logits)):
        difference = logits[g] - top
        below = below + (difference,)
        masses = masses + (tl.exp2(difference * LOG2_E),)
    total = masses[0]
    for g in tl.static_range(1, len(logits)):
        total += masses[g]
    return below, masses, fold_sum(total)


@triton.jit
def distance_pixels(z, t, poison, valid, pixel_weight, scale, DISTANCE: tl.constexpr, FAST: tl.constexpr):
    """Weighted distance of every pixel and its gradient, with p the student's softmax and q the teacher's.

    mse: D = sum_c (p_c - q_c)^2,             dD/dz_c = 2 p_c (p_c - q_c - sum_k p_k (p_k - q_k))
    kl:  D = sum_c q_c (log q_c - log p_c),   dD/dz_c = p_c - q_c

    Args:
        z: the student's logits, float32 class groups, classes that do not exist at -inf.
        t: the teacher's logits in the same form.
        poison: 0, or NaN where one of a pixel's logits is NaN or infinite: added to the distance and its slope.
        valid: pixels that count.
        pixel_weight: a per pixel, or None for 1.
        scale: factor of the gradient, or None for 1.
        DISTANCE: "mse" or "kl".
        FAST: see ``arithmetic``.

    Returns:
        (terms, gradient): a tuple of a * D alone, per pixel, zero where not valid, and class groups of
        scale * a * dD/dz, whatever they are there.
    """
    factor = tl.full(poison.shape, 1.0, tl.float32)
    if pixel_weight is not None:
        factor *= pixel_weight
    slope = factor + poison
    if scale is not None:
        slope *= scale

    student_below, student_masses, student_total = softmax_parts(z)
    teacher_below, teacher_masses, teacher_total = softmax_parts(t)
    student_share, teacher_share = divide(1.0, student_total, FAST), divide(1.0, teacher_total, FAST)
    p = ()
    differences = ()
    for g in tl.static_range(len(z)):
        probability = student_masses[g] * student_share
        p = p + (probability,)
        differences = differences + (probability - teacher_masses[g] * teacher_share,)

    if DISTANCE == "mse":
        distance = differences[0] * differences[0]
        mean = p[0] * differences[0]
        for g in tl.static_range(1, len(z)):
            distance += differences[g] * differences[g]
            mean += p[g] * differences[g]
        distance, mean = fold_sum(distance), fold_sum(mean)
        slope *= 2.0
        slopes = ()
        for g in tl.static_range(len(z)):
            slopes = slopes + (slope * p[g] * (differences[g] - mean),)
    else:
        tl.static_assert(DISTANCE == "kl")
        # Where q is 0 the term is 0, though a difference of logits may be infinite; classes that do not exist are such.
        distance = tl.where(teacher_masses[0] > 0.0, teacher_masses[0] * (teacher_below[0] - student_below[0]), 0.0)
        for g in tl.static_range(1, len(z)):
            term = teacher_masses[g] * (teacher_below[g] - student_below[g])
            distance += tl.where(teacher_masses[g] > 0.0, term, 0.0)
        distance = fold_sum(distance) * teacher_share + (log(student_total, FAST) - log(teacher_total, FAST))
        slopes = ()
        for g in tl.static_range(len(z)):
            slopes = slopes + (slope * differences[g],)

    return (tl.where(valid, factor * (distance + poison), 0.0),), slopes
