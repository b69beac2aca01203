"""Loads and stores of several classes at once, in which every thread keeps its own column.

A pass of the compiler, TritonGPUCoalesce, looks for each load and store at all operations that hang together with it,
and at what hangs together with those. With 19 classes read and written one by one it took 35 of the 40 seconds that a
kernel compiled; in blocks of a power of two, the same instructions compile in 5. The blocks are flat, a class behind
the other, because one dimension has one order: consecutive threads get consecutive columns, whereas the threads of a
(classes, columns) tile lie along either axis, depending on the version of Triton.
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import join_columns, split_columns


@triton.constexpr_function
def highest_exponent(num_classes):
    """Exponent of the largest block: blocks are the binary digits of the number of classes, the highest first."""
    return num_classes.bit_length() - 1


@triton.jit
def flatten(block):
    """Reshape to one dimension."""
    return tl.reshape(block, [block.numel])


@triton.jit
def load_ends(pointer, left, stride_c, stride_w, FIRST: tl.constexpr, SIZE: tl.constexpr):
    """Two (SIZE, P) blocks of float32: the samples of each class at the left and the right end of each column's cell.

    All of them are loaded: a column that does not exist has a cell that does.

    Args:
        pointer: class 0 of the row.
        left: (P,) int64, elements from there to the left samples.
        stride_c: elements from class to class.
        stride_w: elements from a left sample to the right one; one pointer serves both.
        FIRST: class of the block.
        SIZE: classes of the block.
    """
    P: tl.constexpr = left.shape[0]
    ends = left[None, :] + tl.arange(0, 2)[:, None] * stride_w
    classes = pointer + (FIRST + tl.arange(0, SIZE)).to(tl.int64)[:, None, None] * stride_c
    x = tl.load(flatten(classes + ends[None, :, :]))
    return tl.split(tl.permute(tl.reshape(x.to(tl.float32), [SIZE, 2, P]), [0, 2, 1]))


@triton.jit
def store_rows(pointer, rows, column, in_bounds, stride_c, FIRST: tl.constexpr, SIZE: tl.constexpr):
    """Write some of the classes of a row.

    Args:
        pointer: class 0 of the row.
        rows: (P,) values of every class.
        column: (P,), columns to store to.
        in_bounds: (P,), those that exist.
        stride_c: elements from class to class.
        FIRST: class to begin with.
        SIZE: classes, a power of two.
    """
    P: tl.constexpr = column.shape[0]
    # The pointer of each class first: offsets, the same in every row, would be kept in registers.
    classes = pointer + (FIRST + tl.arange(0, SIZE)).to(tl.int64) * stride_c
    # Nothing is said of neighbours: four columns a thread, stored at once, would pass through shared memory. (The hint
    # sticks to an operation, and would be lost with a call.)
    out = tl.max_contiguous(tl.reshape(classes[:, None] + column[None, :], [SIZE * P]), [1])
    exists = tl.broadcast_to(in_bounds[None, :], [SIZE, P])
    tl.store(out, flatten(rows_to_block(rows[FIRST : FIRST + SIZE])), mask=flatten(exists))


@triton.jit
def block_to_rows(block):
    """The rows of a (power of two, P) block as a tuple of (P,)."""
    P: tl.constexpr = block.shape[1]
    if block.shape[0] == 1:
        return (tl.reshape(block, [P]),)
    else:
        return split_columns(tl.permute(block, [1, 0]), P)


@triton.jit
def rows_to_block(rows):
    """Inverse of ``block_to_rows``."""
    if len(rows) == 1:
        return rows[0][None, :]
    else:
        return tl.permute(join_columns(rows, rows[0].shape[0]), [1, 0])
