"""The full-resolution kernel: read teacher, read student, write gradient, keep sums.

Shapes: logits (N, C, P), P = H * W pixels of one image; per-pixel tensors (N, P); all by strides (see ``operands``).
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.block import (
    load_logits,
    load_mask,
    load_pixels,
    load_teacher,
    own_block,
    store_gradient,
    store_terms,
)
from fpl_fast.kernels.device.classes import keep, widen, zero_times_sum
from fpl_fast.kernels.device.pixels import fuzzy_positive_pixels
from fpl_fast.kernels.device.weights import count_terms


@triton.jit(do_not_specialize=["blocks_per_image"])
def fuzzy_positive_kernel(
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
    C: tl.constexpr,  # classes
    G: tl.constexpr,  # classes in a group: 1 or a power of two
    BLOCK: tl.constexpr,  # pixels of a program
    CAPPED: tl.constexpr,  # max_positives if that is 1, 2 or 3, otherwise 0
    CONFIDENCE: tl.constexpr,  # whether confidence_threshold and confidence_power are looked at
    KEY: tl.constexpr,  # see ``keys.make_key``
    WITH_STATS: tl.constexpr,  # all terms, or the first only
    FAST: tl.constexpr,  # libdevice approximations
):
    """Fuzzy positive loss, its gradient and statistics of BLOCK pixels of one image."""
    block = own_block(num_pixels, blocks_per_image, G, BLOCK)
    valid = block.in_bounds
    if valid_mask is not None:
        valid = load_mask(valid_mask, block)
    t = load_teacher(teacher, partner, mix_mask, block, C, G, BLOCK)
    z = load_logits(student, block, None, C, G, BLOCK)
    weight = None
    if pixel_weight is not None:
        weight = load_pixels(pixel_weight, block)
    limit = loss_options.threshold
    if threshold is not None:
        limit = load_pixels(threshold, block)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr)

    terms, gradient = fuzzy_positive_pixels(
        widen(z, C, G, FAST),
        widen(t, C, G, FAST),
        zero_times_sum(t, FAST) + zero_times_sum(z, FAST),
        valid,
        weight,
        limit,
        scale,
        loss_options,
        C,
        G,
        CAPPED,
        CONFIDENCE,
        KEY,
        WITH_STATS,
        FAST,
    )
    if valid_mask is not None:
        gradient = keep(valid, gradient)
    if grad is not None:
        store_gradient(grad, block, gradient, C, G, BLOCK, FAST)
    COUNTS: tl.constexpr = count_terms(pixel_weight is not None or CONFIDENCE) if WITH_STATS else None
    store_terms(terms, block, num_pixels, sums_ptr, map_ptr, COUNTS)
