"""Instructions that move, compare, choose and shift bits."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from ptx.floats import flush
from ptx.program import UINT, WIDTHS, Instruction, Unsupported, number_type
from ptx.registers import Array, Mask, Registers, Step

_INTEGERS = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}  # of unsigned ones
_UNORDERED = {"equ": "eq", "neu": "ne", "ltu": "lt", "leu": "le", "gtu": "gt", "geu": "ge"}
_COMBINED = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


class Bits(Registers):
    """Comparisons, selections, moves, logic and shifts."""

    def op_setp(self, instruction: Instruction) -> Step:
        parts, (out, *args) = instruction.parts, instruction.args
        kind, combine = parts[-1], next((x for x in parts[2:-1] if x in _COMBINED), None)
        if kind in ("f16", "bf16") or kind.endswith("x2"):
            raise Unsupported(kind)
        compare = _comparison(parts[1], kind, "ftz" in parts)
        a, b = (self.numbers(x, kind) for x in args[:2])
        outs = [out] if out[0] == "reg" else out[1:]
        written = [None if x[0] == "sink" else self.output(x, "pred") for x in outs]
        third, negated = None, False
        if combine is not None:
            negated = args[2][0] == "not"
            third = self.numbers(args[2][1] if negated else args[2], "pred")

        def step(mask: Mask) -> None:
            result = compare(a, b)
            for to, value in zip(written, (result, ~result), strict=False):
                if third is not None:
                    value = _COMBINED[combine](value, ~third if negated else third)
                if to is not None:
                    np.copyto(to, value, where=mask)

        return step

    def op_selp(self, instruction: Instruction) -> Step:
        width, (out, a, b, chosen) = WIDTHS[instruction.parts[-1]], instruction.args
        inputs = [self.bits(a, width), self.bits(b, width), self.numbers(chosen, "pred")]
        return self.pointwise(out, f"u{width}", lambda x, y, c: np.where(c, x, y), inputs)

    def op_mov(self, instruction: Instruction) -> Step:
        kind, (out, source) = instruction.parts[-1], instruction.args
        width = WIDTHS[kind]
        if out[0] == "vec":
            return self._unpack(out[1], self.bits(source, width))
        if source[0] == "vec":
            each = width // len(source[1])
            return self.pointwise(
                out, f"u{width}", lambda *x: _packed(x, width), [self.bits(x, each) for x in source[1]]
            )
        if kind == "pred":
            return self.pointwise(out, kind, np.asarray, [self.numbers(source, kind)])
        return self.pointwise(out, f"u{width}", np.asarray, [self.bits(source, width)])

    def _unpack(self, pieces: list[Any], source: Array) -> Step:
        width = 8 * source.dtype.itemsize // len(pieces)

        def step(mask: Mask) -> None:
            value = source.copy()
            for i, piece in enumerate(pieces):
                if piece[0] != "sink":
                    part = (value >> value.dtype.type(i * width)).astype(UINT[width])
                    np.copyto(self.registers[piece[1]], part, where=mask)

        return step

    def op_and(self, instruction: Instruction) -> Step:
        return self._logic(instruction, np.bitwise_and)

    def op_or(self, instruction: Instruction) -> Step:
        return self._logic(instruction, np.bitwise_or)

    def op_xor(self, instruction: Instruction) -> Step:
        return self._logic(instruction, np.bitwise_xor)

    def op_not(self, instruction: Instruction) -> Step:
        return self._logic(instruction, np.invert)

    def _logic(self, instruction: Instruction, function: np.ufunc) -> Step:
        kind, (out, *args) = instruction.parts[-1], instruction.args
        if kind == "pred":
            return self.pointwise(out, kind, function, [self.numbers(x, kind) for x in args])
        width = WIDTHS[kind]
        return self.ufunc(out, f"u{width}", function, [self.bits(x, width) for x in args])

    def op_lop3(self, instruction: Instruction) -> Step:
        out, *args, table = instruction.args

        def look_up(a: Array, b: Array, c: Array) -> Array:
            result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), np.uint32)
            for i in range(8):
                if table[1] >> i & 1:
                    result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
            return result

        return self.pointwise(out, "u32", look_up, [self.bits(x, 32) for x in args])

    def op_shl(self, instruction: Instruction) -> Step:
        width, (out, x, by) = WIDTHS[instruction.parts[-1]], instruction.args

        def shift(x: Array, n: Array) -> Array:
            return np.where(n >= width, UINT[width](0), x << np.minimum(n, width - 1).astype(UINT[width]))

        return self.pointwise(out, f"u{width}", shift, [self.bits(x, width), self.bits(by, 32)])

    def op_shr(self, instruction: Instruction) -> Step:
        kind, (out, x, by) = instruction.parts[-1].replace("b", "u"), instruction.args
        width, to = WIDTHS[kind], number_type(kind)

        def shift(x: Array, n: Array) -> Array:
            shifted = x >> np.minimum(n, width - 1).astype(to)
            return shifted if kind[0] == "s" else np.where(n >= width, to(0), shifted)

        return self.pointwise(out, kind, shift, [self.numbers(x, kind), self.bits(by, 32)])

    def op_shf(self, instruction: Instruction) -> Step:
        parts, (out, *args) = instruction.parts, instruction.args

        def shift(low: Array, high: Array, n: Array) -> Array:
            n = (n & np.uint32(31) if "wrap" in parts else np.minimum(n, 32)).astype(np.uint64)
            both = (high.astype(np.uint64) << np.uint64(32)) | low
            return ((both << n) >> np.uint64(32) if parts[1] == "l" else both >> n).astype(np.uint32)

        return self.pointwise(out, "u32", shift, [self.bits(x, 32) for x in args])

    def op_bfe(self, instruction: Instruction) -> Step:
        kind, (out, x, *place) = instruction.parts[-1], instruction.args
        if kind == "s64":
            raise Unsupported(kind)
        width, to = WIDTHS[kind], number_type(kind)

        # Beyond the upper end there are zeros, or copies of the sign.
        def unsigned(x: Array, first: Array, length: Array) -> Array:
            first, length = ((n & np.uint32(0xFF)).astype(to) for n in (first, length))
            moved = np.where(first < width, x >> np.minimum(first, to(width - 1)), to(0))
            return np.where(length < width, moved & ((to(1) << np.minimum(length, to(width - 1))) - to(1)), moved)

        def signed(x: Array, first: Array, length: Array) -> Array:
            first, length = (np.minimum(n & np.uint32(0xFF), 32).astype(np.int64) for n in (first, length))
            field = (x.astype(np.int64) >> first) & ((1 << length) - 1)
            last = np.minimum(first + length - 1, 31).clip(0)
            negative = (x.astype(np.int64) >> last) & (length > 0)
            return np.where(negative, field | -(1 << np.minimum(length, last - first + 1).clip(0)), field).astype(to)

        extract = signed if kind == "s32" else unsigned
        return self.pointwise(out, kind, extract, [self.numbers(x, kind), *(self.bits(n, 32) for n in place)])

    def op_prmt(self, instruction: Instruction) -> Step:
        out, *args = instruction.args
        if len(instruction.parts) > 2:
            raise Unsupported("mode")

        def permute(x: Array, y: Array, selector: Array) -> Array:
            both = (y.astype(np.uint64) << np.uint64(32)) | x
            result = np.uint32(0)
            for i in range(4):
                chosen = (selector >> np.uint32(4 * i)) & np.uint32(15)
                byte = (both >> ((chosen & np.uint32(7)).astype(np.uint64) * np.uint64(8))) & np.uint64(0xFF)
                sign = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
                byte = np.where(chosen & np.uint32(8), sign, byte)
                result = result | (byte.astype(np.uint32) << np.uint32(8 * i))
            return result

        return self.pointwise(out, "u32", permute, [self.bits(x, 32) for x in args])

    def op_popc(self, instruction: Instruction) -> Step:
        out, x = instruction.args
        return self.pointwise(out, "u32", np.bitwise_count, [self.bits(x, WIDTHS[instruction.parts[-1]])])


def _packed(pieces: tuple[Array, ...], width: int) -> Array:
    """Pieces side by side in a register, the first one lowest."""
    value, each = pieces[0].astype(UINT[width]), width // len(pieces)
    for i, piece in enumerate(pieces[1:], start=1):
        value = value | (piece.astype(UINT[width]) << UINT[width](i * each))
    return value


def _comparison(name: str, kind: str, flushes: bool) -> Callable[[Array, Array], Array]:
    if kind[0] != "f":
        return getattr(operator, _INTEGERS.get(name, name))

    def compare(x: Array, y: Array) -> Array:
        if flushes:
            x, y = flush(x), flush(y)
        nan = np.isnan(x) | np.isnan(y)
        if name in ("num", "nan"):
            return nan if name == "nan" else ~nan
        result = getattr(operator, _UNORDERED.get(name, name))(x, y)
        return result | nan if name in _UNORDERED else result & ~nan

    return compare
