"""Class groups in memory: strided loads and stores, padding and reduction over classes."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import INFINITY
from fpl_fast.kernels.device.pairs import add_zero_times, to_float32


@triton.jit
def class_index(GROUP_INDEX: tl.constexpr, G: tl.constexpr):
    """Classes of a group: its number if groups are single classes, an int32 column (G, 1) if they are tiles."""
    if G == 1:
        return GROUP_INDEX
    else:
        return GROUP_INDEX * G + tl.arange(0, G)[:, None]


@triton.jit
def load_classes(pointer, pixel_offset, in_bounds, stride_c, C: tl.constexpr, G: tl.constexpr):
    """Tuple of the cdiv(C, G) class groups of P pixels, zero out of bounds.

    Args:
        pointer: first class of the first pixel.
        pixel_offset: elements from there to each pixel, int64, (P,) or (1, P).
        in_bounds: pixels to load, of the same shape.
        stride_c: elements from class to class.
        C: number of classes.
        G: classes in a group.
    """
    groups = ()
    for g in tl.static_range((C + G - 1) // G):
        if G == 1:
            groups = groups + (tl.load(pointer + pixel_offset, mask=in_bounds, other=0.0),)
            pointer += stride_c  # step by step: class * stride_c may pass 2^31
        else:
            offset = class_index(g, G).to(tl.int64) * stride_c + pixel_offset
            groups = groups + (tl.load(pointer + offset, mask=tile_mask(in_bounds, g, C, G), other=0.0),)
    return groups


@triton.jit
def store_classes(pointer, pixel_offset, in_bounds, stride_c, groups, C: tl.constexpr, G: tl.constexpr):
    """Counterpart of ``load_classes``; rounds to the pointer's type."""
    for g in tl.static_range(len(groups)):
        if G == 1:
            tl.store(pointer + pixel_offset, groups[g], mask=in_bounds)
            pointer += stride_c
        else:
            offset = class_index(g, G).to(tl.int64) * stride_c + pixel_offset
            tl.store(pointer + offset, groups[g], mask=tile_mask(in_bounds, g, C, G))


@triton.jit
def tile_mask(in_bounds, GROUP_INDEX: tl.constexpr, C: tl.constexpr, G: tl.constexpr):
    """(G, P) mask of a tile; only the last one holds classes that do not exist."""
    if (GROUP_INDEX + 1) * G <= C:
        return in_bounds & (tl.arange(0, G)[:, None] >= 0)
    else:
        return in_bounds & (class_index(GROUP_INDEX, G) < C)


@triton.jit
def widen(groups, C: tl.constexpr, G: tl.constexpr, FAST: tl.constexpr):
    """The groups in float32, classes that do not exist set to -inf: they win no maximum and add nothing to a sum."""
    wide = ()
    for g in tl.static_range(len(groups)):
        x = to_float32(groups[g], FAST)
        if (g + 1) * G > C:
            x = tl.where(class_index(g, G) < C, x, -INFINITY)
        wide = wide + (x,)
    return wide


@triton.jit
def select(condition, a, b):
    """Select the class groups of ``a`` where the pixel's condition holds, of ``b`` elsewhere."""
    chosen = ()
    for g in tl.static_range(len(a)):
        chosen = chosen + (tl.where(condition, a[g], b[g]),)
    return chosen


@triton.jit
def keep(condition, groups):
    """Class groups that are zero where the pixel's condition does not hold."""
    kept = ()
    for g in tl.static_range(len(groups)):
        kept = kept + (tl.where(condition, groups[g], 0.0),)
    return kept


@triton.jit
def zero_times_sum(groups, FAST: tl.constexpr):
    """Compute, per pixel, 0 for finite logits and NaN if one is NaN or infinite, from groups as loaded."""
    total = tl.zeros_like(groups[0])
    for g in tl.static_range(len(groups)):
        total = add_zero_times(total, groups[g], FAST)
    return fold_sum(total.to(tl.float32))


@triton.jit
def fold_sum(x):
    """Sum over the classes of a tile, (G, P) to (1, P); (P,) as it is."""
    if len(x.shape) == 2:
        return tl.sum(x, 0, keep_dims=True)
    else:
        return x


@triton.jit
def fold_max(x):
    """Maximum over the classes of a tile, (G, P) to (1, P); (P,) as it is."""
    if len(x.shape) == 2:
        return tl.max(x, 0, keep_dims=True)
    else:
        return x


@triton.jit
def fold_min(x):
    """Minimum over the classes of a tile, (G, P) to (1, P); (P,) as it is."""
    if len(x.shape) == 2:
        return tl.min(x, 0, keep_dims=True)
    else:
        return x


@triton.constexpr_function
def log2_of_power(n):
    """Exponent of a power of two."""
    return n.bit_length() - 1


@triton.jit
def pairs(x, WIDTH: tl.constexpr, P: tl.constexpr):
    """A (P, WIDTH) block with its last axis in pairs, as tl.split takes it."""
    return tl.reshape(x, [P, WIDTH // 2, 2]) if WIDTH > 2 else x


@triton.jit
def split_columns(rows, P: tl.constexpr):
    """The columns of a (P, power of two) block as a tuple of (P,), by halving: even columns first, odd ones second."""
    columns = (rows,)
    WIDTH: tl.constexpr = rows.shape[1]
    for level in tl.static_range(log2_of_power(WIDTH)):
        even = ()
        odd = ()
        for i in tl.static_range(len(columns)):
            left, right = tl.split(pairs(columns[i], WIDTH >> level, P))
            even = even + (left,)
            odd = odd + (right,)
        columns = even + odd
    return columns


@triton.jit
def join_columns(columns, P: tl.constexpr):
    """Inverse of ``split_columns``."""
    WIDTH: tl.constexpr = len(columns)
    for level in tl.static_range(log2_of_power(WIDTH)):
        joined = ()
        for i in tl.static_range(len(columns) // 2):
            pair = tl.join(columns[i], columns[i + len(columns) // 2])
            if level > 0:
                pair = tl.reshape(pair, [P, 2 << level])
            joined = joined + (pair,)
        columns = joined
    return columns[0]
