"""Fuzzy positive assignment from the teacher's keys.

With p_1 >= p_2 >= ... and c_n = p_1 + ... + p_n, the positives are the K = min(max(n - 1, 1), max_positives) first
classes, n = min{n : c_n >= T}: rank k + 1 joins as long as c_{k+1} < T. Only the four first ranks are needed while
K <= 3; blocks where some pixel needs more take another path, which the others never pay for.

All masses are relative to the mass of rank 1, exp(t - max t), so that c_n < T reads ``mass < T * Z``.
"""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import LOG2_E
from fpl_fast.kernels.device.classes import fold_sum
from fpl_fast.kernels.device.keys import key_logit, lowest_key
from fpl_fast.kernels.device.ranking import sort_descending, top4


@triton.jit
def relative_mass(logits, shift):
    """Compute exp(logits - top logit) from shift = top logit * log2(e): one multiply-add and one exponential."""
    return tl.exp2(logits * LOG2_E - shift)


@triton.jit
def total_mass(logits, shift):
    """Sum Z of the relative masses of all classes, per pixel."""
    total = relative_mass(logits[0], shift)
    for g in tl.static_range(1, len(logits)):
        total += relative_mass(logits[g], shift)
    return fold_sum(total)


@triton.jit
def accept_ranks(ranked, shift, target, max_positives, MAX_RANK: tl.constexpr, KEY: tl.constexpr):
    """Walk down the ranks while the mass passed stays below the target.

    Args:
        ranked: at least MAX_RANK + 1 keys per pixel in decreasing order.
        shift: top logit times log2(e).
        target: T * Z.
        max_positives: cap on K, <= C - 1.
        MAX_RANK: last rank that may become positive.
        KEY: see ``make_key``.

    Returns:
        (cut, num_positives, rejected, mass, passed): the last positive's key, K as float32, the masses of rank K + 1
        and of the ranks up to K + 1, and the mass of the MAX_RANK + 1 ranks looked at.
    """
    first = relative_mass(key_logit(ranked[0], KEY), shift)
    rejected = relative_mass(key_logit(ranked[1], KEY), shift)
    passed = first + rejected
    mass = passed
    cut = ranked[0]
    num_positives = tl.full(mass.shape, 1.0, tl.float32)
    for k in tl.static_range(1, MAX_RANK):
        accept = (passed < target) & (k < max_positives)
        candidate = relative_mass(key_logit(ranked[k + 1], KEY), shift)
        passed += candidate
        cut = tl.where(accept, ranked[k], cut)
        num_positives = tl.where(accept, k + 1.0, num_positives)
        rejected = tl.where(accept, candidate, rejected)
        mass = tl.where(accept, passed, mass)
    return cut, num_positives, rejected, mass, passed


@triton.jit
def accept_rounds(keys, last, state, undecided, shift, target, max_positives, KEY: tl.constexpr):
    """Continue a walk that has passed four ranks, ``last`` being the fourth, until no pixel of the block is undecided.

    Every round takes the four next ranks. This is for tiles, where a full sort would cross threads.
    """
    cut, num_positives, rejected, mass, passed = state
    num_passed = 4
    while tl.max(undecided.to(tl.int32)) > 0:
        remaining = ()
        for g in tl.static_range(len(keys)):
            remaining = remaining + (tl.where(keys[g] < last, keys[g], lowest_key(keys[g])),)
        ranked = top4(remaining)
        for i in tl.static_range(4):
            undecided = undecided & (passed < target) & (num_passed + i - 1 < max_positives)
            candidate = relative_mass(key_logit(ranked[i], KEY), shift)
            passed += candidate
            cut = tl.where(undecided, last, cut)
            num_positives = tl.where(undecided, num_positives + 1.0, num_positives)
            rejected = tl.where(undecided, candidate, rejected)
            mass = tl.where(undecided, passed, mass)
            last = ranked[i]
        num_passed += 4
    return cut, num_positives, rejected, mass, passed


@triton.jit
def drop_ties(keys, cut, num_positives):
    """Lower keys so that exactly K classes are at or above the cut: of keys equal to it, the lower classes stay."""
    room = num_positives
    for g in tl.static_range(len(keys)):
        room -= tl.where(keys[g] > cut, 1.0, 0.0)
    kept = ()
    for g in tl.static_range(len(keys)):
        tied = keys[g] == cut
        kept = kept + (tl.where(tied & (room <= 0.0), lowest_key(keys[g]), keys[g]),)
        room = tl.where(tied, room - 1.0, room)
    return kept


@triton.jit
def assign_positives(
    keys, logits, valid, threshold, max_positives, C: tl.constexpr, CAPPED: tl.constexpr, KEY: tl.constexpr
):
    """Assign the positives of each pixel: class c is one if its key is >= cut.

    Args:
        keys: the teacher's keys, class groups.
        logits: the teacher's logits in float32, class groups.
        valid: pixels that count; the others never ask for a slow path.
        threshold: T, one or per pixel; NaN counts as 0.
        max_positives: cap on K, <= C - 1.
        C: number of classes.
        CAPPED: 1, 2 or 3 if max_positives is that number, 0 if it is larger.
        KEY: see ``make_key``.

    Returns:
        (keys, cut, top, num_positives, rejected, mass, total): the keys with ties at the cut broken, the keys of ranks
        K and 1, K as float32, the relative masses of rank K + 1 and of the ranks up to K + 1, and Z.
    """
    ranked = top4(keys)
    shift = key_logit(ranked[0], KEY) * LOG2_E
    total = total_mass(logits, shift)
    target = threshold * total
    if CAPPED > 0:
        state = accept_ranks(ranked, shift, target, CAPPED, CAPPED, KEY)
    else:
        state = accept_ranks(ranked, shift, target, max_positives, 3, KEY)
        undecided = valid & (state[4] < target)
        if len(keys[0].shape) == 2:
            state = accept_rounds(keys, ranked[3], state, undecided, shift, target, max_positives, KEY)
        else:
            if tl.max(undecided.to(tl.int32)) > 0:
                state = accept_ranks(sort_descending(keys), shift, target, max_positives, C - 1, KEY)
    cut, num_positives, rejected = state[0], state[1], state[2]
    if KEY == "float32":
        # Equal keys have equal masses. The converse does not hold, and costs a needless pass at worst.
        tied = valid & (rejected == relative_mass(cut, shift))
        if tl.max(tied.to(tl.int32)) > 0:
            keys = drop_ties(keys, cut, num_positives)
    return keys, cut, ranked[0], num_positives, rejected, state[3], total
