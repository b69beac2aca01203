"""The full-resolution kernel: read teacher, read student, write gradient, keep sums.

Shapes: logits (N, C, P) by strides, P = H * W pixels of one image; per-pixel tensors (N, P) by strides. A program owns
BLOCK pixels of one image and all their classes.
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import load_classes, select, store_classes, widen, zero_times_sum
from fpl_fast.kernels.device.pixels import fuzzy_positive_pixels


@triton.jit(do_not_specialize=["max_positives"])
def fuzzy_positive_kernel(
    student_ptr,  # (N, C, P) float16, bfloat16 or float32
    teacher_ptr,  # (N, C, P) float16, bfloat16 or float32
    partner_ptr,  # the teacher where mix_mask is true, like teacher_ptr, or None
    mix_mask_ptr,  # (N, P) bool, or None
    pixel_weight_ptr,  # (N, P) float32, or None for 1
    valid_mask_ptr,  # (N, P) bool, or None for all
    scale_ptr,  # () float32, factor of the gradient, or None for 1
    grad_ptr,  # out (N, C, P): scale * g * b * w * dL/dz (see ``pixels``), or None
    sums_ptr,  # out (terms, programs) float32: the terms of ``pixels`` summed over the program's pixels, or None
    map_ptr,  # out (N, P) contiguous float32: the first term, or None
    num_pixels,  # P
    blocks_per_image,  # cdiv(P, BLOCK)
    student_stride_n,
    student_stride_c,
    student_stride_p,
    teacher_stride_n,
    teacher_stride_c,
    teacher_stride_p,
    partner_stride_n,
    partner_stride_c,
    partner_stride_p,
    mix_stride_n,
    mix_stride_p,
    grad_stride_n,
    grad_stride_c,
    grad_stride_p,
    weight_stride_n,
    weight_stride_p,
    valid_stride_n,
    valid_stride_p,
    threshold,  # T in (0, 1]
    max_positives,  # cap on K, 1 to C - 1
    convex_scale,
    confidence_threshold,
    confidence_power,
    C: tl.constexpr,  # classes
    G: tl.constexpr,  # classes in a group: 1 or a power of two
    BLOCK: tl.constexpr,  # pixels of a program
    STUDENT_ROWS: tl.constexpr,  # dense channels_last: stride_c 1, stride_p C; move whole pixels
    TEACHER_ROWS: tl.constexpr,
    PARTNER_ROWS: tl.constexpr,
    GRAD_ROWS: tl.constexpr,
    CAPPED: tl.constexpr,  # max_positives if that is 1, 2 or 3, otherwise 0
    KEY: tl.constexpr,  # "int32" for a 16-bit teacher, otherwise "float32" or, in tiles, "int64"
    WEIGHTING: tl.constexpr,  # "none", "linear", "convex" or "concave"
    FORM: tl.constexpr,  # "smooth" or "hinge"
    CONFIDENCE: tl.constexpr,  # whether confidence_threshold and confidence_power are looked at
    WITH_STATS: tl.constexpr,  # all terms, or the first only
    FAST: tl.constexpr,  # libdevice approximations
):
    """Fuzzy positive loss, its gradient and statistics of BLOCK pixels of one image."""
    program = tl.program_id(0)
    image = (program // blocks_per_image).to(tl.int64)
    first_pixel = (program % blocks_per_image).to(tl.int64) * BLOCK
    pixel = tl.arange(0, BLOCK)
    if G > 1:
        pixel = pixel[None, :]
    in_bounds = pixel < num_pixels - first_pixel
    pixel = pixel.to(tl.int64)

    valid = in_bounds
    if valid_mask_ptr is not None:
        valid_mask_ptr += image * valid_stride_n + first_pixel * valid_stride_p
        valid = in_bounds & (tl.load(valid_mask_ptr + pixel * valid_stride_p, mask=in_bounds, other=0) != 0)

    teacher_ptr += image * teacher_stride_n + first_pixel * teacher_stride_p
    student_ptr += image * student_stride_n + first_pixel * student_stride_p
    own = in_bounds
    if mix_mask_ptr is not None:
        mix_mask_ptr += image * mix_stride_n + first_pixel * mix_stride_p
        mixed = in_bounds & (tl.load(mix_mask_ptr + pixel * mix_stride_p, mask=in_bounds, other=0) != 0)
        own = in_bounds & ~mixed
    teacher = load_classes(teacher_ptr, pixel * teacher_stride_p, own, teacher_stride_c, C, G, TEACHER_ROWS, BLOCK)
    if mix_mask_ptr is not None:
        # Each pixel is read from its own side only: a block wholly on one side moves nothing of the other.
        partner_ptr += image * partner_stride_n + first_pixel * partner_stride_p
        partner = load_classes(
            partner_ptr, pixel * partner_stride_p, mixed, partner_stride_c, C, G, PARTNER_ROWS, BLOCK
        )
        teacher = select(mixed, partner, teacher)
    student = load_classes(
        student_ptr, pixel * student_stride_p, in_bounds, student_stride_c, C, G, STUDENT_ROWS, BLOCK
    )
    poison = zero_times_sum(teacher) + zero_times_sum(student)

    t = widen(teacher, C, G)
    z = widen(student, C, G)
    pixel_weight = None
    if pixel_weight_ptr is not None:
        pixel_weight_ptr += image * weight_stride_n + first_pixel * weight_stride_p
        pixel_weight = tl.load(pixel_weight_ptr + pixel * weight_stride_p, mask=in_bounds, other=0.0)
    scale = None
    if scale_ptr is not None:
        scale = tl.load(scale_ptr)
    terms, gradient = fuzzy_positive_pixels(
        z,
        t,
        poison,
        valid,
        pixel_weight,
        scale,
        threshold,
        max_positives,
        convex_scale,
        confidence_threshold,
        confidence_power,
        C,
        G,
        CAPPED,
        KEY,
        WEIGHTING,
        FORM,
        CONFIDENCE,
        WITH_STATS,
        FAST,
    )
    if grad_ptr is not None:
        grad_ptr += image * grad_stride_n + first_pixel * grad_stride_p
        store_classes(grad_ptr, pixel * grad_stride_p, in_bounds, grad_stride_c, gradient, C, G, GRAD_ROWS, BLOCK)
    if map_ptr is not None:
        tl.store(map_ptr + image * num_pixels + first_pixel + pixel, terms[0], mask=in_bounds)
    if sums_ptr is not None:
        for i in tl.static_range(len(terms)):
            tl.store(sums_ptr + i * tl.num_programs(0) + program, tl.sum(terms[i]))
