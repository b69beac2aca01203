"""Launcher of the losses from low-resolution logits.

The gradient goes through a buffer of low-resolution rows and high-resolution columns. A launch takes as many images as
fit into BUFFER_BYTES of it, and at least one: extra memory is bounded, whatever the batch. On an H200 a buffer of
32 MiB, which stays in the L2 cache, is read no faster than one of 64, for which the host makes half of the launches.
"""

# A launch takes options beside the parameters of the kernel.
# pyright: reportCallIssue=false

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fpl_fast.kernels.arguments import LabelInputs, LossInputs
from fpl_fast.kernels.axis import Axis, axis
from fpl_fast.kernels.capacity import capacity
from fpl_fast.kernels.configs import choose_strips, choose_upsampled_config, program_slots
from fpl_fast.kernels.device.column_adjoint import column_adjoint_kernel
from fpl_fast.kernels.device.upsampled import upsampled_kernel
from fpl_fast.kernels.operands import Outputs, collapsed, column_pixels, samples, scale_arguments, tables
from fpl_fast.kernels.repeat import MAX_KEPT, RepeatedKernel, refilled, traits
from fpl_fast.kernels.specialisation import has_libdevice, key_type, wave_limit

BUFFER_BYTES = 64 << 20
ADJOINT_CLASSES = 10  # of a program of the adjoint, which share their weights, at most
MAX_SPAN = 32  # high-resolution columns that such a program loads at once, at most

_SAMPLES, _POINTERS = ("student", "teacher"), ("partner_ptr", "class_weight_ptr")  # other tensors are pixels


class Plan(NamedTuple):
    """Division of a call into launches, and their arguments without the tensors of the call."""

    images: int
    """Images of a launch, at most."""
    programs: tuple[int, int]
    """Programs of an image: blocks of columns, strips."""
    buffer_floats: int
    forward: RepeatedKernel
    forward_arguments: dict[str, Any]
    adjoint: RepeatedKernel
    adjoint_arguments: dict[str, Any]
    adjoint_programs: int
    """Programs of an image."""


_PLANS: dict[Hashable, Plan] = {}


def launch(
    inputs: LossInputs | LabelInputs,
    tensors: dict[str, Tensor | None],
    arguments: dict[str, Any],
    specialisation: Hashable,
    outputs: Outputs,
) -> Tensor:
    """Run over all images, fill the outputs and return the partial sums, (terms, programs).

    Args:
        inputs: of the loss, with ``size``.
        tensors: of the kernel, by its parameters. The teacher and its partner have the same strides.
        arguments: of the kernel, those that are no tensors and that its loss alone has.
        specialisation: all of them that the code depends on; the others may change from launch to launch.
        outputs: to compute.
    """
    student = inputs.student
    num_terms, grad, scale, pixel_map = outputs
    n = len(student)
    if n * inputs.pixels()[1] * inputs.pixels()[2] == 0:
        if grad is not None:
            grad.zero_()
        return torch.zeros((num_terms, 1), dtype=torch.float32, device=student.device)
    tensors = {name: x if name in _SAMPLES + _POINTERS else collapsed(x) for name, x in tensors.items()}
    scale_ptr, scale = scale_arguments(scale)
    operands = (*tensors.values(), grad, scale_ptr, pixel_map)
    key = (specialisation, num_terms, scale is None, inputs.size, inputs.align_corners, traits(operands))
    rows, columns = _axes(inputs)
    plan = _PLANS.get(key)
    if plan is None:
        if len(_PLANS) >= MAX_KEPT:  # sizes that do not come back
            _PLANS.clear()
        plan = _PLANS[key] = _make_plan(inputs, rows, columns, tensors, arguments, outputs)

    programs_per_image = plan.programs[0] * plan.programs[1]
    sums = torch.empty((num_terms, n * programs_per_image), dtype=torch.float32, device=student.device)
    buffer = None
    if grad is not None:
        buffer = torch.empty(plan.buffer_floats, dtype=torch.float32, device=student.device)
    forward = plan.forward_arguments | {name: refilled(plan.forward_arguments[name], x) for name, x in tensors.items()}
    forward |= {"scale_ptr": scale_ptr, "scale": scale, "buffer_ptr": buffer, "map_ptr": pixel_map}
    forward |= {"sums_ptr": sums if pixel_map is None else None, "rows": tables(rows), "columns": tables(columns)}
    forward |= arguments
    adjoint = plan.adjoint_arguments | {"buffer_ptr": buffer, "columns": tables(columns)}
    adjoint["grad"] = refilled(adjoint["grad"], grad)
    with torch.cuda.device_of(student):
        for first_image in range(0, n, plan.images):
            num_images = min(plan.images, n - first_image)
            first = {"first_image": first_image, "first_program": first_image * programs_per_image}
            plan.forward((*plan.programs, num_images), forward | first)
            if grad is not None:
                plan.adjoint((plan.adjoint_programs * num_images, 1, 1), adjoint | {"first_image": first_image})
    return sums


def teacher_tensors(inputs: LossInputs) -> dict[str, Tensor | None]:
    """The tensors of a loss under a teacher by the kernel's parameters."""
    teacher, partner = inputs.teacher, inputs.partner
    if partner is not None and partner.stride() != teacher.stride():
        teacher, partner = teacher.contiguous(), partner.contiguous()
    return {
        "student": inputs.student,
        "teacher": teacher,
        "partner_ptr": partner,
        "mix_mask": inputs.mix_mask,
        "pixel_weight": inputs.pixel_weight,
        "valid_mask": inputs.valid_mask,
        "threshold": inputs.threshold,
        "target": None,
        "class_weight_ptr": None,
    }


def _axes(inputs: LossInputs | LabelInputs) -> tuple[Axis, Axis]:
    """Rows and columns. They are no part of a plan: whether a kept table can be used depends on the stream."""
    height, width = inputs.pixels()[1:]
    low_height, low_width = inputs.student.shape[2:]
    device = inputs.student.device
    return (
        axis(low_height, height, inputs.align_corners, device),
        axis(low_width, width, inputs.align_corners, device),
    )


def _make_plan(
    inputs: LossInputs | LabelInputs,
    rows: Axis,
    columns: Axis,
    tensors: dict[str, Tensor | None],
    arguments: dict[str, Any],
    outputs: Outputs,
) -> Plan:
    student = inputs.student
    n, num_classes, low_height, low_width = student.shape
    _, height, width = inputs.pixels()
    device = capacity(student.device)
    config = choose_upsampled_config(num_classes, device.lanes)
    column_blocks = triton.cdiv(width, config.block)
    row_floats = num_classes * width
    strips = choose_strips(
        n,
        rows.num_cells,
        column_blocks,
        4 * row_floats,
        0 if outputs.grad is None else BUFFER_BYTES,
        program_slots(num_classes, config.num_warps, device.multiprocessors),
    )
    num_strips = triton.cdiv(rows.num_cells, strips.cells)
    launched: dict[str, Any] = {"buffer_ptr": None, "first_image": 0}
    sizes: dict[str, Any] = {
        "low_height": low_height,
        "width": width,
        "strip_cells": strips.cells,
    }
    operands = {name: _operand(name, x) for name, x in tensors.items()}
    # enable_fp_fusion: the counts rely on fused multiply-adds; Triton's default is about to change.
    options = {
        "num_warps": config.num_warps,
        "enable_fp_fusion": True,
        **wave_limit(upsampled_kernel, config.min_waves),
    }
    forward = RepeatedKernel(upsampled_kernel, **options)
    adjoint = RepeatedKernel(column_adjoint_kernel, num_warps=1, enable_fp_fusion=True)
    forward_arguments = operands | arguments | launched | sizes
    forward_arguments |= dict.fromkeys(("scale_ptr", "scale", "sums_ptr", "map_ptr", "rows", "columns"))
    forward_arguments |= {
        "first_program": 0,
        "num_programs": n * column_blocks * num_strips,
        "num_pixels": height * width,
        "row_cells": rows.num_cells,
        "C": num_classes,
        "G": config.group,
        "BLOCK": config.block,
        "KEY": key_type(torch.float32, num_classes),  # interpolated values fill a float32, whatever the logits
        "NUM_TERMS": outputs.num_terms,
        "FAST": has_libdevice(upsampled_kernel),
    }
    groups = triton.cdiv(num_classes, ADJOINT_CLASSES)
    adjoint_arguments = (
        launched
        | sizes
        | {
            "grad": None if outputs.grad is None else samples(outputs.grad),
            "columns": None,
            "low_width": low_width,
            "num_strips": num_strips,
            "column_cells": columns.num_cells,
            "max_span": columns.max_span,
            "C": num_classes,
            "CLASSES": triton.cdiv(num_classes, groups),
            "BLOCK": device.lanes,
            "SPAN": min(triton.next_power_of_2(columns.max_span), MAX_SPAN),
        }
    )
    return Plan(
        images=strips.images,
        programs=(column_blocks, num_strips),
        buffer_floats=strips.images * num_strips * (strips.cells + 1) * row_floats,
        forward=forward,
        forward_arguments=forward.ordered(forward_arguments),
        adjoint=adjoint,
        adjoint_arguments=adjoint.ordered(adjoint_arguments),
        adjoint_programs=triton.cdiv(low_width, device.lanes) * groups * low_height,
    )


def _operand(name: str, x: Tensor | None) -> Any:
    """The argument of a parameter of the kernel."""
    if x is None or name in _POINTERS:
        return x
    return samples(x) if name in _SAMPLES else column_pixels(x)
