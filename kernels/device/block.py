"""A block of pixels of one image at full resolution: its place, what it loads and what it stores.

A program owns one block and all its classes.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import load_classes, select, store_classes
from fpl_fast.kernels.device.rows import load_rows, store_rows

COUNT_BITS = tl.constexpr(10)
COUNT_MASK = tl.constexpr(1023)


@triton.constexpr_function
def holds(groups, item):
    """Whether one of the groups has the item."""
    return groups is not None and any(item in group for group in groups)


class Block(NamedTuple):
    """BLOCK pixels, (P,) or, for tiles of classes, (1, P)."""

    image: Any  # int64
    first_pixel: Any  # int64
    pixel: Any  # int64, counted from the first
    in_bounds: Any  # pixels that exist
    num_left: Any  # int32: the first of them exist


@triton.jit
def own_block(num_pixels, blocks_per_image, G: tl.constexpr, BLOCK: tl.constexpr):
    """The block of this program."""
    program = tl.program_id(0)
    image = (program // blocks_per_image).to(tl.int64)
    first_pixel = (program % blocks_per_image).to(tl.int64) * BLOCK
    pixel = tl.arange(0, BLOCK)
    if G > 1:
        pixel = pixel[None, :]
    num_left = tl.minimum(num_pixels - first_pixel, BLOCK).to(tl.int32)  # comparisons of int64 take two instructions
    return Block(image, first_pixel, pixel.to(tl.int64), pixel < num_left, num_left)


@triton.jit
def first_of(x, block):
    """Pointer to the block's first pixel (and class) of a tensor, see ``operands``."""
    return x.ptr + (block.image * x.stride_n + block.first_pixel * x.stride_p)


@triton.jit
def load_pixels(x, block):
    """Load a value of each pixel, 0 out of bounds."""
    return tl.load(first_of(x, block) + block.pixel * x.stride_p, mask=block.in_bounds, other=0)


@triton.jit
def load_mask(x, block):
    """Load a mask; False out of bounds."""
    return block.in_bounds & (load_pixels(x, block) != 0)


@triton.jit
def load_logits(x, block, chosen, C: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr):
    """Load the class groups of the chosen pixels (None for all); whatever they are elsewhere."""
    if x.ROWS == 0:
        return load_classes(
            first_of(x, block),
            block.pixel * x.stride_p,
            block.in_bounds if chosen is None else chosen,
            x.stride_c,
            C,
            G,
        )
    else:
        num_pixels = block.num_left
        if chosen is not None:
            num_pixels = tl.where(tl.max(chosen.to(tl.int32)) > 0, num_pixels, 0)
        return load_rows(first_of(x, block), num_pixels, C, x.ROWS, BLOCK)


@triton.jit
def load_teacher(teacher, partner, mix_mask, block, C: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr):
    """Load the class groups of the teacher, of the partner where ``mix_mask`` is true.

    A block wholly on one side moves nothing of the other.
    """
    own = None
    if mix_mask is not None:
        mixed = load_mask(mix_mask, block)
        own = block.in_bounds & ~mixed
    t = load_logits(teacher, block, own, C, G, BLOCK)
    if mix_mask is not None:
        t = select(mixed, load_logits(partner, block, mixed, C, G, BLOCK), t)
    return t


@triton.jit
def store_gradient(x, block, groups, C: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr):
    """Store class groups, rounded to the type of the tensor."""
    pointer = first_of(x, block)
    if x.ROWS == 0:
        store_classes(pointer, block.pixel * x.stride_p, block.in_bounds, x.stride_c, groups, C, G)
    else:
        store_rows(pointer, block.num_left, groups, C, x.ROWS, BLOCK, FAST)


@triton.jit
def store_terms(terms, block, num_pixels, sums_ptr, map_ptr, COUNTS: tl.constexpr):
    """Store the first term of each pixel in a contiguous map, and the program's sums of all terms.

    COUNTS names, in groups of up to three, terms that are whole numbers. The sums of a group share the bits of one
    integer: it has room for three that do not exceed the number of pixels, or for any other one. None names none.
    """
    if map_ptr is not None:
        pixel = block.image * num_pixels + block.first_pixel + block.pixel
        tl.store(map_ptr + pixel, terms[0], mask=block.in_bounds)
    if sums_ptr is not None:
        sums_ptr += tl.program_id(0)
        for i in tl.static_range(len(terms)):
            if not holds(COUNTS, i):
                tl.store(sums_ptr + i * tl.num_programs(0), tl.sum(terms[i]))
        for group in tl.static_range(0 if COUNTS is None else len(COUNTS)):
            packed = terms[COUNTS[group][0]].to(tl.int32)
            for k in tl.static_range(1, len(COUNTS[group])):
                tl.static_assert(packed.numel <= COUNT_MASK)
                packed += terms[COUNTS[group][k]].to(tl.int32) << (COUNT_BITS * k)
            packed = tl.sum(packed)
            for k in tl.static_range(len(COUNTS[group])):
                count = packed if len(COUNTS[group]) == 1 else (packed >> (COUNT_BITS * k)) & COUNT_MASK
                tl.store(sums_ptr + COUNTS[group][k] * tl.num_programs(0), count)
