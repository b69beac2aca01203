"""The choice among thresholds by agreement with the neighbours: a stencil over the bytes of ``ranks``.

The divergence of a candidate is a sum over classes, of which only those that are positives somewhere in the window
contribute. Counts of all candidates are kept in the bytes of one word: a class costs a comparison with four bytes and a
packed addition for each neighbour, and a block skips the classes that none of its windows holds.
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.strip import widened

BYTES = tl.constexpr(0x01010101)
NO_RANK = tl.constexpr(63)  # beyond any K, and 64 + K - 63 sets no bit 6


# No number decides how wide a thread loads its column: see ``upsampled``.
@triton.jit(do_not_specialize=["height", "width", "num_pixels"])
def context_kernel(
    classes_ptr,  # (N, P) contiguous int32, see ``ranks``
    counts_ptr,  # (N, P) contiguous int32, see ``ranks``
    table_ptr,  # (RANKS + 1, neighbours * RANKS + 1, neighbours + 1) contiguous int32, see ``divergence``
    thresholds,  # one to four float32
    chosen_ptr,  # out (N, P) contiguous float32: the threshold with the least divergence, the first among equals
    height,  # H
    width,  # W
    num_pixels,  # P
    C: tl.constexpr,  # classes
    RANKS: tl.constexpr,  # cap on K
    WINDOW: tl.constexpr,  # side, odd, at most 15: counts of neighbours fit into a byte
    BLOCK: tl.constexpr,  # columns of a program
):
    """The threshold of each of BLOCK columns of a row of one image."""
    NEIGHBOURS: tl.constexpr = WINDOW * WINDOW - 1
    COUNTS: tl.constexpr = NEIGHBOURS + 1
    SUMS: tl.constexpr = NEIGHBOURS * RANKS + 1
    y = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(2).to(tl.int64) * num_pixels
    classes_ptr += first
    counts_ptr += first
    pixel = widened(y) * width + column
    own_classes = tl.load(classes_ptr + pixel, mask=column < width, other=0)
    own_counts = tl.load(counts_ptr + pixel, mask=column < width, other=0)

    present = classes_in(own_classes, own_counts, len(thresholds), RANKS)
    even = tl.zeros_like(own_counts)  # sums of K: of candidates 1 and 3 in the halves of a word
    odd = tl.zeros_like(own_counts)  # of candidates 2 and 4
    for step in range(WINDOW * WINDOW):
        offset, exists = neighbour(step, y, column, height, width, WINDOW)
        counts = tl.load(counts_ptr + offset, mask=exists, other=0)
        classes = tl.load(classes_ptr + offset, mask=exists, other=0)
        even += counts & 0x00FF00FF
        odd += (counts >> 8) & 0x00FF00FF
        present |= classes_in(classes, counts, len(thresholds), RANKS)
    present = tl.reduce(present, 0, bitwise_or)

    divergences = ()
    for _ in tl.static_range(len(thresholds)):
        divergences = divergences + (tl.zeros_like(own_counts),)
    for c in range(C):
        if (present >> (c & 31)) & 1 != 0:
            packed = tl.zeros_like(own_counts)  # neighbours of which this class is a positive
            for step in range(WINDOW * WINDOW):
                offset, exists = neighbour(step, y, column, height, width, WINDOW)
                counts = tl.load(counts_ptr + offset, mask=exists, other=0)
                classes = tl.load(classes_ptr + offset, mask=exists, other=0)
                packed += is_positive(classes, counts, c, RANKS)
            own = is_positive(own_classes, own_counts, c, RANKS)
            updated = ()
            for m in tl.static_range(len(thresholds)):
                k = byte(own_counts, m) * byte(own, m)
                total = ((even if m % 2 == 0 else odd) >> (16 * (m // 2))) & 0xFFFF
                term = (k * SUMS + total) * COUNTS + byte(packed, m)
                updated = updated + (divergences[m] + tl.load(table_ptr + term),)
            divergences = updated

    least = divergences[0]
    chosen = tl.zeros_like(least).to(tl.float32) + thresholds[0]
    for m in tl.static_range(1, len(thresholds)):
        better = (divergences[m] < least) & (own_counts != 0)
        least = tl.where(better, divergences[m], least)
        chosen = tl.where(better, thresholds[m], chosen)
    tl.store(chosen_ptr + first + pixel, chosen, mask=column < width)


@triton.jit
def neighbour(step, y, column, height, width, WINDOW: tl.constexpr):
    """Offset of a pixel of the window, int64, and whether it is a neighbour: in the image and not the centre."""
    # A row for each column: of a condition on a scalar and one on a block, the interpreter makes 32-bit integers.
    row = y + step // WINDOW - WINDOW // 2 + tl.zeros_like(column)
    beside = column + (step % WINDOW - WINDOW // 2)
    exists = (beside >= 0) & (beside < width) & (row >= 0) & (row < height) & ((row != y) | (beside != column))
    return widened(row) * width + beside, exists


@triton.jit
def byte(word, INDEX: tl.constexpr):
    """A byte of a word."""
    return (word >> (8 * INDEX)) & 255


@triton.jit
def is_positive(classes, counts, c, RANKS: tl.constexpr):
    """In the byte of each threshold, 1 where the class is a positive, that is K >= its rank."""
    rank = tl.zeros_like(classes) + NO_RANK
    for r in tl.static_range(RANKS):
        rank = tl.where(byte(classes, r) == c, r + 1, rank)
    return ((counts + 64 * BYTES - rank * BYTES) >> 6) & BYTES


@triton.jit
def classes_in(classes, counts, NUM_THRESHOLDS: tl.constexpr, RANKS: tl.constexpr):
    """Bits, by class modulo 32, of the classes that are positives under the last threshold, the largest set."""
    bits = tl.zeros_like(classes)
    most = byte(counts, NUM_THRESHOLDS - 1)
    for r in tl.static_range(RANKS):
        bits |= tl.where(most > r, 1 << (byte(classes, r) & 31), 0)
    return bits


@triton.jit
def bitwise_or(a, b):
    """For reductions."""
    return a | b
