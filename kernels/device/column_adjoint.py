"""Adjoint of the interpolation along the columns: from the rows that ``upsampled`` leaves to the gradient."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from fpl_fast.kernels.device.strip import samples_of_image, widened


class Taps(NamedTuple):
    """SPAN high-resolution columns from the first that touches each low-resolution column, flat: see ``flat``."""

    x: Any  # (SPAN * BLOCK,) int64
    touches: Any  # whether there is one
    weight: Any  # of the high-resolution column in the low-resolution one


@triton.jit(
    do_not_specialize=[
        "first_image",
        "low_height",
        "low_width",
        "width",
        "num_strips",
        "strip_cells",
        "column_cells",
        "max_span",
    ]
)
def column_adjoint_kernel(
    buffer_ptr,  # (images, strips, strip_cells + 1, C, W) contiguous float32
    grad,  # out Samples
    columns,  # Axis of the columns
    first_image,  # of the buffer
    low_height,  # h
    low_width,  # w
    width,  # W
    num_strips,
    strip_cells,  # cell rows of a strip
    column_cells,  # max(w - 1, 1)
    max_span,  # most high-resolution columns that touch one low-resolution column
    C: tl.constexpr,  # classes
    CLASSES: tl.constexpr,  # of a program, which share the weights
    BLOCK: tl.constexpr,  # low-resolution columns of a program: one a thread
    SPAN: tl.constexpr,  # high-resolution columns that are loaded at once, a power of two
):
    """Horizontal adjoint of the interpolation: one program owns BLOCK columns of one row of some classes of ``grad``.

    Every strip has written the rows of its cells; a row between two strips is the sum of two.
    """
    blocks = tl.cdiv(low_width, BLOCK)
    groups: tl.constexpr = (C + CLASSES - 1) // CLASSES
    program = tl.program_id(0).to(tl.int64)
    column = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    first_class = (program // blocks % groups).to(tl.int32) * CLASSES
    row = (program // blocks // groups % low_height).to(tl.int32)
    image = program // blocks // groups // low_height

    strip = tl.minimum(row // strip_cells, num_strips - 1)
    row_in_strip = row - strip * strip_cells
    strip_rows = strip_cells + 1
    own_row = ((image * num_strips + strip) * strip_rows + row_in_strip) * C
    border_row = ((image * num_strips + strip - 1) * strip_rows + strip_cells) * C
    on_border = (row_in_strip == 0) & (strip > 0)

    grad = samples_of_image(grad, first_image + image)
    taps = load_taps(columns, column, low_width, column_cells, 0, BLOCK, SPAN)
    # All classes before the first store, so that their loads are on their way at once.
    totals = ()
    for i in tl.static_range(CLASSES):
        own = buffer_ptr + (own_row + tl.minimum(first_class + i, C - 1)) * width
        totals = totals + (gather(own, taps, columns, column, low_width, column_cells, max_span, BLOCK, SPAN),)
    if on_border:
        sums = ()
        for i in tl.static_range(CLASSES):
            border = buffer_ptr + (border_row + tl.minimum(first_class + i, C - 1)) * width
            further = gather(border, taps, columns, column, low_width, column_cells, max_span, BLOCK, SPAN)
            sums = sums + (totals[i] + further,)
        totals = sums
    for i in tl.static_range(CLASSES):
        number = first_class + i
        out = (
            grad.ptr
            + widened(number) * grad.stride_c
            + widened(row) * grad.stride_h
            + column.to(tl.int64) * grad.stride_w
        )
        tl.store(out, totals[i].to(grad.ptr.dtype.element_ty), mask=(column < low_width) & (number < C))


@triton.jit
def gather(row_ptr, taps, columns, column, low_width, column_cells, max_span, BLOCK: tl.constexpr, SPAN: tl.constexpr):
    """Weighted sums of a row of the buffer, (BLOCK,); ``taps`` are the first, and nearly always all."""
    total = sum_taps(row_ptr, taps, BLOCK, SPAN)
    for first in range(SPAN, max_span, SPAN):
        further = load_taps(columns, column, low_width, column_cells, first, BLOCK, SPAN)
        total += sum_taps(row_ptr, further, BLOCK, SPAN)
    return total


@triton.jit
def load_taps(columns, column, low_width, column_cells, first, BLOCK: tl.constexpr, SPAN: tl.constexpr):
    """Taps of the columns, from the tap ``first`` on."""
    exists = column < low_width
    # High-resolution columns of the cell to the left, [begin, middle), and of the cell to the right, [middle, end).
    begin = tl.load(columns.start_ptr + tl.maximum(column - 1, 0), mask=exists, other=0)
    middle = tl.load(columns.start_ptr + tl.minimum(column, column_cells), mask=exists, other=0)
    end = tl.load(columns.start_ptr + tl.minimum(column + 1, column_cells), mask=exists, other=0)
    # int64, so that taps share an address and differ by an immediate offset
    x = begin.to(tl.int64)[None, :] + first + tl.arange(0, SPAN).to(tl.int64)[:, None]
    touches = tl.reshape(x < end[None, :], [SPAN * BLOCK])
    is_left = tl.reshape(x < middle[None, :], [SPAN * BLOCK])
    x = tl.reshape(x, [SPAN * BLOCK])
    fraction = tl.load(columns.fraction_ptr + x, mask=touches, other=0.0)
    return Taps(x, touches, tl.where(is_left, fraction, 1.0 - fraction))


@triton.jit
def sum_taps(row_ptr, taps, BLOCK: tl.constexpr, SPAN: tl.constexpr):
    """Sum of the taps in a row of the buffer, (BLOCK,)."""
    value = tl.load(row_ptr + taps.x, mask=taps.touches, other=0.0)
    return tl.sum(tl.reshape(taps.weight * value, [SPAN, BLOCK]), 0)
