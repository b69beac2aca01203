"""Occupancy of a GPU by a launch: warps of a multiprocessor, and the waves in which the programs run."""

from typing import NamedTuple

from fpl_fast.bench.audit.sources import Case
from fpl_fast.kernels.configs import choose_strips, program_slots
from fpl_fast.kernels.upsampled import BUFFER_BYTES

# Launches that the waves are of.
IMAGES, SIDE, ODD_SIDE = 8, 512, 769
UPSAMPLED_IMAGES, LOW_SIDE, HIGH_SIDE = 16, 200, 800
_PROGRAM_SHARED_BYTES = 1024  # that the system takes of each program


class Device(NamedTuple):
    """Rates and sizes of a GPU, from its data sheet (clock: sustained; memory: about what a large copy reaches)."""

    name: str
    multiprocessors: int
    clock_ghz: float
    memory_gbps: float
    lanes: dict[str, int]  # per multiprocessor and clock; "issue": four warp instructions
    shared_bytes: int  # of a multiprocessor


DEVICES = {
    "sm_80": Device("A100", 108, 1.41, 1550, {"issue": 128, "fma": 64, "alu": 64, "mufu": 16, "lsu": 32}, 164 << 10),
    "sm_90": Device("H100", 132, 1.7, 3000, {"issue": 128, "fma": 128, "alu": 64, "mufu": 16, "lsu": 32}, 228 << 10),
}


def resident_programs(device: Device, registers: int, shared_bytes: int, num_warps: int) -> int:
    """Programs that a multiprocessor of four quarters, with 16384 registers and 16 warps each, holds at once.

    Args:
        device: of the multiprocessor.
        registers: of a thread; a warp gets them in eights.
        shared_bytes: of a program.
        num_warps: of a program.
    """
    warps = 4 * min(16, 16384 // (32 * (-(-registers // 8) * 8)))
    return min(32, warps // num_warps, device.shared_bytes // (shared_bytes + _PROGRAM_SHARED_BYTES))


def num_programs(case: Case, device: Device) -> int:
    """Programs of a launch: 8 images of 512 x 512 at full resolution, otherwise of 16 to 800 x 800, as many as fit."""
    config = case.config
    if case.launch == "full":
        side = ODD_SIDE if case.odd else SIDE
        return IMAGES * -(-side * side // config.block)
    column_blocks = -(-HIGH_SIDE // config.block)
    if case.launch != "upsampled":  # a program for each block of columns of each row
        return UPSAMPLED_IMAGES * HIGH_SIDE * column_blocks
    strips = choose_strips(
        UPSAMPLED_IMAGES,
        LOW_SIDE - 1,
        column_blocks,
        4 * case.num_classes * HIGH_SIDE,
        BUFFER_BYTES,
        program_slots(case.num_classes, config.num_warps, device.multiprocessors),
    )
    return strips.images * -(-(LOW_SIDE - 1) // strips.cells) * column_blocks
