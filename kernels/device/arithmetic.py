"""Logarithm and division at the precision the loss needs, in few instructions.

FAST picks the two-instruction approximations of NVIDIA's libdevice; the interpreter and other devices lack them.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

LOG2_E = tl.constexpr(1.4426950408889634)
INFINITY = tl.constexpr(float("inf"))
# Of x in exp2(y * log2(e) - x * log2(e)): the second product is rounded, by 2^-24 of it, and the first one, in a
# multiply-add, is not. From 2e9 on the result may be 0 or infinite for x = y.
LARGEST = tl.constexpr(1e9)


@triton.jit
def log(x, FAST: tl.constexpr):
    """Natural logarithm of a float32 tensor."""
    if FAST:
        return libdevice.fast_logf(x)
    else:
        return tl.log(x)


@triton.jit
def divide(x, y, FAST: tl.constexpr):
    """Quotient of float32 tensors; FAST is within 2 ulp for |y| < 2^126."""
    if FAST:
        return libdevice.fast_dividef(x, y)
    else:
        return x / y


@triton.jit
def nan_if_void(total):
    """A sum of exp(x - max x) as it is, NaN where it is 0 or infinite.

    In exact numbers it lies between 1 and C. Past 2.36e38, max x times log2(e) is infinite in float32: all terms vanish
    or, where a fused multiply-add keeps the other product finite, are infinite.
    """
    return tl.where((total > 0.0) & (total < INFINITY), total, float("nan"))
