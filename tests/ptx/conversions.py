"""Conversions between types of numbers."""

from typing import Any

import numpy as np

from ptx.floats import bf16_bits, bf16_value, flush
from ptx.program import FLOAT, INT, UINT, WIDTHS, Instruction, Operand, Unsupported, number_type
from ptx.registers import Array, Mask, Registers, Step

_TO_INTEGER = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}


class Conversions(Registers):
    """The instruction ``cvt``."""

    def op_cvt(self, instruction: Instruction) -> Step:
        parts, (out, *args) = instruction.parts, instruction.args
        to, source = parts[-2:]
        if {"sat", "relu", "satfinite"} & {*parts}:
            raise Unsupported("saturation")
        if to in ("bf16x2", "f16x2"):
            return self._two_halves(out, to, args)
        rounding = next((x for x in parts[1:-2] if x[0] == "r"), None)
        written = self.registers[out[1]]
        convert = _conversion(to, source, rounding, "ftz" in parts)

        def step(mask: Mask) -> None:
            value = convert(self._narrow(args[0], source))
            np.copyto(written, _extended(value, to, written.dtype), where=mask)

        return step

    def _two_halves(self, out: Operand, to: str, args: list[Operand]) -> Step:
        """Two float32 to one register; the first operand becomes the upper half."""

        def convert(high: Array, low: Array) -> Array:
            halves = [bf16_bits(x) if to == "bf16x2" else x.astype(np.float16).view(np.uint16) for x in (high, low)]
            return (halves[0].astype(np.uint32) << np.uint32(16)) | halves[1]

        return self.pointwise(out, "u32", convert, [self.numbers(x, "f32") for x in args])

    def _narrow(self, operand: Operand, kind: str) -> Array:
        """The operand's low bits as numbers."""
        bits = self.registers[operand[1]] if operand[0] == "reg" else self.bits(operand, max(WIDTHS[kind], 16))
        bits = bits.astype(UINT[WIDTHS[kind]], copy=False)
        return bf16_value(bits) if kind == "bf16" else bits.view(number_type(kind))


def _conversion(to: str, source: str, rounding: str | None, flushes: bool) -> Any:
    """The function of arrays, without the extension to the register's width."""
    is_float = source[0] == "f" or source == "bf16"
    if to == "bf16":
        if rounding != "rn":
            raise Unsupported(str(rounding))
        return lambda x: bf16_bits(x.astype(np.float32))
    if to[0] in "usb":
        return (lambda x: _integers(x, to, rounding)) if is_float else (lambda x: x.astype(number_type(to)))
    if rounding not in (None, "rn", *_TO_INTEGER):
        raise Unsupported(rounding)

    def to_float(x: Array) -> Array:
        value = _TO_INTEGER.get(rounding, np.asarray)(x).astype(FLOAT[WIDTHS[to]])
        return flush(value) if flushes and to == "f32" else value

    return to_float


def _integers(x: Array, to: str, rounding: str | None) -> Array:
    """The nearest integers of a type; 0 for NaN."""
    limits = np.iinfo(number_type(to))
    rounded = _TO_INTEGER[rounding](np.nan_to_num(x.astype(np.float64), nan=0.0))
    return np.array([min(max(int(v), limits.min), limits.max) for v in np.clip(rounded, -1e30, 1e30)], number_type(to))


def _extended(value: Array, to: str, dtype: Any) -> Array:
    """The bits in a register that may be wider: integers are extended by their sign."""
    if to[0] == "s":
        return value.astype(INT[8 * dtype.itemsize]).view(dtype)
    return value.astype(dtype) if to[0] in "ub" else value.view(dtype)
