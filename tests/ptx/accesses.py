"""Instructions that load and store."""

from collections.abc import Callable

import numpy as np

from ptx.memory import Memory
from ptx.program import INT, UINT, WIDTHS, Instruction, Operand, Unsupported
from ptx.registers import Array, Mask, Step
from ptx.shared import Shared
from ptx.warps import Warps

_WHOLE_WARP = np.array(0xFFFFFFFF, np.uint32)


class Accesses(Warps):
    """Loads and stores of parameters, global and shared memory.

    Attributes:
        values: Of the parameters, as bits.
        memory: The global memory.
        shared: The shared memory of all blocks.
        blocks: Of each lane, which of the blocks that run.
        threads: Of each lane, its number within the block.
        global_threads: Of each lane, its number within the launch.
    """

    values: dict[str, int]
    memory: Memory
    shared: Shared
    blocks: Array
    threads: Array
    global_threads: Array

    def op_ld(self, instruction: Instruction) -> Step:
        parts, (out, source) = instruction.parts, instruction.args
        if "param" in parts:
            return self._load_parameter(instruction)
        space, width, operands = _access(instruction, out)
        registers = [self.registers[x[1]] if x[0] == "reg" else None for x in operands]
        address = self._address(source, space)

        def step(mask: Mask) -> None:
            lanes = self.where(mask)
            if len(lanes):
                rows = self._load(space, lanes, address(lanes), width * len(registers) // 8, instruction)
                for register, values in zip(registers, rows.view(UINT[width]).T, strict=True):
                    if register is not None:
                        register[lanes] = _extended(values, parts[-1], register.dtype)

        return step

    def op_st(self, instruction: Instruction) -> Step:
        target, source = instruction.args
        space, width, operands = _access(instruction, source)
        sources = [self.registers[x[1]] if x[0] == "reg" else self.bits(x, width) for x in operands]
        address = self._address(target, space)

        def step(mask: Mask) -> None:
            lanes = self.where(mask)
            if len(lanes):
                values = np.stack([_of_lanes(x, lanes).astype(UINT[width]) for x in sources], axis=1)
                self._store(space, lanes, address(lanes), values.view(np.uint8), instruction)

        return step

    def op_atom(self, instruction: Instruction) -> Step:
        """Add to a number in global memory, one thread after the other."""
        parts, (out, target, operand) = instruction.parts, instruction.args
        if parts[1:] != ["global", "gpu", "acq_rel", "add", "u64"]:
            raise Unsupported("atomic operation")
        register, address, values = self.registers[out[1]], self._address(target, "global"), self.bits(operand, 64)

        def step(mask: Mask) -> None:
            lanes = self.where(mask)
            if len(lanes):
                added = _of_lanes(values, lanes).astype(np.uint64)
                register[lanes] = self.memory.add_to(self.global_threads[lanes], address(lanes), added, instruction)

        return step

    def _load_parameter(self, instruction: Instruction) -> Step:
        kind, (out, source) = instruction.parts[-1], instruction.args
        if out[0] == "vec" or source[2]:
            raise Unsupported("part of a parameter")
        register = self.registers[out[1]]
        bits = np.array(self.values[source[1][1]] & (2 ** WIDTHS[kind] - 1), UINT[WIDTHS[kind]])
        value = _extended(bits, kind, register.dtype)
        return lambda mask: np.copyto(register, value, where=mask)

    def _address(self, operand: Operand, space: str) -> Callable[[Array], Array]:
        base, offset = self.bits(operand[1], 64 if space == "global" else 32), operand[2]
        size = base.dtype.itemsize
        return lambda lanes: _of_lanes(base, lanes) + base.dtype.type(offset & (2 ** (8 * size) - 1))

    def _load(self, space: str, lanes: Array, addresses: Array, size: int, by: Instruction) -> Array:
        if space == "shared":
            return self.shared.load(self.blocks[lanes], self.threads[lanes], addresses, size, by)
        return self.memory.load(self.global_threads[lanes], addresses, size, by)

    def _store(self, space: str, lanes: Array, addresses: Array, rows: Array, by: Instruction) -> None:
        if space == "shared":
            self.shared.store(self.blocks[lanes], self.threads[lanes], addresses, rows, by)
        else:
            self.memory.store(self.global_threads[lanes], addresses, rows, by)

    def op_stmatrix(self, instruction: Instruction) -> Step:
        target, source = instruction.args
        return self._matrices(instruction, target, source, self._store_matrix)

    def op_ldmatrix(self, instruction: Instruction) -> Step:
        target, source = instruction.args
        return self._matrices(instruction, source, target, self._load_matrix)

    def _matrices(self, instruction: Instruction, memory: Operand, data: Operand, move: Callable[..., None]) -> Step:
        """Matrices of 8 x 8, whose rows are 16 bytes each; thread i of a warp says where row i of them all lies."""
        parts = instruction.parts
        if "m8n8" not in parts or parts[-1] != "b16":
            raise Unsupported("shape")
        registers = [self.registers[x[1]] for x in (data[1] if data[0] == "vec" else [data])]
        address = self._address(memory, "shared")

        def step(mask: Mask) -> None:
            self.check_whole(mask, _WHOLE_WARP, instruction)
            warps = self.where(mask).reshape(-1, 32)
            for i, register in enumerate(registers):
                owners = warps[:, 8 * i : 8 * i + 8].reshape(-1)
                move(register, warps, owners, address(owners), "trans" in parts, instruction)

        return step

    def _store_matrix(
        self, register: Array, warps: Array, owners: Array, rows: Array, transposed: bool, by: Instruction
    ) -> None:
        # Thread t holds elements 2 (t % 4) and 2 (t % 4) + 1 of row t // 4.
        matrix = register[warps].view(np.uint16).reshape(-1, 8, 8)
        matrix = np.ascontiguousarray(matrix.transpose(0, 2, 1) if transposed else matrix)
        self._store("shared", owners, rows, matrix.view(np.uint8).reshape(-1, 16), by)

    def _load_matrix(
        self, register: Array, warps: Array, owners: Array, rows: Array, transposed: bool, by: Instruction
    ) -> None:
        loaded = np.ascontiguousarray(self._load("shared", owners, rows, 16, by))
        matrix = loaded.view(np.uint16).reshape(-1, 8, 8)
        matrix = np.ascontiguousarray(matrix.transpose(0, 2, 1) if transposed else matrix)
        register[warps] = matrix.reshape(-1, 64).view(np.uint32)


def _access(instruction: Instruction, data: Operand) -> tuple[str, int, list[Operand]]:
    """Space, bits of an element, and the operands."""
    parts = instruction.parts
    if {"volatile", "acquire", "release"} & {*parts}:
        raise Unsupported("ordering")
    space = next((x for x in ("shared", "global") if any(part.startswith(x) for part in parts)), None)
    operands = data[1] if data[0] == "vec" else [data]
    if space is None or len(operands) != next((int(x[1:]) for x in parts if x in ("v2", "v4", "v8")), 1):
        raise Unsupported("address space or vector")
    return space, WIDTHS[parts[-1]], operands


def _of_lanes(x: Array, lanes: Array) -> Array:
    return x[lanes] if x.ndim else np.full(len(lanes), x)


def _extended(values: Array, kind: str, dtype: np.dtype) -> Array:
    """Loaded bits in a register that may be wider: signed integers are extended by their sign."""
    if kind[0] == "s":
        return values.view(INT[WIDTHS[kind]]).astype(INT[8 * dtype.itemsize]).view(dtype)
    return values.astype(dtype)
