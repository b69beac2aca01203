"""Counts of machine instructions by pipe, read from a compiled NVIDIA kernel's disassembly."""

import collections
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import triton

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]+)\*/\s+(?:(@\S+)\s+)?([A-Z0-9_.]+)([^;]*);")

# Opcodes of the pipes whose throughput can bind; everything else issues as "other" (uniform datapath, control, moves
# from special registers).
_PIPES = {
    "fma": r"F(ADD|MUL|FMA)(32I)?|IMAD|H(FMA|ADD|MUL)2",
    "alu": r"V?IADD3?|LOP3|F?SEL|[FI]SETP?|V?[FI]MNMX|VIADDMNMX|PRMT|SHF|LEA|PLOP3|MOV|F2FP|IABS|P2R|R2P|CS2R|SGXT|BMSK"
    r"|H(SETP?|MNMX)2|I2[FI]P|VOTE",
    "mufu": r"MUFU|F2[FI]|I2F|POPC|FLO|BREV|FRND",
    "lsu": r"(LD|ST)[GSL]|SHFL|ATOM[GS]?|RED|REDUX|LDSM|STSM|MATCH",
}


class Instruction(NamedTuple):
    """One line of SASS."""

    address: int
    predicated: bool
    opcode: str  # with its modifiers, such as LDG.E.128
    operands: str


class Resources(NamedTuple):
    """Resources of a multiprocessor that a kernel uses, per thread (shared memory: per program)."""

    registers: int
    stack_bytes: int  # spilled registers and local arrays
    shared_bytes: int


def disassemble(cubin: bytes) -> tuple[list[Instruction], Resources]:
    """Read instructions and resources of the one kernel in ``cubin``, by the cuobjdump of the Triton wheel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass, usage = (
            subprocess.run([_TOOLS / "cuobjdump", flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-sass", "--dump-resource-usage")
        )
    instructions = [
        Instruction(int(address, 16), bool(predicate), opcode, operands)
        for address, predicate, opcode, operands in _INSTRUCTION.findall(sass)
        if not opcode.startswith("NOP")
    ]
    registers, stack, shared, local = (
        int(re.findall(rf"{key}:(\d+)", usage)[0]) for key in ("REG", "STACK", "SHARED", "LOCAL")
    )
    return instructions, Resources(registers, stack + local, shared)


def pipe_counts(instructions: list[Instruction]) -> collections.Counter[str]:
    """Count instructions by pipe."""
    opcodes = (instruction.opcode.split(".")[0] for instruction in instructions)
    return collections.Counter(
        next((pipe for pipe, pattern in _PIPES.items() if re.fullmatch(pattern, opcode)), "other") for opcode in opcodes
    )


def pixel_path(instructions: list[Instruction], spread: int | None) -> collections.Counter[str]:
    """Count the instructions of one thread that takes no optional path, by pipe.

    Args:
        instructions: Instructions of a kernel.
        spread: None for a kernel whose threads go once from the entry to an exit: the shortest path is counted.
            Otherwise the kernel has a loop over cell rows around a loop over pixels. Counted are then the shortest path
            through the inner loop, and 1 / ``spread`` of what a cell row takes besides, which is the share of each
            pixel.
    """
    if spread is None:
        return pipe_counts(shortest_path(instructions, 0, _is_exit))
    inner = large_loops(instructions)[0]
    pixel = shortest_path(instructions, inner.start, lambda i, _: i == inner.stop - 1)
    return _spread(pipe_counts(pixel), pipe_counts(_cell_path(instructions)), spread)


def _cell_path(instructions: list[Instruction]) -> list[Instruction]:
    """The shortest turn of the loop over cell rows that enters the loop over pixels, without the latter.

    With CutMix a loop over the two sides lies between them. All pixels of the cell row are on one side, as they are in
    most blocks: the other side is passed over once its pixels have been counted, which are short loops of one trip.
    """
    inner, *between, outer = large_loops(instructions)
    path = shortest_path(instructions, inner.stop, lambda i, _: i == outer.stop - 1)
    path += shortest_path(instructions, outer.start, lambda i, _: i in inner)[:-1]
    for sides in between:
        path += shortest_path(instructions, sides.start, lambda i, _, stop=sides.stop: i == stop - 1)  # type: ignore[misc]
        for count in large_loops(instructions, num_instructions=1):
            if sides.start <= count.start and count.stop <= inner.start:
                path += 2 * [instructions[i] for i in count]
    return path


def whole_path(instructions: list[Instruction], spread: int | None) -> collections.Counter[str]:
    """Count every instruction once, by pipe; of a loop around the loop over pixels, the share of one pixel."""
    loops = large_loops(instructions)
    if spread is None:
        return pipe_counts(instructions)
    inner, outer = loops[0], loops[-1]
    inside = [instructions[i] for i in inner]
    around = [instructions[i] for i in outer if i not in inner]
    return _spread(pipe_counts(inside), pipe_counts(around), spread)


def streamed_paths(
    instructions: list[Instruction], trips: int
) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Count the shortest and the longest path through a kernel whose loops, one behind the other, have so many trips.

    The longest one takes every instruction of the kernel, and of a loop in each of its trips.
    """
    shortest = pipe_counts(shortest_path(instructions, 0, _is_exit))
    longest = pipe_counts(instructions)
    for loop in large_loops(instructions, num_instructions=100):
        turn = shortest_path(instructions, loop.start, lambda i, _, stop=loop.stop: i == stop - 1)  # type: ignore[misc]
        for counts, body in ((shortest, turn), (longest, [instructions[i] for i in loop])):
            for pipe, count in pipe_counts(body).items():
                counts[pipe] += (trips - 1) * count
    return shortest, longest


def large_loops(instructions: list[Instruction], num_instructions: int = 200) -> list[range]:
    """Find loops of at least ``num_instructions`` instructions, as ranges of indices, the shortest first."""
    index_of = {instruction.address: i for i, instruction in enumerate(instructions)}
    loops = []
    for i, instruction in enumerate(instructions):
        if _is_jump(instruction):
            target = _branch_target(instruction, index_of)
            if target <= i - num_instructions:
                loops.append(range(target, i + 1))
    return sorted(loops, key=len)


def shortest_path(
    instructions: list[Instruction], start: int, arrived: Callable[[int, Instruction], bool]
) -> list[Instruction]:
    """Find the shortest path from index ``start`` to an instruction where ``arrived`` holds, both included."""
    index_of = {instruction.address: i for i, instruction in enumerate(instructions)}
    came_from: dict[int, int | None] = {start: None}
    queue = collections.deque([start])
    while queue:
        i = queue.popleft()
        if arrived(i, instructions[i]):
            path: list[Instruction] = []
            step: int | None = i
            while step is not None:
                path.insert(0, instructions[step])
                step = came_from[step]
            return path
        for successor in _successors(instructions, i, index_of):
            if successor not in came_from:
                came_from[successor] = i
                queue.append(successor)
    raise ValueError("the kernel has no such path")


def _is_exit(_: int, instruction: Instruction) -> bool:
    return instruction.opcode.startswith("EXIT") and not instruction.predicated


def _spread(
    counts: collections.Counter[str], around: collections.Counter[str], spread: int
) -> collections.Counter[str]:
    return collections.Counter({pipe: counts[pipe] + around[pipe] / spread for pipe in counts | around})


def _is_jump(instruction: Instruction) -> bool:
    """Whether the instruction leads elsewhere for good: a branch, or the conditional call by which a loop may be left.

    Other calls return.
    """
    return instruction.opcode.startswith("BRA") or (
        instruction.predicated and instruction.opcode.startswith("CALL.REL")
    )


def _successors(instructions: list[Instruction], i: int, index_of: dict[int, int]) -> list[int]:
    """Indices of the instructions that may follow."""
    instruction = instructions[i]
    following = [i + 1] if i + 1 < len(instructions) else []
    if not _is_jump(instruction):
        return following
    # A branch is conditional by an @ prefix or by an operand before its target (BRA P0, 0x100).
    conditional = instruction.predicated or "P" in instruction.operands.split("0x")[0]
    return (following if conditional else []) + [_branch_target(instruction, index_of)]


def _branch_target(instruction: Instruction, index_of: dict[int, int]) -> int:
    address = int(instruction.operands.split("0x")[1], 16)
    while address not in index_of:  # of a NOP, which is left out
        address += 16
    return index_of[address]
