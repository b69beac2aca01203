"""Cross entropy with labels at full resolution: read logits and labels, write the gradient, keep sums.

Shapes: logits (N, C, P) by strides, P = H * W pixels of one image; per-pixel tensors (N, P) by strides. A program owns
BLOCK pixels of one image and all their classes.
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import load_classes, store_classes, widen, zero_times_sum
from fpl_fast.kernels.device.labels import labelled_pixels, load_labels


@triton.jit(do_not_specialize=["ignore_index"])
def cross_entropy_kernel(
    logits_ptr,  # (N, C, P) float16, bfloat16 or float32
    target_ptr,  # (N, P) uint8, int32 or int64
    class_weight_ptr,  # (C,) float32, or None for 1
    pixel_weight_ptr,  # (N, P) float32, or None for 1
    scale_ptr,  # () float32, factor of the gradient, or None for 1
    grad_ptr,  # out (N, C, P), or None
    sums_ptr,  # out (3, programs) float32: the terms of ``labels`` summed over the program's pixels, or None
    map_ptr,  # out (N, P) contiguous float32: the first term, or None
    num_pixels,  # P
    blocks_per_image,  # cdiv(P, BLOCK)
    logits_stride_n,
    logits_stride_c,
    logits_stride_p,
    grad_stride_n,
    grad_stride_c,
    grad_stride_p,
    target_stride_n,
    target_stride_p,
    weight_stride_n,
    weight_stride_p,
    ignore_index,
    C: tl.constexpr,  # classes
    G: tl.constexpr,  # classes in a group: 1 or a power of two
    BLOCK: tl.constexpr,  # pixels of a program
    LOGITS_ROWS: tl.constexpr,  # dense channels_last: move whole pixels
    GRAD_ROWS: tl.constexpr,
    FAST: tl.constexpr,  # libdevice approximations
):
    """Cross entropy and its gradient of BLOCK pixels of one image."""
    program = tl.program_id(0)
    image = (program // blocks_per_image).to(tl.int64)
    first_pixel = (program % blocks_per_image).to(tl.int64) * BLOCK
    pixel = tl.arange(0, BLOCK)
    if G > 1:
        pixel = pixel[None, :]
    in_bounds = pixel < num_pixels - first_pixel
    pixel = pixel.to(tl.int64)

    target_ptr += image * target_stride_n + first_pixel * target_stride_p
    label, valid = load_labels(target_ptr, pixel * target_stride_p, in_bounds, ignore_index)
    logits_ptr += image * logits_stride_n + first_pixel * logits_stride_p
    logits = load_classes(logits_ptr, pixel * logits_stride_p, in_bounds, logits_stride_c, C, G, LOGITS_ROWS, BLOCK)
    pixel_weight = None
    if pixel_weight_ptr is not None:
        pixel_weight_ptr += image * weight_stride_n + first_pixel * weight_stride_p
        pixel_weight = tl.load(pixel_weight_ptr + pixel * weight_stride_p, mask=in_bounds, other=0.0)
    scale = None
    if scale_ptr is not None:
        scale = tl.load(scale_ptr)
    terms, gradient = labelled_pixels(
        widen(logits, C, G), label, zero_times_sum(logits), valid, pixel_weight, class_weight_ptr, scale, C, G, FAST
    )
    if grad_ptr is not None:
        grad_ptr += image * grad_stride_n + first_pixel * grad_stride_p
        store_classes(grad_ptr, pixel * grad_stride_p, in_bounds, grad_stride_c, gradient, C, G, GRAD_ROWS, BLOCK)
    if map_ptr is not None:
        tl.store(map_ptr + image * num_pixels + first_pixel + pixel, terms[0], mask=in_bounds)
    if sums_ptr is not None:
        for i in tl.static_range(len(terms)):
            tl.store(sums_ptr + i * tl.num_programs(0) + program, tl.sum(terms[i]))
