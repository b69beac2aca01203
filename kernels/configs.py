"""Launch configurations of the full-resolution kernel, by counts of the offline audit (``bench/audit``)."""

from typing import NamedTuple

import triton

# Up to here a group is a single class, whose pixels a thread keeps in registers; beyond, groups are tiles of classes.
MAX_SINGLES = 32


class Config(NamedTuple):
    """Launch configuration of the full-resolution kernel: classes in a group, pixels and warps in a program."""

    group: int
    block: int
    num_warps: int


def choose_config(num_classes: int, element_size: int, in_rows: bool) -> Config:
    """The configuration for a number of classes.

    Args:
        num_classes: C.
        element_size: bytes of the wider of the logits' dtypes.
        in_rows: whether a tensor of the launch is dense channels_last.
    """
    if num_classes <= MAX_SINGLES:
        # 16-bit planes: two pixels a thread load 32 bits at once and share addresses. C = 19 on sm_80: 910 instructions
        # a pixel and 151 registers. Rows of 19 classes with two pixels a thread spill (255 registers); with one they
        # take 1591 instructions and 89 registers on sm_90.
        return Config(group=1, block=256 if element_size == 2 and not in_rows else 128, num_warps=4)
    group = triton.next_power_of_2(triton.cdiv(num_classes, MAX_SINGLES))
    if num_classes <= 256:
        # C = 150 on sm_80, bf16: 9424 instructions a pixel, 186 registers. Four warps spill 896 bytes; tiles of 16
        # or of 4 classes take a tenth more instructions.
        return Config(group, block=64, num_warps=8)
    # One class of one pixel a thread and tile. C = 1024 on sm_90, bf16: (32, 16, 16) takes 78528 instructions a pixel
    # and spills 16 bytes, (32, 32, 16) 90256 and 2080.
    return Config(group, block=max(512 // group, 4), num_warps=16)


class UpsampledConfig(NamedTuple):
    """Launch configuration of the upsampling kernel: a program has ``strip_cells`` cell rows and ``block`` columns."""

    group: int
    block: int
    strip_cells: int
    num_warps: int


def choose_upsampled_config(num_classes: int) -> UpsampledConfig:
    """The configuration of the kernel that upsamples, for a number of classes."""
    if num_classes <= MAX_SINGLES:
        # One column a thread: C = 19 takes 246 registers on sm_90 without spills, so that two columns would spill.
        # Strips of eight cell rows load an eighth more rows than a single strip, and give 350 programs of two images
        # of 200 x 200 to 800 x 800, more than an H100 runs at once.
        return UpsampledConfig(group=1, block=128, strip_cells=8, num_warps=4)
    # Tiles: one class of one column a thread and tile, because three rows and three sums of every class live at once.
    group = triton.next_power_of_2(triton.cdiv(num_classes, MAX_SINGLES))
    num_warps = 8 if num_classes <= 256 else 16
    return UpsampledConfig(group, block=32 * num_warps // group, strip_cells=8, num_warps=num_warps)
