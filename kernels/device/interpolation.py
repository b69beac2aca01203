"""Bilinear interpolation of class groups in registers, and arithmetic with tuples.

An axis of L low-resolution samples has max(L - 1, 1) *cells* between them. Every high-resolution position lies in one
cell, at a fraction f in [0, 1] of it: its value is (1 - f) * sample[cell] + f * sample[cell + 1].
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import class_index, fold_sum, tile_mask
from fpl_fast.kernels.device.flat import block_to_rows, highest_exponent, load_ends


class Columns(NamedTuple):
    """High-resolution columns, (P,) or, for tiles of classes, (1, P), between their low-resolution samples."""

    column: Any  # int32
    in_bounds: Any  # columns that exist
    cell: Any  # int64: the sample on the left, behind which lies the one on the right; 0 for columns that do not exist
    fraction: Any  # of the way from there to the sample on the right


@triton.jit
def own_columns(axis, width, G: tl.constexpr, BLOCK: tl.constexpr):
    """The BLOCK columns of this program; ``axis`` holds the tables of the columns."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if G > 1:
        column = column[None, :]
    in_bounds = column < width
    cell = tl.load(axis.cell_ptr + column, mask=in_bounds, other=0).to(tl.int64)
    fraction = tl.load(axis.fraction_ptr + column, mask=in_bounds, other=0.0)
    return Columns(column, in_bounds, cell, fraction)


@triton.jit
def load_row(samples, row, columns, C: tl.constexpr, G: tl.constexpr):
    """Class groups, float32, of one low-resolution row at high-resolution columns, whatever they are out of bounds.

    Args:
        samples: of one image.
        row: int64.
        columns: ``Columns``.
        C: classes.
        G: classes in a group.
    """
    pointer = samples.ptr + row * samples.stride_h
    left = columns.cell * samples.stride_w
    groups = ()
    if G == 1:
        for exponent in tl.static_range(highest_exponent(C), -1, -1):
            if C & 1 << exponent:
                a, b = load_ends(
                    pointer,
                    left,
                    samples.stride_c,
                    samples.stride_w,
                    FIRST=C // (2 << exponent) * (2 << exponent),
                    SIZE=1 << exponent,
                )
                groups = groups + block_to_rows(a + (b - a) * columns.fraction[None, :])
    else:
        for g in tl.static_range((C + G - 1) // G):
            classes = pointer + class_index(g, G).to(tl.int64) * samples.stride_c
            exists = tile_mask(columns.in_bounds, g, C, G)
            a = tl.load(classes + left, mask=exists, other=0.0).to(tl.float32)
            b = tl.load(classes + (left + samples.stride_w), mask=exists, other=0.0).to(tl.float32)
            groups = groups + (a + (b - a) * columns.fraction,)
    return groups


@triton.jit
def interpolate(rows, fraction):
    """Class groups at ``fraction`` of the way from the first of two rows to the second."""
    top, bottom = rows
    between = ()
    for g in tl.static_range(len(top)):
        between = between + (top[g] + (bottom[g] - top[g]) * fraction,)
    return between


@triton.jit
def zero_times_change(rows):
    """Compute 0 for a column, or NaN if between two rows a logit is NaN or infinite or steps too far for float32.

    It holds for all pixels of a cell, in which ``interpolate`` takes the same steps.
    """
    top, bottom = rows
    total = (bottom[0] - top[0]) * 0.0
    for g in tl.static_range(1, len(top)):
        total = tl.fma(bottom[g] - top[g], 0.0, total)
    return fold_sum(total)


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
