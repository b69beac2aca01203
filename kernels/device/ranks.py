"""Each pixel's most probable classes and, for every one of a few thresholds, its number of positives: bytes.

The assignment is that of the loss (``assignment``): the same ranks, masses and comparisons.
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import LOG2_E
from fpl_fast.kernels.device.assignment import relative_mass, total_mass
from fpl_fast.kernels.device.classes import class_index, load_classes, select, widen
from fpl_fast.kernels.device.interpolation import interpolate, load_row, own_columns
from fpl_fast.kernels.device.keys import key_class, key_logit, make_key
from fpl_fast.kernels.device.operands import Samples
from fpl_fast.kernels.device.ranking import top4
from fpl_fast.kernels.device.strip import pixels_of_image, samples_of_image, widened


@triton.jit
def ranks_kernel(
    teacher,  # Samples, float16, bfloat16 or float32
    partner_ptr,  # the teacher where mix_mask is true, with the strides of teacher, or None
    mix_mask,  # Pixels, bool, or None
    valid_mask,  # Pixels, bool, or None for all
    rows,  # Axis of the rows that are upsampled, or None at full resolution
    columns,  # Axis of the columns, or None
    thresholds,  # one to four float32, ascending
    classes_ptr,  # out (N, P) contiguous int32: the class of each rank, a byte each, rank 1 lowest
    counts_ptr,  # out (N, P) contiguous int32: K under each threshold, a byte each; 0 where not valid
    low_height,  # h
    low_width,  # w
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
    t = row_logits(samples_of_image(teacher, image), rows, columns, column, low_height, low_width, width, C, G, BLOCK)
    if mix_mask is not None:
        mask = pixels_of_image(mix_mask, image)
        mixed = tl.load(mask.ptr + pixel * mask.stride_p, mask=in_bounds, other=0) != 0
        partner = Samples(partner_ptr, teacher.stride_n, teacher.stride_c, teacher.stride_h, teacher.stride_w)
        other = row_logits(
            samples_of_image(partner, image), rows, columns, column, low_height, low_width, width, C, G, BLOCK
        )
        t = select(mixed, other, t)

    keys = ()
    for g in tl.static_range(len(t)):
        keys = keys + (make_key(t[g], class_index(g, G), KEY),)
    ranked = top4(keys)
    shift = key_logit(ranked[0]) * LOG2_E
    total = total_mass(t, shift)
    mass = relative_mass(key_logit(ranked[0]), shift)
    classes = key_class(ranked[0])
    counts = tl.where(valid, 0, 0)
    for m in tl.static_range(len(thresholds)):
        counts += 1 << (8 * m)
    for rank in tl.static_range(1, RANKS):
        mass += relative_mass(key_logit(ranked[rank]), shift)
        classes |= key_class(ranked[rank]) << (8 * rank)
        for m in tl.static_range(len(thresholds)):
            counts += tl.where(mass < thresholds[m] * total, 1 << (8 * m), 0)
    out = image * num_pixels + pixel
    tl.store(classes_ptr + out, classes, mask=in_bounds)
    tl.store(counts_ptr + out, tl.where(valid, counts, 0), mask=in_bounds)


@triton.jit
def row_logits(
    samples, rows, columns, column, low_height, low_width, width, C: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr
):
    """Class groups, float32, of columns of the program's row: interpolated, or as they are without axes."""
    y = tl.program_id(1)
    if rows is None:
        pointer = samples.ptr + widened(y) * samples.stride_h
        offset = column.to(tl.int64) * samples.stride_w
        groups = load_classes(pointer, offset, column < width, samples.stride_c, C, G, False, BLOCK)
    else:
        at = own_columns(columns, low_width, width, G, BLOCK)
        cell = tl.load(rows.cell_ptr + y).to(tl.int64)
        top = load_row(samples, cell, at, C, G)
        bottom = load_row(samples, tl.minimum(cell + 1, low_height - 1), at, C, G)
        groups = interpolate((top, bottom), tl.load(rows.fraction_ptr + y))
    return widen(groups, C, G)
