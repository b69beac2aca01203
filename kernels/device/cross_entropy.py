"""Cross entropy with labels at full resolution: read logits and labels, write the gradient, keep sums.

Shapes: logits (N, C, P), P = H * W pixels of one image; per-pixel tensors (N, P); all by strides (see ``operands``).
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.block import first_of, load_logits, load_pixels, own_block, store_gradient, store_terms
from fpl_fast.kernels.device.classes import widen, zero_times_sum
from fpl_fast.kernels.device.labels import labelled_pixels, load_labels


@triton.jit(do_not_specialize=["blocks_per_image", "ignore_index"])
def cross_entropy_kernel(
    logits,  # Classes, float16, bfloat16 or float32
    target,  # Pixels, uint8, int32 or int64
    class_weight_ptr,  # (C,) float32, or None for 1
    pixel_weight,  # Pixels, float32, or None for 1
    scale_ptr,  # () float32, factor of the gradient; None for the next argument
    scale,  # a number, or None for 1
    grad,  # out Classes, or None
    sums_ptr,  # out (3, programs) float32: the terms of ``labels`` summed over the program's pixels, or None
    map_ptr,  # out (N, P) contiguous float32: the first term, or None
    num_pixels,  # P
    blocks_per_image,  # cdiv(P, BLOCK)
    ignore_index,
    C: tl.constexpr,  # classes
    G: tl.constexpr,  # classes in a group: 1 or a power of two
    BLOCK: tl.constexpr,  # pixels of a program
    FAST: tl.constexpr,  # libdevice approximations
):
    """Cross entropy and its gradient of BLOCK pixels of one image."""
    block = own_block(num_pixels, blocks_per_image, G, BLOCK)
    label, valid = load_labels(first_of(target, block), block.pixel * target.stride_p, block.in_bounds, ignore_index)
    z = load_logits(logits, block, None, C, G, BLOCK)
    weight = None
    if pixel_weight is not None:
        weight = load_pixels(pixel_weight, block)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr)

    terms, gradient = labelled_pixels(
        widen(z, C, G, FAST), label, zero_times_sum(z, FAST), valid, weight, class_weight_ptr, scale, C, G, FAST
    )
    if grad is not None:
        store_gradient(grad, block, gradient, C, G, BLOCK, FAST)
    store_terms(terms, block, num_pixels, sums_ptr, map_ptr, None)
