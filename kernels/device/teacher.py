"""Logits of a row of a teacher's image: as they are or interpolated, one's own or a partner's."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import load_classes, select, widen
from fpl_fast.kernels.device.interpolation import interpolate, load_row, own_columns
from fpl_fast.kernels.device.operands import Samples
from fpl_fast.kernels.device.strip import pixels_of_image, samples_of_image, widened


@triton.jit
def teacher_logits(
    teacher,  # Samples, float16, bfloat16 or float32
    partner_ptr,  # the teacher where mix_mask is true, with the strides of teacher, or None
    mix_mask,  # Pixels, bool, or None
    rows,  # Axis of the rows that are upsampled, or None at full resolution
    columns,  # Axis of the columns, or None
    column,  # (BLOCK,), or (1, BLOCK) with tiles: columns, which may lie beyond the width
    low_height,  # h
    width,  # W
    C: tl.constexpr,  # classes
    G: tl.constexpr,  # classes in a group: 1 or a power of two
    BLOCK: tl.constexpr,  # columns of a program
):
    """Class groups, float32, of the columns of row ``program_id(1)`` of image ``program_id(2)``."""
    y = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    t = row_logits(samples_of_image(teacher, image), rows, columns, column, low_height, width, C, G, BLOCK)
    if mix_mask is not None:
        mask = pixels_of_image(mix_mask, image)
        pixel = widened(y) * width + column
        mixed = tl.load(mask.ptr + pixel * mask.stride_p, mask=column < width, other=0) != 0
        partner = Samples(partner_ptr, teacher.stride_n, teacher.stride_c, teacher.stride_h, teacher.stride_w)
        other = row_logits(samples_of_image(partner, image), rows, columns, column, low_height, width, C, G, BLOCK)
        t = select(mixed, other, t)
    return t


@triton.jit
def row_logits(
    samples, rows, columns, column, low_height, width, C: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr
):
    """Class groups, float32, of columns of the program's row: interpolated, or as they are without axes."""
    y = tl.program_id(1)
    if rows is None:
        pointer = samples.ptr + widened(y) * samples.stride_h
        offset = column.to(tl.int64) * samples.stride_w
        groups = load_classes(pointer, offset, column < width, samples.stride_c, C, G)
    else:
        at = own_columns(columns, width, G, BLOCK)
        cell = tl.load(rows.cell_ptr + y).to(tl.int64)
        top = load_row(samples, cell, at, C, G)
        bottom = load_row(samples, tl.minimum(cell + 1, low_height - 1), at, C, G)
        groups = interpolate((top, bottom), tl.load(rows.fraction_ptr + y))
    return widen(groups, C, G, False)
