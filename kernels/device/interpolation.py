"""Bilinear interpolation of class groups in registers.

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
