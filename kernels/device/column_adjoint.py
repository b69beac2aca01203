"""Adjoint of the interpolation along the columns: from the rows that ``upsampled`` leaves to the gradient."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["low_height", "low_width", "num_strips", "strip_cells", "column_cells", "max_span"])
def column_adjoint_kernel(
    buffer_ptr,  # (images, strips, strip_cells + 1, C, W) contiguous float32
    grad,  # out Samples
    columns,  # Axis of the columns
    low_height,  # h
    low_width,  # w
    width,  # W
    num_strips,
    strip_cells,  # cell rows of a strip
    column_cells,  # max(w - 1, 1)
    max_span,  # most high-resolution columns that touch one low-resolution column
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
    begin = tl.load(columns.start_ptr + tl.maximum(column - 1, 0), mask=exists, other=0)
    middle = tl.load(columns.start_ptr + tl.minimum(column, column_cells), mask=exists, other=0)
    end = tl.load(columns.start_ptr + tl.minimum(column + 1, column_cells), mask=exists, other=0)

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
        fraction = tl.load(columns.fraction_ptr + x, mask=touches, other=0.0)
        weight = tl.where(x < middle, fraction, 1.0 - fraction)
        value = tl.load(buffer_ptr + buffer_row * width + x, mask=touches, other=0.0)
        value += tl.load(buffer_ptr + border_row * width + x, mask=touches & on_border, other=0.0)
        total += weight * value
    offset = image * grad.stride_n + class_number.to(tl.int64) * grad.stride_c + row.to(tl.int64) * grad.stride_h
    out = grad.ptr + offset + column.to(tl.int64) * grad.stride_w
    tl.store(out, total.to(grad.ptr.dtype.element_ty), mask=exists)
