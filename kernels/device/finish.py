"""Loss and statistics from the sums that the programs of a launch have left."""

import triton
import triton.language as tl


@triton.jit
def total(partial_ptr, term, num_programs, BLOCK: tl.constexpr):
    """Sum of one term over all programs, in float64 and in a fixed order."""
    partial_ptr += tl.cast(term, tl.int64) * num_programs
    sums = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, num_programs, BLOCK):
        program = first + tl.arange(0, BLOCK)
        sums += tl.load(partial_ptr + program, mask=program < num_programs, other=0.0).to(tl.float64)
    return tl.sum(sums)


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
    BLOCK: tl.constexpr,
):
    """Compute the loss and its factor in the first program, and one statistic in each of the others.

    A program reads all the sums that its result depends on: nothing passes between programs.
    """
    program = tl.program_id(0)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr)
    if program == 0:
        loss = total(partial_ptr, 0, num_programs, BLOCK)
        if scale is not None:
            loss *= scale
        factor = tl.full((), 1.0, tl.float64)
        if WEIGHTED_MEAN:
            factor = ratio(factor, total(partial_ptr, 11, num_programs, BLOCK))
        if BALANCE:
            weighted = total(partial_ptr, 2, num_programs, BLOCK)
            balance = ratio(total(partial_ptr, 4, num_programs, BLOCK), weighted)
            factor *= tl.where(balance > MAX_BALANCE, MAX_BALANCE, balance)  # NaN stays
        tl.store(loss_ptr, (loss * factor).to(tl.float32))
        if factor_ptr is not None:
            if SCALE_IN_BACKWARD and scale is not None:
                factor *= scale
            tl.store(factor_ptr, factor.to(tl.float32))
    if statistics_ptr is not None:  # noqa: SIM102, this is known when the kernel is compiled, that when it runs
        if program > 0:
            statistic = program - 1
            num_valid = total(partial_ptr, 1, num_programs, BLOCK)
            divisor = tl.maximum(num_valid, 1.0)
            if statistic == 8:  # K > 3
                value = num_valid
                for term in range(6, 9):
                    value -= total(partial_ptr, term, num_programs, BLOCK)
            elif statistic == 12:  # the share of valid pixels
                value = num_valid
                divisor = tl.maximum(num_pixels, 1).to(tl.float64)
            else:
                value = total(partial_ptr, tl.where(statistic < 8, program, statistic), num_programs, BLOCK)
                if (statistic == 0) | (statistic == 11):  # these are sums
                    divisor = tl.full((), 1.0, tl.float64)
            tl.store(statistics_ptr + statistic, (value / divisor).to(tl.float32))
