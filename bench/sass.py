"""Counts of machine instructions by pipe, read from a compiled NVIDIA kernel's disassembly."""

import collections
import re
import subprocess
import tempfile
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
    """What a kernel takes of a multiprocessor, per thread (shared memory: per program)."""

    registers: int
    stack_bytes: int  # spilled registers and local arrays
    shared_bytes: int


def disassemble(cubin: bytes) -> tuple[list[Instruction], Resources]:
    """Instructions and resources of the one kernel in ``cubin``, by the cuobjdump of the Triton wheel."""
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
    """Number of instructions by pipe."""
    opcodes = (instruction.opcode.split(".")[0] for instruction in instructions)
    return collections.Counter(
        next((pipe for pipe, pattern in _PIPES.items() if re.fullmatch(pattern, opcode)), "other") for opcode in opcodes
    )


def shortest_path(instructions: list[Instruction]) -> list[Instruction]:
    """The instructions of a program that takes no optional path: the shortest way from the entry to an exit."""
    index_of = {instruction.address: i for i, instruction in enumerate(instructions)}
    came_from: dict[int, int | None] = {0: None}
    queue = collections.deque([0])
    while queue:
        i = queue.popleft()
        if instructions[i].opcode.startswith("EXIT") and not instructions[i].predicated:
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
    raise ValueError("the kernel has no exit")


def access_bits(instructions: list[Instruction], opcode: str) -> int:
    """Widest access of a memory opcode (LDG, STG) per thread, in bits; 0 if there is none."""
    widths = [0]
    for instruction in instructions:
        base, *modifiers = instruction.opcode.split(".")
        if base == opcode:
            widths.append(
                next((int(m.lstrip("US")) for m in modifiers if m in ("U8", "S8", "U16", "S16", "64", "128")), 32)
            )
    return max(widths)


def _successors(instructions: list[Instruction], i: int, index_of: dict[int, int]) -> list[int]:
    """Indices of the instructions that may follow."""
    instruction = instructions[i]
    following = [i + 1] if i + 1 < len(instructions) else []
    if not instruction.opcode.startswith("BRA"):
        return following
    before_target, target = instruction.operands.split("0x")
    # A branch is conditional by an @ prefix or by an operand before its target (BRA P0, 0x100).
    conditional = instruction.predicated or "P" in before_target
    return (following if conditional else []) + [index_of[int(target, 16)]]
