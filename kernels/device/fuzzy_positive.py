"""The full-resolution kernel: read teacher, read student, write gradient, keep sums.

Shapes: logits (N, C, P) by strides, P = H * W pixels of one image; per-pixel tensors (N, P) by strides. A program owns
BLOCK pixels of one image and all their classes.
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.assignment import assign_positives
from fpl_fast.kernels.device.classes import class_index, load_classes, store_classes, widen, zero_times_sum
from fpl_fast.kernels.device.confidence import confidence_weight
from fpl_fast.kernels.device.hinge import hinge_loss
from fpl_fast.kernels.device.keys import key_class, make_key
from fpl_fast.kernels.device.smooth import smooth_loss
from fpl_fast.kernels.device.student import cross_entropy, part


@triton.jit
def fuzzy_positive_kernel(
    student_ptr,  # (N, C, P) float16, bfloat16 or float32
    teacher_ptr,  # (N, C, P) float16, bfloat16 or float32
    pixel_weight_ptr,  # (N, P) float32, or None for 1
    valid_mask_ptr,  # (N, P) bool, or None for all
    scale_ptr,  # () float32, factor of the gradient, or None for 1
    grad_ptr,  # out (N, C, P): scale * a * w * dL/dz, or None
    sums_ptr,  # out (6, programs) float32: a*w*L, w*L, L, CE, K, 1 summed over the program's valid pixels, or None
    map_ptr,  # out (N, P) contiguous float32: a*w*L, or None
    num_pixels,  # P
    blocks_per_image,  # cdiv(P, BLOCK)
    student_stride_n,
    student_stride_c,
    student_stride_p,
    teacher_stride_n,
    teacher_stride_c,
    teacher_stride_p,
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
    C: tl.constexpr,  # classes
    G: tl.constexpr,  # classes in a group: 1 or a power of two
    BLOCK: tl.constexpr,  # pixels of a program
    STUDENT_ROWS: tl.constexpr,  # dense channels_last: stride_c 1, stride_p C; move whole pixels
    TEACHER_ROWS: tl.constexpr,
    GRAD_ROWS: tl.constexpr,
    CAPPED: tl.constexpr,  # max_positives if that is 1, 2 or 3, otherwise 0
    WIDE_KEYS: tl.constexpr,  # the teacher is float32
    WEIGHTING: tl.constexpr,  # "none", "linear", "convex" or "concave"
    FORM: tl.constexpr,  # "smooth" or "hinge"
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
    teacher = load_classes(
        teacher_ptr, pixel * teacher_stride_p, in_bounds, teacher_stride_c, C, G, TEACHER_ROWS, BLOCK
    )
    student = load_classes(
        student_ptr, pixel * student_stride_p, in_bounds, student_stride_c, C, G, STUDENT_ROWS, BLOCK
    )
    poison = zero_times_sum(teacher) + zero_times_sum(student)

    t = widen(teacher, C, G)
    z = widen(student, C, G)
    keys = ()
    for g in tl.static_range(len(t)):
        keys = keys + (make_key(t[g], class_index(g, G), WIDE_KEYS),)
    cut, top, num_positives, rejected, mass, total = assign_positives(
        keys, t, valid, threshold, max_positives, C, CAPPED
    )
    weight = confidence_weight(num_positives, rejected, mass, total, convex_scale, WEIGHTING, FAST)
    total_weight = weight
    if pixel_weight_ptr is not None:
        pixel_weight_ptr += image * weight_stride_n + first_pixel * weight_stride_p
        total_weight = weight * tl.load(pixel_weight_ptr + pixel * weight_stride_p, mask=in_bounds, other=0.0)

    coefficient = total_weight + poison
    if scale_ptr is not None:
        coefficient *= tl.load(scale_ptr)
    positives, negatives, lowest, highest = part(keys, cut, z)
    if FORM == "smooth":
        loss, gradient = smooth_loss(positives, negatives, lowest, highest, coefficient, FAST)
    else:
        loss, gradient = hinge_loss(positives, negatives, lowest, highest, coefficient, G)
    loss += poison

    if grad_ptr is not None:
        if valid_mask_ptr is not None:
            masked = ()
            for g in tl.static_range(len(gradient)):
                masked = masked + (tl.where(valid, gradient[g], 0.0),)
            gradient = masked
        grad_ptr += image * grad_stride_n + first_pixel * grad_stride_p
        store_classes(grad_ptr, pixel * grad_stride_p, in_bounds, grad_stride_c, gradient, C, G, GRAD_ROWS, BLOCK)
    if map_ptr is not None:
        map_ptr += image * num_pixels + first_pixel
        tl.store(map_ptr + pixel, tl.where(valid, total_weight * loss, 0.0), mask=in_bounds)
    if sums_ptr is not None:
        sums_ptr += program
        num_programs = tl.num_programs(0)
        loss_sum = tl.sum(tl.where(valid, loss, 0.0))
        weighted_sum = loss_sum if WEIGHTING == "none" else tl.sum(tl.where(valid, weight * loss, 0.0))
        total_sum = weighted_sum if pixel_weight_ptr is None else tl.sum(tl.where(valid, total_weight * loss, 0.0))
        if FORM == "smooth" and CAPPED == 1:
            cross_entropy_sum = loss_sum
        else:
            # Read the label's logit again, from the cache: selecting it would cost a comparison and a move a class.
            label = tl.minimum(key_class(top), C - 1)  # a NaN may leave anything in the key
            label_ptr = student_ptr + label.to(tl.int64) * student_stride_c + pixel * student_stride_p
            label_logit = tl.load(label_ptr, mask=in_bounds, other=0.0).to(tl.float32)
            cross_entropy_sum = tl.sum(tl.where(valid, cross_entropy(z, label_logit, FAST) + poison, 0.0))
        tl.store(sums_ptr, total_sum)
        tl.store(sums_ptr + num_programs, weighted_sum)
        tl.store(sums_ptr + 2 * num_programs, loss_sum)
        tl.store(sums_ptr + 3 * num_programs, cross_entropy_sum)
        tl.store(sums_ptr + 4 * num_programs, tl.sum(tl.where(valid, num_positives, 0.0)))
        if valid_mask_ptr is None:
            num_valid = tl.minimum(num_pixels - first_pixel, BLOCK).to(tl.float32)
        else:
            num_valid = tl.sum(valid.to(tl.float32))
        tl.store(sums_ptr + 5 * num_programs, num_valid)
