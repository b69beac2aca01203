"""Bilinear interpolation of class groups in registers, and its adjoint.

An axis of L low-resolution samples has max(L - 1, 1) *cells* between them. Every high-resolution position lies in one
cell, at a fraction f in [0, 1] of it: its value is (1 - f) * sample[cell] + f * sample[cell + 1].
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import class_index, tile_mask


@triton.jit
def load_row(pointer, left, right, fraction, in_bounds, stride_c, C: tl.constexpr, G: tl.constexpr):
    """Class groups, float32, of one low-resolution row at the columns of a block.

    Args:
        pointer: first class and first column of the row.
        left: elements from there to the column's left sample, int64, (P,) or (1, P).
        right: elements from there to its right sample.
        fraction: of the column in its cell.
        in_bounds: columns that exist.
        stride_c: elements from class to class.
        C: classes.
        G: classes in a group.
    """
    row = ()
    for g in tl.static_range((C + G - 1) // G):
        if G == 1:
            a = tl.load(pointer + left, mask=in_bounds, other=0.0).to(tl.float32)
            b = tl.load(pointer + right, mask=in_bounds, other=0.0).to(tl.float32)
            pointer += stride_c  # step by step: class * stride_c may pass 2^31
        else:
            classes = pointer + class_index(g, G).to(tl.int64) * stride_c
            exists = tile_mask(in_bounds, g, C, G)
            a = tl.load(classes + left, mask=exists, other=0.0).to(tl.float32)
            b = tl.load(classes + right, mask=exists, other=0.0).to(tl.float32)
        row = row + (a + (b - a) * fraction,)
    return row


@triton.jit
def interpolate(top, bottom, fraction):
    """Class groups at ``fraction`` of the way from the row ``top`` to the row ``bottom``."""
    between = ()
    for g in tl.static_range(len(top)):
        between = between + (top[g] + (bottom[g] - top[g]) * fraction,)
    return between


@triton.jit
def zeros_like(groups):
    """Class groups of zeros."""
    zeros = ()
    for g in tl.static_range(len(groups)):
        zeros = zeros + (tl.zeros_like(groups[g]),)
    return zeros


@triton.jit
def add(a, b):
    """Sum of two tuples, element by element."""
    total = ()
    for i in tl.static_range(len(a)):
        total = total + (a[i] + b[i],)
    return total


@triton.jit
def add_scaled(a, b, factor):
    """Compute ``a + factor * b``, element by element."""
    total = ()
    for i in tl.static_range(len(a)):
        total = total + (tl.fma(b[i], factor, a[i]),)
    return total


@triton.jit
def column_adjoint_kernel(
    buffer_ptr,  # (images, strips, strip_cells + 1, C, W) contiguous float32
    grad_ptr,  # out (images, C, h, w) by strides
    column_start_ptr,  # (cells + 1,) int32: first high-resolution column in or behind each cell
    column_fraction_ptr,  # (W,) float32
    low_height,  # h
    low_width,  # w
    width,  # W
    num_strips,
    strip_cells,  # cell rows of a strip
    column_cells,  # max(w - 1, 1)
    max_span,  # most high-resolution columns that touch one low-resolution column
    grad_stride_n,
    grad_stride_c,
    grad_stride_h,
    grad_stride_w,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Horizontal adjoint of the interpolation: one program owns BLOCK columns of one row of one class of ``grad``.

    Every strip has written the rows of its cells; a row between two strips is the sum of two.
    """
    blocks = tl.cdiv(low_width, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    first_column = (program % blocks).to(tl.int32) * BLOCK
    class_number = ((program // blocks) % C).to(tl.int32)
    row = ((program // blocks // C) % low_height).to(tl.int32)
    image = program // blocks // C // low_height

    column = first_column + tl.arange(0, BLOCK)
    exists = column < low_width
    # High-resolution columns of the cell to the left, [begin, middle), and of the cell to the right, [middle, end).
    begin = tl.load(column_start_ptr + tl.maximum(column - 1, 0), mask=exists, other=0)
    middle = tl.load(column_start_ptr + tl.minimum(column, column_cells), mask=exists, other=0)
    end = tl.load(column_start_ptr + tl.minimum(column + 1, column_cells), mask=exists, other=0)

    strip = tl.minimum(row // strip_cells, num_strips - 1)
    row_in_strip = row - strip * strip_cells
    strip_rows = strip_cells + 1
    buffer_row = ((image * num_strips + strip) * strip_rows + row_in_strip) * C + class_number
    border_row = ((image * num_strips + strip - 1) * strip_rows + strip_cells) * C + class_number
    on_border = (row_in_strip == 0) & (strip > 0)

    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(0, max_span):
        x = begin + i
        touches = exists & (x < end)
        fraction = tl.load(column_fraction_ptr + x, mask=touches, other=0.0)
        weight = tl.where(x < middle, fraction, 1.0 - fraction)
        value = tl.load(buffer_ptr + buffer_row * width + x, mask=touches, other=0.0)
        value += tl.load(buffer_ptr + border_row * width + x, mask=touches & on_border, other=0.0)
        total += weight * value
    grad_ptr += image * grad_stride_n + class_number.to(tl.int64) * grad_stride_c + row.to(tl.int64) * grad_stride_h
    tl.store(grad_ptr + column.to(tl.int64) * grad_stride_w, total.to(grad_ptr.dtype.element_ty), mask=exists)
