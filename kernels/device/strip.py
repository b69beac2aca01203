"""A strip of an upsampled image that a program marches down: the sides of its pixels, what it loads and stores."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import class_index, tile_mask
from fpl_fast.kernels.device.flat import highest_exponent, store_rows
from fpl_fast.kernels.device.interpolation import load_row
from fpl_fast.kernels.device.operands import ColumnPixels, Samples


@triton.jit
def elements(stride):
    """Elements of a stride in sixteenths, see ``operands``."""
    return stride // 16  # to Triton's interpreter a shift takes 2^31 for a negative number


@triton.jit
def samples_of_image(x, image):
    """The samples of one image, from its first, with strides in elements."""
    stride_n = elements(x.stride_n)
    return Samples(x.ptr + image * stride_n, stride_n, elements(x.stride_c), elements(x.stride_h), x.stride_w)


@triton.jit
def pixels_of_image(x, image):
    """The pixels of one image, from its first, with strides in elements."""
    stride_n = elements(x.stride_n)
    return ColumnPixels(x.ptr + image * stride_n, stride_n, x.stride_p)


@triton.jit
def widened(index):
    """Convert a loop's index (in the interpreter a Python number) to int64: its product with a stride may pass 2^31."""
    return tl.full((), 0, tl.int64) + index


@triton.jit
def is_on_side(valid_mask, mix_mask, y, width, columns, side):
    """Mask of the valid pixels of row ``y`` whose teacher is the image's own (side 0) or the partner (side 1)."""
    pixel = widened(y) * width + columns.column
    chosen = columns.in_bounds
    if valid_mask is not None:
        valid = tl.load(valid_mask.ptr + pixel * valid_mask.stride_p, mask=columns.in_bounds, other=0) != 0
        chosen = chosen & valid
    if mix_mask is not None:
        mixed = tl.load(mix_mask.ptr + pixel * mix_mask.stride_p, mask=columns.in_bounds, other=0) != 0
        chosen = chosen & (mixed == (side == 1))
    return chosen


@triton.jit
def load_sides_rows(teacher, partner_ptr, side, row, next_row, columns, C: tl.constexpr, G: tl.constexpr):
    """Two rows of the image's own teacher (side 0) or of the partner (side 1), which has the teacher's strides."""
    if partner_ptr is not None:
        source = tl.where(widened(side) == 0, teacher.ptr, partner_ptr)
        teacher = Samples(source, teacher.stride_n, teacher.stride_c, teacher.stride_h, teacher.stride_w)
    return load_row(teacher, row, columns, C, G), load_row(teacher, next_row, columns, C, G)


@triton.jit
def zero_terms(in_bounds, NUM_TERMS: tl.constexpr):
    """A zero per column for each of the terms."""
    zeros = ()
    for _ in tl.static_range(NUM_TERMS):
        zeros = zeros + (tl.where(in_bounds, 0.0, 0.0),)
    return zeros


@triton.jit
def zero_groups(in_bounds, C: tl.constexpr, G: tl.constexpr):
    """Class groups of zeros for the columns."""
    zero = tl.where(in_bounds, 0.0, 0.0)
    zeros = ()
    for _ in tl.static_range((C + G - 1) // G):
        zeros = zeros + (zero + tl.zeros((G, 1), tl.float32) if G > 1 else zero,)
    return zeros


@triton.jit
def store_row(pointer, groups, columns, width, C: tl.constexpr, G: tl.constexpr):
    """Write one row of the buffer, (C, W)."""
    if G == 1:
        for exponent in tl.static_range(highest_exponent(C), -1, -1):
            if C & 1 << exponent:
                store_rows(
                    pointer,
                    groups,
                    columns.column,
                    columns.in_bounds,
                    width,
                    FIRST=C // (2 << exponent) * (2 << exponent),
                    SIZE=1 << exponent,
                )
    else:
        for g in tl.static_range(len(groups)):
            offset = class_index(g, G) * width + columns.column
            tl.store(pointer + offset, groups[g], mask=tile_mask(columns.in_bounds, g, C, G))


@triton.jit
def store_sums(pointer, totals, num_programs):
    """Write the sums of the program's columns, (terms, programs)."""
    program = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    for i in tl.static_range(len(totals)):
        tl.store(pointer + i * num_programs + program, tl.sum(totals[i]))
