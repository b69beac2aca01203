"""The fuzzy positive loss of many classes in planes: a program keeps no number of every class.

Where at most three classes of a pixel may be positive, the teacher is read once, for the first four ranks and the total
mass, and the student twice: for the sum of its negatives and, from a cache, for the gradient. The logits of the
positives are fetched by their classes.

Shapes: logits (N, C, P), P = H * W pixels of one image; per-pixel tensors (N, P); all by strides (see ``operands``).
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import LARGEST, LOG2_E
from fpl_fast.kernels.device.assignment import accept_ranks
from fpl_fast.kernels.device.block import load_mask, load_pixels, own_block, store_terms
from fpl_fast.kernels.device.chunks import (
    Slopes,
    fetch_positives,
    label_cross_entropy,
    rank_classes,
    store_gradient,
    sum_negatives,
)
from fpl_fast.kernels.device.keys import key_logit
from fpl_fast.kernels.device.smooth import two_sided_loss
from fpl_fast.kernels.device.weights import count_terms, terms_of, weights_of


@triton.jit(do_not_specialize=["blocks_per_image"])
def streamed_kernel(
    student,  # Classes, float16, bfloat16 or float32
    teacher,  # Classes, float16, bfloat16 or float32
    partner,  # the teacher where mix_mask is true, of the teacher's type, or None
    mix_mask,  # Pixels, bool, or None
    pixel_weight,  # Pixels, float32, or None for 1
    valid_mask,  # Pixels, bool, or None for all
    threshold,  # Pixels, float32, or None for that of loss_options
    scale_ptr,  # () float32, factor of the gradient; None for the next argument
    scale,  # a number, or None for 1
    grad,  # out Classes: scale * g * b * w * dL/dz (see ``weights``), or None
    sums_ptr,  # out (terms, programs) float32: the terms of ``weights`` summed over the program's pixels, or None
    map_ptr,  # out (N, P) contiguous float32: the first term, or None
    num_pixels,  # P
    blocks_per_image,  # cdiv(P, BLOCK)
    loss_options,  # LossOptions, their names constexpr
    C: tl.constexpr,  # classes, at most 32 chunks
    G: tl.constexpr,  # classes in a chunk
    BLOCK: tl.constexpr,  # pixels of a program
    CAPPED: tl.constexpr,  # max_positives: 1, 2 or 3
    CONFIDENCE: tl.constexpr,  # whether confidence_threshold and confidence_power are looked at
    KEY: tl.constexpr,  # "int32" or "int64", see ``keys.make_key``
    WITH_STATS: tl.constexpr,  # all terms, or the first only
    FAST: tl.constexpr,  # libdevice approximations
):
    """Smooth fuzzy positive loss, its gradient and statistics of BLOCK pixels of one image."""
    block = own_block(num_pixels, blocks_per_image, 1, BLOCK)
    valid = block.in_bounds
    if valid_mask is not None:
        valid = load_mask(valid_mask, block)
    weight = None
    if pixel_weight is not None:
        weight = load_pixels(pixel_weight, block)
    limit = loss_options.threshold
    if threshold is not None:
        limit = load_pixels(threshold, block)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr)

    ranks = rank_classes(teacher, partner, mix_mask, block, C, G, KEY, FAST)
    _, num_positives, rejected, mass, _ = accept_ranks(
        ranks.keys, ranks.shift, limit * ranks.total, CAPPED, CAPPED, KEY
    )
    weights = weights_of(num_positives, rejected, mass, ranks.total, weight, loss_options, CONFIDENCE, FAST)
    positives = fetch_positives(student, block, ranks.keys, num_positives, valid, G, CAPPED)
    negatives = sum_negatives(student, block, positives, C, G, FAST)

    lowest = positives.logits[0]
    for k in tl.static_range(1, CAPPED):
        lowest = tl.minimum(lowest, positives.logits[k])
    extent = tl.maximum(tl.abs(key_logit(ranks.keys[0], KEY)), tl.maximum(negatives.highest, -lowest))
    poison = tl.where(extent > LARGEST, float("nan"), ranks.poison + negatives.poison)
    coefficient = weights.total + poison
    if scale is not None:
        coefficient *= scale
    lowest = tl.minimum(lowest, LARGEST)
    pulls = ()
    for k in tl.static_range(CAPPED):
        pulls = pulls + (tl.exp2(lowest * LOG2_E - positives.logits[k] * LOG2_E),)
    pull_sum = pulls[0]
    for k in tl.static_range(1, CAPPED):
        pull_sum += pulls[k]
    loss, pull_scale, push_scale = two_sided_loss(
        pull_sum, negatives.push_sum, lowest, negatives.highest, coefficient, FAST
    )
    loss += poison
    if grad is not None:
        scaled = ()
        for k in tl.static_range(CAPPED):
            scaled = scaled + (pulls[k] * pull_scale,)
        slopes = Slopes(scaled, negatives.highest * LOG2_E, push_scale)
        counted = None if valid_mask is None else valid
        store_gradient(grad, student, block, positives, slopes, counted, C, G, FAST)
    entropy = None
    if WITH_STATS:
        entropy = loss  # the smooth loss of one positive is its cross entropy
        if CAPPED > 1:
            entropy = tl.where(num_positives > 1.0, label_cross_entropy(positives, negatives, FAST) + poison, loss)
    terms = terms_of(loss, entropy, num_positives, weights, valid)
    COUNTS: tl.constexpr = count_terms(pixel_weight is not None or CONFIDENCE) if WITH_STATS else None
    store_terms(terms, block, num_pixels, sums_ptr, map_ptr, COUNTS)
