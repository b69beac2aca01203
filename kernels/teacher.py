"""The arguments of kernels that read a teacher's rows, see ``device/teacher.py``."""

from typing import Any, NamedTuple

import triton

from fpl_fast.kernels.arguments import TeacherInputs
from fpl_fast.kernels.axis import axis
from fpl_fast.kernels.capacity import capacity
from fpl_fast.kernels.configs import choose_teacher_config
from fpl_fast.kernels.device import operands
from fpl_fast.kernels.operands import column_pixels, samples, tables


class RowLaunch(NamedTuple):
    """A launch with a program for each block of columns of each row."""

    grid: tuple[int, int, int]
    arguments: dict[str, Any]
    num_warps: int


def launch_rows(inputs: TeacherInputs) -> RowLaunch:
    """Grid and common arguments of a launch over all rows of the pixels; logits in float16, bfloat16 or float32."""
    teacher, partner = inputs.teacher, inputs.partner
    if partner is not None and partner.stride() != teacher.stride():
        teacher, partner = teacher.contiguous(), partner.contiguous()
    _, num_classes, low_height, low_width = teacher.shape
    n, height, width = inputs.pixels()
    axes: list[operands.Axis | None] = [None, None]
    if inputs.size is not None:
        sides = ((low_height, height), (low_width, width))
        axes = [tables(axis(*side, inputs.align_corners, teacher.device)) for side in sides]
    config = choose_teacher_config(num_classes, capacity(teacher.device).lanes)
    arguments = {
        "teacher": samples(teacher),
        "partner_ptr": partner,
        "mix_mask": column_pixels(inputs.mix_mask),
        "rows": axes[0],
        "columns": axes[1],
        "low_height": low_height,
        "width": width,
        "num_pixels": height * width,
        "C": num_classes,
        "G": config.group,
        "BLOCK": config.block,
    }
    return RowLaunch((triton.cdiv(width, config.block), height, n), arguments, config.num_warps)
