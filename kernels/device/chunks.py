"""Passes over the classes of planes in chunks of a few: ranks of the teacher, positives, negatives, gradient.

A chunk has G classes, the last one the rest of C. Where a chunk holds no positive of any pixel of the program, which is
known before, its classes need not be told apart.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import INFINITY, LARGEST, LOG2_E, log, nan_if_void
from fpl_fast.kernels.device.assignment import relative_mass
from fpl_fast.kernels.device.block import first_of, load_mask
from fpl_fast.kernels.device.classes import keep, load_classes, select, store_classes, widen, zero_times_sum
from fpl_fast.kernels.device.keys import key_class, key_logit, lowest_key, make_key
from fpl_fast.kernels.device.ranking import merge_top4, top4_of_groups
from fpl_fast.kernels.device.strip import widened


class Ranks(NamedTuple):
    """Ranks of the classes read so far."""

    keys: Any  # the four largest, in decreasing order
    shift: Any  # top logit, at least -LARGEST, times log2(e)
    total: Any  # mass of the classes relative to the top one
    poison: Any  # 0, or NaN where a logit is NaN or infinite


class Positives(NamedTuple):
    """The positives of pixels, a tensor for each rank."""

    chunks: Any  # that hold them; -1 for a rank that is not positive
    places: Any  # in the chunk
    logits: Any  # of the student, +inf for a rank that is not positive
    held: Any  # int32: bits of the chunks that hold one of a pixel of the program


class Negatives(NamedTuple):
    """The student's logits off the positives, of the classes read so far."""

    highest: Any  # largest one, at least -LARGEST
    push_sum: Any  # sum of exp(z - highest)
    poison: Any  # 0, or NaN where a logit, of a positive or not, is NaN or infinite


class Slopes(NamedTuple):
    """Parts of the derivative in the logits of pixels."""

    pulls: Any  # derivative in the logit of each of the positives
    push_shift: Any  # highest negative times log2(e)
    push_scale: Any  # factor of exp(z - highest negative) in the derivative off the positives


@triton.jit
def load_chunk(x, block, chosen, chunk, G: tl.constexpr, SIZE: tl.constexpr):
    """Load the first SIZE classes of a chunk of the chosen pixels."""
    pointer = first_of(x, block) + widened(chunk * G) * x.stride_c
    return load_classes(pointer, block.pixel * x.stride_p, chosen, x.stride_c, SIZE, 1)


@triton.jit
def rank_classes(
    teacher, partner, mix_mask, block, C: tl.constexpr, G: tl.constexpr, KEY: tl.constexpr, FAST: tl.constexpr
):
    """The ranks of all classes of the teacher, of the partner where ``mix_mask`` is true."""
    mixed = None
    if mix_mask is not None:
        mixed = load_mask(mix_mask, block)
    zero = tl.where(block.in_bounds, 0.0, 0.0)
    lowest = lowest_key(make_key(zero, 0, KEY))
    ranks = Ranks((lowest, lowest, lowest, lowest), zero - LARGEST * LOG2_E, zero, zero)
    for chunk in range(0, C // G):
        ranks = rank_chunk(ranks, teacher, partner, mixed, block, chunk, G, G, KEY, FAST)
    if C % G > 0:
        ranks = rank_chunk(ranks, teacher, partner, mixed, block, C // G, G, C % G, KEY, FAST)
    return ranks


@triton.jit
def rank_chunk(
    ranks,
    teacher,
    partner,
    mixed,
    block,
    chunk,
    G: tl.constexpr,
    SIZE: tl.constexpr,
    KEY: tl.constexpr,
    FAST: tl.constexpr,
):
    """Ranks with the first SIZE classes of a chunk more."""
    if mixed is None:
        t = load_chunk(teacher, block, block.in_bounds, chunk, G, SIZE)
    else:
        own = load_chunk(teacher, block, block.in_bounds & ~mixed, chunk, G, SIZE)
        t = select(mixed, load_chunk(partner, block, mixed, chunk, G, SIZE), own)
    poison = ranks.poison + zero_times_sum(t, FAST)
    t = widen(t, SIZE, 1, FAST)
    keys = ()
    for i in tl.static_range(SIZE):
        keys = keys + (make_key(t[i], chunk * G + i, KEY),)
    best = top4_of_groups(keys)
    for _ in tl.static_range(len(best), 4):
        best = best + (lowest_key(best[0]),)
    best = merge_top4(ranks.keys, best)
    # The classes so far may all be masked, by logits whose mass would not be 1 relative to themselves.
    shift = tl.maximum(key_logit(best[0], KEY), -LARGEST) * LOG2_E
    total = ranks.total * tl.exp2(ranks.shift - shift)
    for i in tl.static_range(SIZE):
        total += relative_mass(t[i], shift)
    return Ranks(best, shift, total, poison)


@triton.jit
def fetch_positives(student, block, keys, num_positives, valid, G: tl.constexpr, CAPPED: tl.constexpr):
    """The positives of valid pixels by the keys of their ranks."""
    chunks = ()
    places = ()
    logits = ()
    held = tl.where(valid, 0, 0)
    pointer = first_of(student, block) + block.pixel * student.stride_p
    for k in tl.static_range(CAPPED):
        positive = valid & (num_positives > k)
        c = key_class(keys[k])
        z = tl.load(pointer + c.to(tl.int64) * student.stride_c, mask=positive, other=0.0).to(tl.float32)
        chunks = chunks + (tl.where(positive, c // G, -1),)
        places = places + (c % G,)
        logits = logits + (tl.where(positive, z, INFINITY),)
        held |= tl.where(positive, 1 << (c // G), 0)
    return Positives(chunks, places, logits, tl.reduce(held, 0, bits_of_either))


@triton.jit
def bits_of_either(a, b):
    """Combine sets that are bits of integers."""
    return a | b


@triton.jit
def holds(positives, chunk):
    """Whether a chunk holds a positive of a pixel of the program."""
    return ((positives.held >> chunk) & 1) > 0


@triton.jit
def places_in(positives, chunk):
    """Places in a chunk of the positives that it holds, -1 for the others."""
    places = ()
    for k in tl.static_range(len(positives.places)):
        places = places + (tl.where(positives.chunks[k] == chunk, positives.places[k], -1),)
    return places


@triton.jit
def sum_negatives(student, block, positives, C: tl.constexpr, G: tl.constexpr, FAST: tl.constexpr):
    """The student's logits off the positives, of all classes."""
    zero = tl.where(block.in_bounds, 0.0, 0.0)
    negatives = Negatives(zero - LARGEST, zero, zero)
    for chunk in range(0, C // G):
        negatives = add_negatives(negatives, student, block, positives, chunk, G, G, FAST)
    if C % G > 0:
        negatives = add_negatives(negatives, student, block, positives, C // G, G, C % G, FAST)
    return negatives


@triton.jit
def add_negatives(negatives, student, block, positives, chunk, G: tl.constexpr, SIZE: tl.constexpr, FAST: tl.constexpr):
    """Negatives with those among the first SIZE classes of a chunk more."""
    z = load_chunk(student, block, block.in_bounds, chunk, G, SIZE)
    poison = negatives.poison + zero_times_sum(z, FAST)
    z = widen(z, SIZE, 1, FAST)
    if holds(positives, chunk):
        places = places_in(positives, chunk)
        others = ()
        for i in tl.static_range(SIZE):
            x = z[i]
            for k in tl.static_range(len(places)):
                x = tl.where(places[k] == i, -INFINITY, x)
            others = others + (x,)
        z = others
    highest = negatives.highest
    for i in tl.static_range(SIZE):
        highest = tl.maximum(highest, z[i])
    shift = highest * LOG2_E
    push_sum = negatives.push_sum * tl.exp2(negatives.highest * LOG2_E - shift)
    for i in tl.static_range(SIZE):
        push_sum += relative_mass(z[i], shift)
    return Negatives(highest, push_sum, poison)


@triton.jit
def label_cross_entropy(positives, negatives, FAST: tl.constexpr):
    """Cross entropy with the first positive, by the same sum and logits."""
    top = negatives.highest
    for k in tl.static_range(len(positives.logits)):
        top = tl.maximum(top, finite_or_lowest(positives.logits[k]))
    shift = top * LOG2_E
    total = negatives.push_sum * tl.exp2(negatives.highest * LOG2_E - shift)
    for k in tl.static_range(len(positives.logits)):
        total += relative_mass(finite_or_lowest(positives.logits[k]), shift)
    return log(nan_if_void(total), FAST) + (top - positives.logits[0])


@triton.jit
def finite_or_lowest(logits):
    """Logits with -inf in the place of +inf."""
    return tl.where(logits == INFINITY, -INFINITY, logits)


@triton.jit
def store_gradient(
    grad, student, block, positives, slopes, valid, C: tl.constexpr, G: tl.constexpr, FAST: tl.constexpr
):
    """Write the derivative in all classes.

    Args:
        grad: Classes to write.
        student: Classes to read once more.
        block: pixels.
        positives: of the pixels.
        slopes: of the pixels.
        valid: pixels whose derivative is not zero; None for all.
        C: classes.
        G: classes in a chunk.
        FAST: see ``arithmetic``.
    """
    for chunk in range(0, C // G):
        store_chunk(grad, student, block, positives, slopes, valid, chunk, G, G, FAST)
    if C % G > 0:
        store_chunk(grad, student, block, positives, slopes, valid, C // G, G, C % G, FAST)


@triton.jit
def store_chunk(
    grad, student, block, positives, slopes, valid, chunk, G: tl.constexpr, SIZE: tl.constexpr, FAST: tl.constexpr
):
    """Write the derivative in the first SIZE classes of a chunk: see ``store_gradient``."""
    z = widen(load_chunk(student, block, block.in_bounds, chunk, G, SIZE), SIZE, 1, FAST)
    gradient = ()
    for i in tl.static_range(SIZE):
        gradient = gradient + (relative_mass(z[i], slopes.push_shift) * slopes.push_scale,)
    if holds(positives, chunk):
        places = places_in(positives, chunk)
        mixed = ()
        for i in tl.static_range(SIZE):
            slope = gradient[i]
            for k in tl.static_range(len(places)):
                slope = tl.where(places[k] == i, slopes.pulls[k], slope)
            mixed = mixed + (slope,)
        gradient = mixed
    if valid is not None:
        gradient = keep(valid, gradient)
    pointer = first_of(grad, block) + widened(chunk * G) * grad.stride_c
    store_classes(pointer, block.pixel * grad.stride_p, block.in_bounds, grad.stride_c, gradient, SIZE, 1)
