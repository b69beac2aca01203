"""Launcher of the losses from low-resolution logits.

The gradient goes through a buffer of low-resolution rows and high-resolution columns. A launch takes as many images as
fit into BUFFER_BYTES of it, and at least one: extra memory is bounded, whatever the batch, and the buffer is still in
the L2 cache when it is read back.
"""

# A launch takes options beside the parameters of the kernel.
# pyright: reportCallIssue=false

from typing import Any

import torch
import triton
from torch import Tensor

from fpl_fast.kernels.arguments import LabelInputs, LossInputs
from fpl_fast.kernels.axis import Axis, axis
from fpl_fast.kernels.capacity import capacity
from fpl_fast.kernels.configs import choose_strips, choose_upsampled_config, program_slots
from fpl_fast.kernels.device.column_adjoint import column_adjoint_kernel
from fpl_fast.kernels.device.upsampled import upsampled_kernel
from fpl_fast.kernels.operands import Outputs, pixels, samples, tables
from fpl_fast.kernels.specialisation import has_libdevice, key_type

BUFFER_BYTES = 32 << 20
ADJOINT_CLASSES = 10  # of a program of the adjoint, which share their weights, at most
MAX_SPAN = 32  # high-resolution columns that such a program loads at once, at most


def launch(
    inputs: LossInputs | LabelInputs,
    arguments: dict[str, Any],
    outputs: Outputs,
) -> Tensor:
    """Run over all images, fill the outputs and return the partial sums, (terms, programs).

    Args:
        inputs: of the loss, with ``size``.
        arguments: of the kernel, those that its loss alone has.
        outputs: to compute.
    """
    student = inputs.student
    num_terms, grad, scale, pixel_map = outputs
    n, num_classes, low_height, low_width = student.shape
    _, height, width = inputs.pixels
    if n * height * width == 0:
        if grad is not None:
            grad.zero_()
        return torch.zeros((num_terms, 1), dtype=torch.float32, device=student.device)
    rows = axis(low_height, height, inputs.align_corners, student.device)
    columns = axis(low_width, width, inputs.align_corners, student.device)
    arguments = {**arguments, "student": samples(student), "pixel_weight": pixels(inputs.pixel_weight)}
    device = capacity(student.device)
    config = choose_upsampled_config(num_classes, device.lanes)
    column_blocks = triton.cdiv(width, config.block)
    row_floats = num_classes * width
    strips = choose_strips(
        n,
        rows.num_cells,
        column_blocks,
        4 * row_floats,
        0 if grad is None else BUFFER_BYTES,
        program_slots(num_classes, config.num_warps, device.multiprocessors),
    )
    num_strips = triton.cdiv(rows.num_cells, strips.cells)
    programs_per_image = column_blocks * num_strips
    sums = torch.empty((num_terms, n * programs_per_image), dtype=torch.float32, device=student.device)
    buffer = None
    if grad is not None:
        num_rows = strips.images * num_strips * (strips.cells + 1)
        buffer = torch.empty(num_rows * row_floats, dtype=torch.float32, device=student.device)

    for first_image in range(0, n, strips.images):
        num_images = min(strips.images, n - first_image)
        with torch.cuda.device_of(student):
            upsampled_kernel[(column_blocks, num_strips, num_images)](
                **arguments,
                scale_ptr=scale,
                rows=tables(rows),
                columns=tables(columns),
                buffer_ptr=buffer,
                sums_ptr=sums if pixel_map is None else None,
                map_ptr=pixel_map,
                first_image=first_image,
                first_program=first_image * programs_per_image,
                num_programs=n * programs_per_image,
                low_height=low_height,
                low_width=low_width,
                width=width,
                num_pixels=height * width,
                row_cells=rows.num_cells,
                strip_cells=strips.cells,
                C=num_classes,
                G=config.group,
                BLOCK=config.block,
                KEY=key_type(torch.float32, num_classes),  # interpolated values fill a float32, whatever the logits
                NUM_TERMS=num_terms,
                FAST=has_libdevice(upsampled_kernel),
                num_warps=config.num_warps,
                enable_fp_fusion=True,
            )
        if grad is not None and buffer is not None:
            images = grad[first_image : first_image + num_images]
            _column_adjoint(buffer, images, columns, num_strips, strips.cells, device.lanes)
    return sums


def _column_adjoint(buffer: Tensor, grad: Tensor, columns: Axis, num_strips: int, strip_cells: int, block: int) -> None:
    """Fill ``grad``, (images, C, h, w), from the buffer of its rows."""
    num_images, num_classes, low_height, low_width = grad.shape
    groups = triton.cdiv(num_classes, ADJOINT_CLASSES)
    num_programs = triton.cdiv(low_width, block) * groups * low_height * num_images
    with torch.cuda.device_of(grad):
        column_adjoint_kernel[(num_programs,)](
            buffer_ptr=buffer,
            grad=samples(grad),
            columns=tables(columns),
            low_height=low_height,
            low_width=low_width,
            width=len(columns.cell),
            num_strips=num_strips,
            strip_cells=strip_cells,
            column_cells=columns.num_cells,
            max_span=columns.max_span,
            C=num_classes,
            CLASSES=triton.cdiv(num_classes, groups),
            BLOCK=block,
            SPAN=min(triton.next_power_of_2(columns.max_span), MAX_SPAN),
            num_warps=1,
            enable_fp_fusion=True,
        )
