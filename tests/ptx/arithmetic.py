"""Instructions that compute with numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx.floats import NAN_BITS, disturbed, flush, fma32, fma64
from ptx.program import UINT, WIDTHS, Instruction, Unsupported, number_type
from ptx.registers import Array, Registers, Step

# Of the largest float32 in a binade, so that the error is within the bound in all of it.
_TWO_ULP = 2.0**-23
_FLOATS = ("f32", "f64", "bf16", "bf16x2", "f16", "f16x2")


class Arithmetic(Registers):
    """Sums, products, quotients, exponentials, the smaller and the larger of two.

    Attributes:
        salt: Of the errors of approximate instructions; 0 for results that are correctly rounded.
    """

    salt: int

    def op_add(self, instruction: Instruction) -> Step:
        return self._sum(instruction, np.add)

    def op_sub(self, instruction: Instruction) -> Step:
        return self._sum(instruction, np.subtract)

    def _sum(self, instruction: Instruction, function: np.ufunc) -> Step:
        kind, (out, *args) = instruction.parts[-1], instruction.args
        if kind in _FLOATS:
            return self.of_floats(instruction, function)
        return self.ufunc(out, kind, function, [self.numbers(x, kind) for x in args])

    def op_mul(self, instruction: Instruction) -> Step:
        parts, (out, *args) = instruction.parts, instruction.args
        kind = parts[-1]
        if kind in _FLOATS:
            return self.of_floats(instruction, np.multiply)
        inputs = [self.numbers(x, kind) for x in args]
        if "wide" in parts:
            twice = _twice(kind)
            return self.pointwise(out, twice, lambda x, y: _product(x, y, twice), inputs)
        if "hi" in parts:
            return self.pointwise(out, kind, lambda x, y: _upper_half(x, y, kind), inputs)
        return self.ufunc(out, kind, np.multiply, inputs)

    def op_mad(self, instruction: Instruction) -> Step:
        parts, (out, *args) = instruction.parts, instruction.args
        kind = parts[-1]
        if kind in _FLOATS or "hi" in parts:
            raise Unsupported("modifier")
        twice = _twice(kind) if "wide" in parts else kind
        inputs = [*(self.numbers(x, kind) for x in args[:2]), self.numbers(args[2], twice)]
        return self.pointwise(out, twice, lambda x, y, z: _product(x, y, twice) + z, inputs)

    def op_fma(self, instruction: Instruction) -> Step:
        kind = instruction.parts[-1]
        if kind == "f64":
            return self.of_floats(instruction, fma64)
        if kind == "f32":
            return self.of_floats(instruction, fma32)
        return self.of_floats(instruction, lambda a, b, c: a.astype(np.float64) * b + c)

    def op_min(self, instruction: Instruction) -> Step:
        return self._extreme(instruction, np.minimum, np.fmin, lambda a, b: -(-a - b))

    def op_max(self, instruction: Instruction) -> Step:
        return self._extreme(instruction, np.maximum, np.fmax, np.add)

    def _extreme(self, instruction: Instruction, integer: np.ufunc, single: np.ufunc, of_zeros: Any) -> Step:
        parts, (out, *args) = instruction.parts, instruction.args
        kind = parts[-1]
        if {"xorsign", "abs"} & {*parts}:
            raise Unsupported("modifier")
        if kind not in _FLOATS:
            return self.ufunc(out, kind, integer, [self.numbers(x, kind) for x in args])

        def choose(a: Array, b: Array) -> Array:
            chosen = np.where((a == 0) & (b == 0), of_zeros(a, b), single(a, b))
            if "NaN" in parts:
                chosen = np.where(np.isnan(a) | np.isnan(b), np.array(NAN_BITS).view(np.float32), chosen)
            return chosen

        def choose_among(first: Array, *others: Array) -> Array:
            for other in others:
                first = choose(first, other)
            return first

        return self.of_floats(instruction, choose_among)

    def op_neg(self, instruction: Instruction) -> Step:
        kind, (out, x) = instruction.parts[-1], instruction.args
        if kind[0] == "s":
            return self.ufunc(out, kind, np.negative, [self.numbers(x, kind)])
        width = WIDTHS[kind]
        return self.pointwise(out, f"u{width}", lambda bits: bits ^ _sign(kind), [self.bits(x, width)])

    def op_abs(self, instruction: Instruction) -> Step:
        kind, (out, x) = instruction.parts[-1], instruction.args
        if kind[0] == "s":
            return self.ufunc(out, kind, np.abs, [self.numbers(x, kind)])
        width = WIDTHS[kind]
        return self.pointwise(out, f"u{width}", lambda bits: bits & ~_sign(kind), [self.bits(x, width)])

    def op_div(self, instruction: Instruction) -> Step:
        parts, (out, *args) = instruction.parts, instruction.args
        kind = parts[-1]
        inputs = [self.numbers(x, kind) for x in args]
        if kind == "f64":
            return self.ufunc(out, kind, np.divide, inputs)
        if kind != "f32":
            return self.pointwise(out, kind, lambda x, y: _divided(x, y)[0], inputs)
        flushes = flush if "ftz" in parts else np.asarray
        loose = self.salt != 0 and ("approx" in parts or "full" in parts)

        def divide(x: Array, y: Array) -> Array:
            x, y = flushes(x), flushes(y)
            quotient = x.astype(np.float64) / y
            if loose:
                operands = x.view(np.uint32) ^ (y.view(np.uint32) * np.uint32(2654435761))
                error = np.where(np.isfinite(quotient), np.abs(quotient) * _TWO_ULP, 0)
                quotient = disturbed(quotient, operands, error, self.salt)
            quotient = quotient.astype(np.float32)
            if "approx" in parts:
                huge = (np.abs(y) > np.float32(2.0**126)) & np.isfinite(y)
                of_huge = np.where(np.isinf(x), np.float32(np.nan), np.copysign(np.float32(0), quotient))
                quotient = np.where(huge, of_huge, quotient)
            return flushes(quotient)

        return self.pointwise(out, kind, divide, inputs)

    def op_rem(self, instruction: Instruction) -> Step:
        kind, (out, *args) = instruction.parts[-1], instruction.args
        return self.pointwise(out, kind, lambda x, y: _divided(x, y)[1], [self.numbers(x, kind) for x in args])

    def op_ex2(self, instruction: Instruction) -> Step:
        return self._approximate(instruction, np.exp2, lambda x, y: np.where(x == np.floor(x), 0, y * 2.0**-22))

    def op_lg2(self, instruction: Instruction) -> Step:
        def bound(x: Array, y: Array) -> Array:
            size = np.where((x > 0.5) & (x < 2), 1, np.abs(y)) * 2.0**-22
            return np.where((x.view(np.uint32) & np.uint32(0x7FFFFF)) == 0, 0, size)  # powers of two

        return self._approximate(instruction, np.log2, bound)

    def _approximate(self, instruction: Instruction, function: np.ufunc, bound: Callable[..., Array]) -> Step:
        """A function of float32, with the documented bound on its error by operand and result."""
        parts, (out, operand) = instruction.parts, instruction.args
        if parts[-1] != "f32":
            raise Unsupported(parts[-1])
        flushes = flush if "ftz" in parts else np.asarray
        loose = self.salt != 0 and "approx" in parts

        def evaluate(x: Array) -> Array:
            x = flushes(x)
            y = function(x.astype(np.float64))
            if loose:
                error = np.where(np.isfinite(y), bound(x, y), 0)
                y = disturbed(y, x.view(np.uint32), error, self.salt)
            return flushes(y.astype(np.float32))

        return self.pointwise(out, "f32", evaluate, [self.numbers(operand, "f32")])


def _twice(kind: str) -> str:
    return kind[0] + str(2 * WIDTHS[kind])


def _product(x: Array, y: Array, kind: str) -> Array:
    to = number_type(kind)
    return x.astype(to) * y.astype(to)


def _upper_half(x: Array, y: Array, kind: str) -> Array:
    if WIDTHS[kind] == 64:
        return np.array([(int(a) * int(b)) >> 64 for a, b in np.broadcast(x, y)], number_type(kind))
    twice = _twice(kind)
    return _product(x, y, twice) >> number_type(twice)(WIDTHS[kind])


def _sign(kind: str) -> Any:
    """The bits of the signs in a register of floats."""
    width = WIDTHS[kind]
    return UINT[width](0x8000_8000 if kind.endswith("16x2") else 1 << (width - 1))


def _divided(x: Array, y: Array) -> tuple[Array, Array]:
    """Quotient of integers, truncated towards zero, and remainder; all ones where it is divided by zero."""
    x, y = np.broadcast_arrays(x, y)
    safe = np.where(y == 0, 1, y).astype(x.dtype)
    quotient = x // safe
    if x.dtype.kind == "i":
        quotient += ((x < 0) != (safe < 0)) & (quotient * safe != x)
    quotient = np.where(y == 0, np.array(-1).astype(x.dtype), quotient)
    return quotient, x - quotient * y
