"""Launch configurations of the full-resolution kernel, by counts of the offline audit (``bench/audit``)."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import triton

# Up to here a group is a single class, whose pixels a thread keeps in registers; beyond, groups are tiles of classes.
MAX_SINGLES = 32
# Up to here, the classes of planes are streamed where at most three are positive.
MAX_STREAMED = 256
MAX_GRID_Z = 65535
# Cost of the row that a strip shares with the next one, in cell rows: it is loaded and stored, but has no pixels.
ROW_COST = 0.25
# Launches beyond the fewest that are looked at.
MORE_LAUNCHES = 8


class Config(NamedTuple):
    """Launch configuration of a full-resolution kernel: classes in a group, pixels and warps in a program."""

    group: int
    """Classes in a group; in a chunk, where classes are streamed."""
    block: int
    num_warps: int
    max_registers: int | None = None
    """Limit for a thread on NVIDIA, whose compiler then uses as many: 80 for 24 resident warps, 128 for 16."""


def choose_config(num_classes: int, element_size: int, *, limited: bool, rows: bool, streamed: bool = False) -> Config:
    """The configuration for a number of classes, by times on an H200 (docs/adr/0013-launch-configurations.md).

    Those of odd rows and of streamed classes are chosen by counts (docs/adr/0015-chunks-and-words.md).

    Args:
        num_classes: C.
        element_size: bytes of the wider of the logits' dtypes.
        limited: whether for the fuzzy positive loss with statistics or without a cap: other kernels take fewer
            registers, and a limit would give them more.
        rows: whether some of the logits are rows of pixels, channels_last.
        streamed: whether for the kernel that reads classes in chunks.
    """
    if streamed:
        # C = 150 takes 5.2 thousand instructions a pixel, or 7.7 if all chunks hold positives. Chunks of 15 classes
        # take 5.0 or 7.3, with 96 registers, so that 20 warps are resident instead of 24.
        return Config(group=10, block=64, num_warps=1, max_registers=80 if element_size == 2 else None)
    limited = limited and element_size == 2
    if num_classes <= MAX_SINGLES:
        # Two pixels a thread, which share addresses, and load 32 bits of a plane of 16-bit logits at once. One warp a
        # program: none waits for another to sum up. Rows of an odd number of classes take two: what a warp alone
        # exchanges Triton moves by shuffles and selections, a third more instructions than through shared memory.
        limit = 128 if limited and 16 <= num_classes <= 21 else None
        num_warps = 2 if rows and num_classes % 2 else 1
        return Config(group=1, block=64 * num_warps, num_warps=num_warps, max_registers=limit)
    group = triton.next_power_of_2(triton.cdiv(num_classes, MAX_SINGLES))
    if num_classes <= 256:
        # Two values of each tile a thread. Programs of four warps, so that two or three are resident: while the warps
        # of one wait at a barrier, another works. C = 150 takes half the time that one program of eight warps took.
        limit = 168 if limited and 17 <= triton.cdiv(num_classes, group) <= 22 else None
        return Config(group, block=256 // group, num_warps=4, max_registers=limit)
    # One class of one pixel a thread and tile. C = 1024 on sm_90, bf16: (32, 16, 16) takes 78528 instructions a pixel
    # and spills 16 bytes, (32, 32, 16) 90256 and 2080.
    return Config(group, block=max(512 // group, 4), num_warps=16)


class UpsampledConfig(NamedTuple):
    """Launch configuration of a kernel that upsamples: classes in a group, columns and warps in a program."""

    group: int
    block: int
    num_warps: int
    min_waves: int | None = None
    """Waves that a SIMD of AMD is to hold, whose compiler otherwise takes registers as if one were enough."""


def choose_upsampled_config(num_classes: int, lanes: int) -> UpsampledConfig:
    """The configuration of the losses that upsample.

    Args:
        num_classes: C.
        lanes: threads of a warp.
    """
    if num_classes <= MAX_SINGLES:
        # One column a thread: C = 19 takes 242 registers on sm_90 without spills, so that two columns would spill. One
        # warp a program: the narrower the strips, the better they fill width and device, and none waits for another.
        # On gfx942 it takes 274 without a limit, so that a SIMD would hold one wave, and spills 14 with it.
        return UpsampledConfig(group=1, block=lanes, num_warps=1, min_waves=2 if num_classes >= 16 else None)
    # One value of each tile a thread, and sixteen tiles: three rows and three sums of every class live at once. With 30
    # tiles C = 60 spills 1056 bytes on sm_90 and compiles for 118 s, with 15 it spills 120 and compiles for 19.
    group = triton.next_power_of_2(triton.cdiv(num_classes, 16))
    num_warps = 4 if num_classes <= 256 else 16
    return UpsampledConfig(group, block=max(lanes * num_warps // group, 4), num_warps=num_warps)


def choose_teacher_config(num_classes: int, lanes: int) -> UpsampledConfig:
    """The configuration of the kernels that read a teacher alone, upsampled or not: arguments as above."""
    if num_classes <= MAX_SINGLES:
        return UpsampledConfig(group=1, block=lanes, num_warps=1)
    group = triton.next_power_of_2(triton.cdiv(num_classes, MAX_SINGLES))
    num_warps = 8 if num_classes <= 256 else 16
    return UpsampledConfig(group, block=lanes * num_warps // group, num_warps=num_warps)


class Strips(NamedTuple):
    """Division of the upsampled images into programs and launches."""

    cells: int
    """Cell rows of a strip."""
    images: int
    """Images of a launch, at most."""


@functools.lru_cache(maxsize=256)
def choose_strips(
    num_images: int, num_cells: int, column_blocks: int, image_row_bytes: int, buffer_bytes: int, slots: int
) -> Strips:
    """The strips with which all launches together end first.

    A launch runs in waves of as many programs as the device holds, each as long as a strip. Few long strips leave a
    part of the device idle, in the last wave above all; many short ones load and store the rows between them twice.
    Of what takes as long, few launches are better: the host makes them. Sixteen images of 19 classes from 200 x 200 to
    800 x 800 go four at a time in strips of 20 cell rows on an H100: 1000 programs, 95 % of a wave.

    Args:
        num_images: N, at least 1.
        num_cells: cell rows of an image.
        column_blocks: programs side by side.
        image_row_bytes: bytes that a row of an image takes in the buffer.
        buffer_bytes: size of the buffer, which takes an image at least; 0 for no buffer.
        slots: programs that the device runs at once.
    """

    def candidates() -> Iterator[tuple[float, int, Strips]]:
        for cells in range(1, num_cells + 1):
            num_strips = triton.cdiv(num_cells, cells)
            most = min(num_images, MAX_GRID_Z)
            if buffer_bytes:
                most = min(most, max(1, buffer_bytes // (num_strips * (cells + 1) * image_row_bytes)))
            fewest = triton.cdiv(num_images, most)
            for launches in range(fewest, min(fewest + MORE_LAUNCHES, num_images) + 1):
                images = triton.cdiv(num_images, launches)
                full, rest = (triton.cdiv(column_blocks * num_strips * n, slots) for n in (images, num_images % images))
                waves = num_images // images * full + rest
                yield waves * (cells + ROW_COST), launches, Strips(cells, images)

    return min(candidates())[2]


def program_slots(num_classes: int, num_warps: int, multiprocessors: int) -> int:
    """Programs of the upsampling kernel that a device runs at once, which its registers decide.

    Args:
        num_classes: C.
        num_warps: warps of a program.
        multiprocessors: of the device.
    """
    registers = min(40 + 12 * num_classes, 256)  # of a thread; on sm_90 C = 5 takes 96, 11 takes 167, 19 takes 255
    warps = 65536 // (32 * registers)
    return multiprocessors * max(1, warps // num_warps)
