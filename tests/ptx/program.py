"""PTX as the machine takes it: a body of instructions, with labels, registers and parameters."""

from typing import Any, NamedTuple

import numpy as np

UINT = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
INT = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
FLOAT = {16: np.float16, 32: np.float32, 64: np.float64}
# Bits of PTX's types.
WIDTHS = {
    **{"pred": 1, "b8": 8, "u8": 8, "s8": 8},
    **{"b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16},
    **{"b32": 32, "u32": 32, "s32": 32, "f32": 32, "f16x2": 32, "bf16x2": 32},
    **{"b64": 64, "u64": 64, "s64": 64, "f64": 64},
}

# ("reg", name), ("imm", int), ("float", bits, width), ("vec", [operand]), ("mem", base, offset), ("sym", name),
# ("special", name), ("pair", operand, operand), ("not", operand) or ("sink",)
Operand = tuple[Any, ...]


class Fault(Exception):
    """The program did something that a GPU must not be asked to do."""


class Unsupported(Exception):
    """The emulator lacks an instruction."""


class Instruction:
    """One statement; mutable, for defects to be put in.

    Args:
        op: Operation with its modifiers, "ld.global.v2.b32".
        args: Operands.
        guard: Register of the predicate that it depends on, and whether that is negated; None for always.
        text: As written.
        line: Of the PTX.
        source: File and line of the Triton source.
    """

    def __init__(
        self, op: str, args: list[Operand], guard: tuple[str, bool] | None, text: str, line: int, source: str
    ) -> None:
        self.op, self.args, self.guard = op, args, guard
        self.text, self.line, self.source = text, line, source

    @property
    def parts(self) -> list[str]:
        """Operation and modifiers."""
        return self.op.split(".")

    def __str__(self) -> str:
        return f"{self.source} '{self.text}' (PTX line {self.line})"


class Program(NamedTuple):
    """The entry function of a module."""

    name: str
    parameters: list[tuple[str, str]]
    """Names and types."""
    registers: dict[str, int]
    """Bits of each, 1 for a predicate."""
    instructions: list[Instruction]
    labels: dict[str, int]
    """Indices of instructions."""
    spaces: dict[str, str]
    """State spaces of the variables outside the function: "shared" or "global"."""
    num_threads: int
    """Threads of a block, 0 where it is not stated."""


def number_type(kind: str) -> Any:
    """NumPy's type for one of PTX's."""
    width = WIDTHS[kind]
    if kind[0] == "f":
        return FLOAT[width]
    return INT[width] if kind[0] == "s" else UINT[width]
