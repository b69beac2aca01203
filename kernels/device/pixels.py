"""The fuzzy positive loss of a block of pixels whose logits are in registers; all its kernels share this part."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import LARGEST
from fpl_fast.kernels.device.assignment import assign_positives
from fpl_fast.kernels.device.classes import class_index
from fpl_fast.kernels.device.hinge import hinge_loss
from fpl_fast.kernels.device.keys import key_logit, make_key
from fpl_fast.kernels.device.smooth import smooth_loss
from fpl_fast.kernels.device.student import label_cross_entropy, part
from fpl_fast.kernels.device.weights import terms_of, weights_of


@triton.jit
def fuzzy_positive_pixels(
    z,
    t,
    poison,
    valid,
    pixel_weight,
    threshold,
    scale,
    options,
    C: tl.constexpr,
    G: tl.constexpr,
    CAPPED: tl.constexpr,
    CONFIDENCE: tl.constexpr,
    KEY: tl.constexpr,
    WITH_STATS: tl.constexpr,
    FAST: tl.constexpr,
):
    """Loss terms and gradient of every pixel.

    Args:
        z: the student's logits, float32 class groups, classes that do not exist at -inf.
        t: the teacher's logits in the same form.
        poison: 0, or NaN where one of a pixel's logits is NaN or infinite: added to the loss and its slope. So is NaN
            where logits that matter lie beyond LARGEST.
        valid: pixels that count.
        pixel_weight: per pixel, or None for 1.
        threshold: T, one or per pixel.
        scale: factor of the gradient, or None for 1.
        options: ``LossOptions`` but for the threshold, their names constexpr.
        C: classes.
        G: classes in a group.
        CAPPED: max_positives if that is 1, 2 or 3, otherwise 0.
        CONFIDENCE: whether the confidence threshold and power are looked at.
        KEY: see ``make_key``.
        WITH_STATS: whether the terms other than the first are needed.
        FAST: see ``arithmetic``.

    Returns:
        (terms, gradient): the terms of ``weights``, and class groups, whatever they are where pixels are not valid:
        where no mask says which pixels count, those that do not are never stored.
    """
    keys = ()
    for g in tl.static_range(len(t)):
        keys = keys + (make_key(t[g], class_index(g, G), KEY),)
    keys, cut, top, num_positives, rejected, mass, total = assign_positives(
        keys, t, valid, threshold, options.max_positives, C, CAPPED, KEY
    )
    weights = weights_of(num_positives, rejected, mass, total, pixel_weight, options, CONFIDENCE, FAST)

    # The smooth loss of one positive is its cross entropy. What else is to be computed comes before the gradient, which
    # would occupy registers meanwhile.
    ONE_POSITIVE: tl.constexpr = options.form == "smooth" and CAPPED == 1
    if WITH_STATS and not ONE_POSITIVE:
        several = valid & (num_positives > 1.0) if options.form == "smooth" else valid
        cross_entropy = label_cross_entropy(keys, top, z, several, FAST)

    positives, negatives, lowest, highest = part(keys, cut, z)
    extent = tl.abs(key_logit(top, KEY))  # of the logits that shifts are made of
    if options.form == "smooth":
        extent = tl.maximum(extent, tl.maximum(highest, -lowest))
    poison = tl.where(extent > LARGEST, float("nan"), poison)
    coefficient = weights.total + poison
    if scale is not None:
        coefficient *= scale
    if options.form == "smooth":
        loss, gradient = smooth_loss(positives, negatives, lowest, highest, coefficient, FAST)
    else:
        loss, gradient = hinge_loss(positives, negatives, lowest, highest, coefficient, G)
    loss += poison
    entropy = None
    if WITH_STATS:
        entropy = loss if ONE_POSITIVE else tl.where(several, cross_entropy + poison, loss)
    return terms_of(loss, entropy, num_positives, weights, valid), gradient
