"""Each pixel's most probable classes and, for every one of a few thresholds, its number of positives: bytes.

The assignment is that of the loss (``assignment``): the same ranks, masses and comparisons.
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import LOG2_E
from fpl_fast.kernels.device.assignment import relative_mass, total_mass
from fpl_fast.kernels.device.classes import class_index
from fpl_fast.kernels.device.keys import key_class, key_logit, make_key
from fpl_fast.kernels.device.ranking import top4
from fpl_fast.kernels.device.strip import pixels_of_image, widened
from fpl_fast.kernels.device.teacher import teacher_logits


# No number decides how wide a thread loads its column: see ``upsampled``.
@triton.jit(do_not_specialize=["low_height", "width", "num_pixels"])
def ranks_kernel(
    teacher,  # Samples, float16, bfloat16 or float32
    partner_ptr,  # the teacher where mix_mask is true, with the strides of teacher, or None
    mix_mask,  # ColumnPixels, bool, or None
    valid_mask,  # ColumnPixels, bool, or None for all
    rows,  # Axis of the rows that are upsampled, or None at full resolution
    columns,  # Axis of the columns, or None
    thresholds,  # one to four float32, ascending
    classes_ptr,  # out (N, P) contiguous int32: the class of each rank, a byte each, rank 1 lowest
    counts_ptr,  # out (N, P) contiguous int32: K under each threshold, a byte each; 0 where not valid
    low_height,  # h
    width,  # W
    num_pixels,  # P
    C: tl.constexpr,  # classes, at most 256
    G: tl.constexpr,  # classes in a group: 1 or a power of two
    BLOCK: tl.constexpr,  # columns of a program
    KEY: tl.constexpr,  # "int32" for 16-bit logits at full resolution, otherwise "int64"
    RANKS: tl.constexpr,  # cap on K, 1 to 4 and below C
):
    """Ranks and numbers of positives of BLOCK columns of a row of one image."""
    y = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if G > 1:
        column = column[None, :]
    in_bounds = column < width
    pixel = widened(y) * width + column
    valid = in_bounds
    if valid_mask is not None:
        mask = pixels_of_image(valid_mask, image)
        valid = valid & (tl.load(mask.ptr + pixel * mask.stride_p, mask=in_bounds, other=0) != 0)
    t = teacher_logits(teacher, partner_ptr, mix_mask, rows, columns, column, low_height, width, C, G, BLOCK)
    keys = ()
    for g in tl.static_range(len(t)):
        keys = keys + (make_key(t[g], class_index(g, G), KEY),)
    ranked = top4(keys)
    shift = key_logit(ranked[0], KEY) * LOG2_E
    total = total_mass(t, shift)
    mass = relative_mass(key_logit(ranked[0], KEY), shift)
    classes = key_class(ranked[0])
    counts = tl.where(valid, 0, 0)
    for m in tl.static_range(len(thresholds)):
        counts += 1 << (8 * m)
    for rank in tl.static_range(1, RANKS):
        mass += relative_mass(key_logit(ranked[rank], KEY), shift)
        classes |= key_class(ranked[rank]) << (8 * rank)
        for m in tl.static_range(len(thresholds)):
            counts += tl.where(mass < thresholds[m] * total, 1 << (8 * m), 0)
    out = image * num_pixels + pixel
    tl.store(classes_ptr + out, classes, mask=in_bounds)
    tl.store(counts_ptr + out, tl.where(valid, counts, 0), mask=in_bounds)
