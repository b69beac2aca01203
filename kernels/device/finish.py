"""Loss and statistics from the sums that the programs of a launch have left."""

import triton
import triton.language as tl


@triton.jit
def totals(partial_ptr, terms, num_programs, BLOCK: tl.constexpr, LOADS: tl.constexpr):
    """Sums of some terms over all programs, in float64 and in a fixed order; LOADS in all are on their way at once."""
    SHARE: tl.constexpr = LOADS // len(terms)
    sums = ()
    for _ in tl.static_range(len(terms)):
        sums = sums + (tl.zeros((BLOCK,), tl.float64),)
    for first in range(0, num_programs, SHARE * BLOCK):
        further = ()
        for i in tl.static_range(len(terms)):
            term_ptr = partial_ptr + tl.cast(terms[i], tl.int64) * num_programs
            total = sums[i]
            for k in tl.static_range(SHARE):
                program = first + k * BLOCK + tl.arange(0, BLOCK)
                total += tl.load(term_ptr + program, mask=program < num_programs, other=0.0).to(tl.float64)
            further = further + (total,)
        sums = further
    whole = ()
    for i in tl.static_range(len(terms)):
        whole = whole + (tl.sum(sums[i]),)
    return whole


@triton.jit
def ratio(numerator, denominator):
    """The quotient, 1 where the denominator is not positive; NaN stays."""
    void = denominator <= 0
    return tl.where(void, 1.0, numerator / tl.where(void, 1.0, denominator))


@triton.jit(do_not_specialize=["num_programs", "num_pixels"])
def finish_kernel(
    partial_ptr,  # (terms, programs) float32: ``arguments.SUMS``, or any terms where the first one is all
    loss_ptr,  # out () float32
    factor_ptr,  # out () float32: ``statistics.Finished.factor``, or None
    statistics_ptr,  # out float32, ``statistics.STATISTICS``, or None
    scale_ptr,  # () float32, factor of the loss; None for the next argument
    scale,  # a number, or None for 1
    num_programs,
    num_pixels,  # valid or not
    SCALE_IN_BACKWARD: tl.constexpr,  # fields of ``statistics.Finish``
    WEIGHTED_MEAN: tl.constexpr,
    BALANCE: tl.constexpr,
    MAX_BALANCE: tl.constexpr,
    BLOCK: tl.constexpr,  # programs whose sums are added at once
    LOADS: tl.constexpr,  # of a thread before it adds
):
    """Compute the loss and its factor in the first program, and one statistic in each of the others.

    A program reads all the sums that its result depends on: nothing passes between programs.
    """
    program = tl.program_id(0)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr)
    if program == 0:
        if WEIGHTED_MEAN or BALANCE:
            loss, weighted, cross_entropy, weight = totals(partial_ptr, (0, 2, 4, 11), num_programs, BLOCK, LOADS)
        else:
            loss = totals(partial_ptr, (0,), num_programs, BLOCK, LOADS)[0]
        if scale is not None:
            loss *= scale
        factor = tl.full((), 1.0, tl.float64)
        if WEIGHTED_MEAN:
            factor = ratio(factor, weight)
        if BALANCE:
            balance = ratio(cross_entropy, weighted)
            factor *= tl.where(balance > MAX_BALANCE, MAX_BALANCE, balance)  # NaN stays
        tl.store(loss_ptr, (loss * factor).to(tl.float32))
        if factor_ptr is not None:
            if SCALE_IN_BACKWARD and scale is not None:
                factor *= scale
            tl.store(factor_ptr, factor.to(tl.float32))
    if statistics_ptr is not None:  # noqa: SIM102, this is known when the kernel is compiled, that when it runs
        if program > 0:
            statistic = program - 1
            if statistic == 8:  # K > 3
                num_valid, one, two, three = totals(partial_ptr, (1, 6, 7, 8), num_programs, BLOCK, LOADS)
                value = num_valid - one - two - three
            else:
                term = tl.where(statistic < 8, program, tl.where(statistic == 12, 1, statistic))
                num_valid, value = totals(partial_ptr, (1, term), num_programs, BLOCK, LOADS)
            divisor = tl.maximum(num_valid, 1.0)
            if statistic == 12:  # the share of valid pixels
                divisor = tl.maximum(num_pixels, 1).to(tl.float64)
            if (statistic == 0) | (statistic == 11):  # these are sums
                divisor = tl.full((), 1.0, tl.float64)
            tl.store(statistics_ptr + statistic, (value / divisor).to(tl.float32))
