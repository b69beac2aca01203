"""Registers of all threads that run together, and instructions that compute one register of others, thread by thread.

An instruction becomes a step: a function of a mask of the threads that take it, True for all.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx.floats import NAN_BITS, flush, in_halves
from ptx.program import UINT, WIDTHS, Instruction, Operand, Program, Unsupported, number_type
from ptx.shared import SHARED_BASE

Array = np.ndarray[Any, Any]
Mask = Any  # bool for each thread, or True
Step = Callable[[Mask], None]

# What a register holds before it is written, by its bits: NaN, in integers a large number.
_UNWRITTEN = {16: np.uint16(0x7FC0), 32: np.uint32(0x7FC0_DEAD), 64: np.uint64(0x7FF8_0000_7FC0_DEAD)}


class Registers:
    """Operands of instructions, and the two forms that most steps have.

    Attributes:
        program: That runs.
        num_threads: Of a block.
        registers: The bits of each, (lanes,).
        special: Registers such as ``%tid.x``.
    """

    program: Program
    num_threads: int
    registers: dict[str, Array]
    special: dict[str, Array]

    def fill(self, grid: tuple[int, int, int], numbers: Array, random: np.random.Generator) -> None:
        """Make the registers of the blocks of these numbers, with what one holds before it is written."""
        threads, lanes = self.num_threads, self.num_threads * len(numbers)

        def each(x: Any) -> Array:
            return np.ascontiguousarray(np.broadcast_to(x, (lanes,)).astype(np.uint32))

        thread = np.tile(np.arange(threads), len(numbers))
        places = numbers % grid[0], numbers // grid[0] % grid[1], numbers // (grid[0] * grid[1])
        self.special = {"%tid.x": each(thread), "%ntid.x": each(threads), "%laneid": each(thread % 32)}
        self.special["%warpid"] = each(thread // 32)
        for axis, place, size in zip("xyz", places, grid, strict=True):
            self.special[f"%ctaid.{axis}"] = each(np.repeat(place, threads))
            self.special[f"%nctaid.{axis}"] = each(size)
        is_set = bool(random.integers(2))
        self.registers = {
            name: np.full(lanes, is_set if width == 1 else _UNWRITTEN[width])
            for name, width in self.program.registers.items()
        }

    def bits(self, operand: Operand, width: int) -> Array:
        """The operand's bits; a register's own array, so that it can be asked for before it is written."""
        kind, value = operand[:2]
        if kind == "reg":
            found = self.registers[value]
            if found.dtype not in (bool, UINT[width]):
                raise Unsupported(f"register {value} read as {width} bits")
            return found
        if kind == "imm":
            return np.array(value & (2**width - 1), UINT[width])
        if kind == "float":
            return np.array(value, UINT[operand[2]])
        if kind == "special" and value in self.special:
            return self.special[value].astype(UINT[width], copy=False)
        if kind == "sym" and self.program.spaces.get(value) == "shared":
            return np.array(SHARED_BASE, UINT[width])
        raise Unsupported(str(operand))

    def numbers(self, operand: Operand, kind: str) -> Array:
        """The operand as numbers of a type; as bits where NumPy has none."""
        if kind == "pred":
            return np.array(bool(operand[1])) if operand[0] == "imm" else self.registers[operand[1]]
        if WIDTHS[kind] == 8:
            raise Unsupported(kind)
        bits = self.bits(operand, WIDTHS[kind])
        return bits if _has_no_type(kind) else bits.view(number_type(kind))

    def output(self, operand: Operand, kind: str) -> Array:
        """The register to write, as numbers of a type."""
        found = self.registers[operand[1]]
        if kind == "pred":
            return found
        if found.dtype != UINT[WIDTHS[kind]]:
            raise Unsupported(f"{operand[1]} written as {kind}")
        return found if _has_no_type(kind) else found.view(number_type(kind))

    def pointwise(self, out: Operand, kind: str, function: Callable[..., Any], inputs: list[Array]) -> Step:
        """Compute a function of arrays, and write it where the mask is set."""
        to = self.output(out, kind)
        bits = self.registers[out[1]]

        def step(mask: Mask) -> None:
            value = function(*inputs)
            np.copyto(to, value, where=mask, casting="unsafe")
            if kind == "f32":
                _one_nan(bits, np.isnan(value), mask)

        return step

    def ufunc(self, out: Operand, kind: str, function: np.ufunc, inputs: list[Array]) -> Step:
        """Compute one of NumPy's functions where the mask is set, into the register."""
        to = self.output(out, kind)
        bits = self.registers[out[1]]

        def step(mask: Mask) -> None:
            function(*inputs, out=to, where=mask)
            if kind == "f32":
                _one_nan(bits, np.isnan(to), mask)

        return step

    def of_floats(self, instruction: Instruction, function: Callable[..., Any]) -> Step:
        """A function of floats that are rounded once, of any type and number in a register."""
        parts, (out, *args) = instruction.parts, instruction.args
        kind = parts[-1]
        if "sat" in parts or parts[-2] == "f32":
            raise Unsupported("modifier")
        inputs = [self.numbers(x, kind) for x in args]
        if kind not in ("f32", "f64"):
            return self.pointwise(out, kind, lambda *x: in_halves(kind, function, *x), inputs)
        if "ftz" in parts:
            return self.pointwise(out, kind, lambda *x: flush(function(*map(flush, x))), inputs)
        if isinstance(function, np.ufunc):
            return self.ufunc(out, kind, function, inputs)
        return self.pointwise(out, kind, function, inputs)


def _has_no_type(kind: str) -> bool:
    return kind == "bf16" or kind.endswith("x2")


def _one_nan(bits: Array, nan: Array, mask: Mask) -> None:
    if nan.any():
        np.copyto(bits, NAN_BITS, where=nan if mask is True else nan & mask)
