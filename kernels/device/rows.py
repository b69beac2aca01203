"""Dense rows of classes, channels_last: a program loads and stores its pixels as one piece of memory.

Rows of an even number of classes are aligned, so that a thread loads neighbours at once, and what threads exchange goes
from register to register. An odd number leaves the rows askew. The piece is then a matrix of C words a row, the 32-bit
logits of a pixel or the 16-bit logits of a pair of pixels; where images are not aligned, the 16-bit logits of a pixel.
Consecutive threads load and store consecutive words, and each computes with rows of its own: the words change
hands through shared memory, where the columns of an odd number of words meet in no bank.
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import join_columns, split_columns
from fpl_fast.kernels.device.flat import block_to_rows, flatten
from fpl_fast.kernels.device.pairs import join_halves, split_halves


@triton.jit
def load_rows(pointer, num_pixels, C: tl.constexpr, PIXELS: tl.constexpr, P: tl.constexpr):
    """Tuple of the C classes of the first P pixels, (P,) each.

    Args:
        pointer: first class of the first pixel.
        num_pixels: pixels that are loaded, int32; the others are zero.
        C: classes.
        PIXELS: pixels of a row with an odd number of words: 2 for pairs, or 1.
        P: number of pixels.
    """
    if C % 2 == 0:
        block = tl.load(pointer + places(C, P), mask=first_places(num_pixels, C, P), other=0.0)
        return split_columns(block, P)[:C]
    else:
        columns = load_columns(words_of(pointer, PIXELS), num_pixels // PIXELS, C, P // PIXELS)
        if PIXELS == 1:
            return columns
        else:
            return columns_to_classes(columns, pointer.dtype.element_ty)


@triton.jit
def store_rows(
    pointer, num_pixels, classes, C: tl.constexpr, PIXELS: tl.constexpr, P: tl.constexpr, FAST: tl.constexpr
):
    """Counterpart of ``load_rows``; rounds to the pointer's type."""
    dtype: tl.constexpr = pointer.dtype.element_ty
    if PIXELS == 1:
        columns = ()
        for c in tl.static_range(C):
            columns = columns + (classes[c].to(dtype),)
    else:
        columns = classes_to_columns(classes, dtype, FAST)
    for _ in tl.static_range(C, triton.next_power_of_2(C)):  # masked out
        columns = columns + (columns[C - 1],)
    ROWS: tl.constexpr = P // PIXELS
    exists = first_places(num_pixels // PIXELS, C, ROWS)
    tl.store(words_of(pointer, PIXELS) + places(C, ROWS), join_columns(columns, ROWS), mask=exists)


@triton.jit
def places(C: tl.constexpr, ROWS: tl.constexpr):
    """Words from the first of dense rows to each of (ROWS, C padded to a power of 2).

    All of it is known at compile time, which turns the addresses into immediate offsets.
    """
    return tl.arange(0, ROWS)[:, None] * C + tl.arange(0, triton.next_power_of_2(C))[None, :]


@triton.jit
def first_places(num_rows, C: tl.constexpr, ROWS: tl.constexpr):
    """(ROWS, C padded) mask of the words that exist of the first rows."""
    exists = tl.arange(0, triton.next_power_of_2(C))[None, :] < C
    if C % 2 == 0:
        return exists & (tl.arange(0, ROWS)[:, None] < num_rows)
    else:  # the same, in a tenth fewer instructions where words are 16 bits
        return exists & (places(C, ROWS) < num_rows * C)


@triton.jit
def words_of(pointer, PIXELS: tl.constexpr):
    """Pointer to the words of a row, of which there are C."""
    return pointer if PIXELS == 1 else pointer.to(tl.pointer_type(tl.int32), bitcast=True)


@triton.jit
def load_columns(pointer, num_rows, C: tl.constexpr, ROWS: tl.constexpr):
    """Tuple of the C columns, (ROWS,) each, of dense rows of words; zero from row ``num_rows`` on."""
    SIZE: tl.constexpr = triton.next_power_of_2(C) * ROWS
    word = tl.arange(0, SIZE)
    # Nothing is said of neighbours: four words a thread, loaded at once, would go to shared memory one by one.
    exists = (word < num_rows * C) & (word < C * ROWS)  # of the last ones it is known before they are loaded
    words = tl.load(pointer + tl.max_contiguous(word, [1]), mask=exists, other=0)
    source = tl.where(word < C * ROWS, word % ROWS * C + word // ROWS, 0)
    # A thread is to keep what it finds: columns of a row of its own. Triton arranges numbers that depend on no load as
    # each of the operations behind wants them, and exchanges again what lies between. To Triton these depend on the
    # words; the zeros that they add are left out when the instructions are chosen.
    bits = words.to(tl.int16 if words.dtype.primitive_bitwidth == 16 else tl.int32, bitcast=True).to(tl.int32)
    source += (bits & 1) >> 1
    return block_to_rows(tl.reshape(tl.gather(words, source, 0), [SIZE // ROWS, ROWS]))[:C]


@triton.jit
def columns_to_classes(columns, dtype: tl.constexpr):
    """The classes of pairs of pixels, each twice as long as a column of their words."""
    C: tl.constexpr = len(columns)
    classes = ()
    for c in tl.static_range(C):
        first = split_halves(columns[c // 2], dtype)[c % 2]
        second = split_halves(columns[(C + c) // 2], dtype)[(C + c) % 2]
        classes = classes + (flatten(tl.join(first, second)),)
    return classes


@triton.jit
def classes_to_columns(classes, dtype: tl.constexpr, FAST: tl.constexpr):
    """Inverse of ``columns_to_classes``, rounding to the type."""
    first = ()
    second = ()
    for c in tl.static_range(len(classes)):
        pair = tl.split(tl.reshape(classes[c], [classes[c].numel // 2, 2]))
        first = first + (pair[0],)
        second = second + (pair[1],)
    halves = first + second
    columns = ()
    for c in tl.static_range(len(classes)):
        columns = columns + (join_halves(halves[2 * c], halves[2 * c + 1], dtype, FAST),)
    return columns
