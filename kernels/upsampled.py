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

from fpl_fast.kernels.arguments import LabelInputs, LossInputs, LossOptions
from fpl_fast.kernels.axis import Axis, axis
from fpl_fast.kernels.configs import choose_upsampled_config
from fpl_fast.kernels.device.column_adjoint import column_adjoint_kernel
from fpl_fast.kernels.device.upsampled import upsampled_kernel
from fpl_fast.kernels.specialisation import has_libdevice, key_type, option_arguments
from fpl_fast.kernels.strides import with_pixel_strides

BUFFER_BYTES = 32 << 20
MAX_GRID_Z = 65535
ADJOINT_BLOCK = 128
_NO_OPTIONS = LossOptions(1.0, 1, "none", 1.0, "smooth")


def launch(
    inputs: LossInputs | LabelInputs,
    options: LossOptions | None,
    *,
    scale: Tensor | None,
    grad: Tensor | None,
    pixel_map: Tensor | None,
    num_terms: int,
) -> Tensor:
    """Run over all images, fill ``grad`` or ``pixel_map`` and return the partial sums, (num_terms, programs).

    ``options`` is None for a loss with labels.
    """
    student = inputs.student
    n, num_classes, low_height, low_width = student.shape
    _, height, width = inputs.pixels
    if n * height * width == 0:
        if grad is not None:
            grad.zero_()
        return torch.zeros((num_terms, 1), dtype=torch.float32, device=student.device)
    rows = axis(low_height, height, inputs.align_corners, student.device)
    columns = axis(low_width, width, inputs.align_corners, student.device)
    pixel_weight, weight_strides = with_pixel_strides(inputs.pixel_weight)

    config = choose_upsampled_config(num_classes)
    num_strips = triton.cdiv(rows.num_cells, config.strip_cells)
    column_blocks = triton.cdiv(width, config.block)
    image_floats = num_strips * (config.strip_cells + 1) * num_classes * width
    images_per_launch = min(n, MAX_GRID_Z)
    if grad is not None:
        images_per_launch = min(images_per_launch, max(1, BUFFER_BYTES // (4 * image_floats)))
    programs_per_image = column_blocks * num_strips
    sums = torch.empty((num_terms, n * programs_per_image), dtype=torch.float32, device=student.device)
    buffer = None
    if grad is not None:
        buffer = torch.empty(images_per_launch * image_floats, dtype=torch.float32, device=student.device)

    for first_image in range(0, n, images_per_launch):
        num_images = min(images_per_launch, n - first_image)
        with torch.cuda.device_of(student):
            upsampled_kernel[(column_blocks, num_strips, num_images)](
                student_ptr=student,
                **(_teacher_arguments(inputs) if isinstance(inputs, LossInputs) else _label_arguments(inputs)),
                pixel_weight_ptr=pixel_weight,
                scale_ptr=scale,
                row_start_ptr=rows.start,
                row_fraction_ptr=rows.fraction,
                column_cell_ptr=columns.cell,
                column_fraction_ptr=columns.fraction,
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
                strip_cells=config.strip_cells,
                student_stride_n=student.stride(0),
                student_stride_c=student.stride(1),
                student_stride_h=student.stride(2),
                student_stride_w=student.stride(3),
                weight_stride_n=weight_strides.n,
                weight_stride_p=weight_strides.p,
                **option_arguments(options or _NO_OPTIONS),
                C=num_classes,
                G=config.group,
                BLOCK=config.block,
                KEY=key_type(torch.float32, config.group),  # interpolated values fill a float32, whatever the logits
                WITH_STATS=num_terms > 1,
                FAST=has_libdevice(upsampled_kernel),
                num_warps=config.num_warps,
                enable_fp_fusion=True,
            )
        if grad is not None and buffer is not None:
            images = grad[first_image : first_image + num_images]
            _column_adjoint(buffer, images, columns, num_strips, config.strip_cells)
    return sums


def _teacher_arguments(inputs: LossInputs) -> dict[str, Any]:
    """The kernel arguments of a loss with a teacher."""
    teacher, partner = inputs.teacher, inputs.partner
    if partner is not None and partner.stride() != teacher.stride():
        teacher, partner = teacher.contiguous(), partner.contiguous()
    mix_mask, mix_strides = with_pixel_strides(inputs.mix_mask)
    valid_mask, valid_strides = with_pixel_strides(inputs.valid_mask)
    return _NO_LABELS | {
        "teacher_ptr": teacher,
        "partner_ptr": partner,
        "mix_mask_ptr": mix_mask,
        "valid_mask_ptr": valid_mask,
        **{f"teacher_stride_{axis}": teacher.stride(i) for i, axis in enumerate("nchw")},
        "mix_stride_n": mix_strides.n,
        "mix_stride_p": mix_strides.p,
        "valid_stride_n": valid_strides.n,
        "valid_stride_p": valid_strides.p,
    }


def _label_arguments(inputs: LabelInputs) -> dict[str, Any]:
    """The kernel arguments of a loss with labels."""
    target, target_strides = with_pixel_strides(inputs.target)
    return _NO_TEACHER | {
        "target_ptr": target,
        "class_weight_ptr": inputs.class_weight,
        "target_stride_n": target_strides.n,
        "target_stride_p": target_strides.p,
        "ignore_index": inputs.ignore_index,
    }


_NO_LABELS: dict[str, int | None] = {"target_ptr": None, "class_weight_ptr": None}
_NO_LABELS |= dict.fromkeys(("target_stride_n", "target_stride_p", "ignore_index"), 0)
_NO_TEACHER: dict[str, int | None] = dict.fromkeys(("teacher_ptr", "partner_ptr", "mix_mask_ptr", "valid_mask_ptr"))
_NO_TEACHER |= dict.fromkeys((f"teacher_stride_{axis}" for axis in "nchw"), 0)
_NO_TEACHER |= dict.fromkeys(("mix_stride_n", "mix_stride_p", "valid_stride_n", "valid_stride_p"), 0)


def _column_adjoint(buffer: Tensor, grad: Tensor, columns: Axis, num_strips: int, strip_cells: int) -> None:
    """Fill ``grad``, (images, C, h, w), from the buffer of its rows."""
    num_images, num_classes, low_height, low_width = grad.shape
    num_programs = triton.cdiv(low_width, ADJOINT_BLOCK) * low_height * num_classes * num_images
    with torch.cuda.device_of(grad):
        column_adjoint_kernel[(num_programs,)](
            buffer_ptr=buffer,
            grad_ptr=grad,
            column_start_ptr=columns.start,
            column_fraction_ptr=columns.fraction,
            low_height=low_height,
            low_width=low_width,
            width=len(columns.cell),
            num_strips=num_strips,
            strip_cells=strip_cells,
            column_cells=columns.num_cells,
            max_span=columns.max_span,
            grad_stride_n=grad.stride(0),
            grad_stride_c=grad.stride(1),
            grad_stride_h=grad.stride(2),
            grad_stride_w=grad.stride(3),
            C=num_classes,
            BLOCK=ADJOINT_BLOCK,
            num_warps=4,
            enable_fp_fusion=True,
        )
