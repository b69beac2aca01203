"""Floating-point arithmetic as devices do it, where NumPy has no function for it."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from ptx.program import UINT, WIDTHS

Array = np.ndarray[Any, Any]

NAN_BITS = np.uint32(0x7FFFFFFF)  # of every float32 NaN that arithmetic makes
_SMALLEST_NORMAL = np.float32(2.0**-126)


def flush(x: Array) -> Array:
    """Subnormals to zero of the same sign, float32."""
    return np.where(np.abs(x) < _SMALLEST_NORMAL, np.copysign(np.float32(0), x), x)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """Fused multiply-add of float32, rounded once: through float64 rounded to odd."""
    product = a.astype(np.float64) * b  # exact
    c = np.asarray(c, np.float64)
    total = product + c
    of_c = total - product
    error = (product - (total - of_c)) + (c - of_c)
    bits = total.view(np.int64)
    to_odd = (error != 0) & ((bits & 1) == 0) & np.isfinite(total)
    if to_odd.any():
        away = (error > 0) == (total > 0)
        total = np.where(to_odd, np.where(away, bits + 1, bits - 1), bits).view(np.float64)
    return total.astype(np.float32)


def fma64(a: Array, b: Array, c: Array) -> Array:
    """Fused multiply-add of float64, rounded once."""

    def one(x: float, y: float, z: float) -> float:
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
            return x * y + z
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        return float(exact) if exact else x * y + z  # the sign of zero

    return np.array([one(*map(float, numbers)) for numbers in np.broadcast(a, b, c)])


def bf16_bits(x: Array) -> Array:
    """Bits of the nearest bfloat16, an even one among two, of float32."""
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded).astype(np.uint16)


def bf16_value(bits: Array) -> Array:
    """The float32 of a bfloat16's bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def in_halves(kind: str, function: Callable[..., Array], *operands: Array) -> Array:
    """Apply a function to 16-bit floats, one or two in a register, and round once."""
    halves = [np.ascontiguousarray(np.atleast_1d(x)).view(np.uint16) for x in operands]
    if kind.startswith("bf16"):
        result = bf16_bits(function(*map(bf16_value, halves)).astype(np.float32))
    else:
        wide = (x.view(np.float16).astype(np.float32) for x in halves)
        result = function(*wide).astype(np.float16).view(np.uint16)
    return np.ascontiguousarray(result).view(UINT[WIDTHS[kind]])


def disturbed(exact: Array, bits: Array, bound: Array, salt: int) -> Array:
    """A result with an error up to ``bound``, a fixed function of the operand's bits and of ``salt``."""
    x = np.ascontiguousarray(bits).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
    x ^= x >> np.uint64(31)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(29)
    return exact + ((x >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1) * bound
