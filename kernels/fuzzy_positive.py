"""The Triton engine: loss sums with the gradient in one pass, and the map of pixel losses.

Shapes: logits (N, C, h, w), per-pixel tensors (N, H, W).
"""

# A launch takes options beside the parameters of the kernel.
# pyright: reportCallIssue=false

import torch
import triton
from torch import Tensor

from fpl_fast.kernels import upsampled
from fpl_fast.kernels.arguments import NUM_SUMS, LossInputs, LossOptions
from fpl_fast.kernels.configs import choose_config
from fpl_fast.kernels.device.fuzzy_positive import fuzzy_positive_kernel
from fpl_fast.kernels.device.keys import MAX_CLASSES
from fpl_fast.kernels.specialisation import has_libdevice, key_type, option_arguments
from fpl_fast.kernels.strides import with_pixel_strides, writable


def fuzzy_positive_sums(
    inputs: LossInputs, options: LossOptions, *, scale: Tensor | None, with_grad: bool, with_stats: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum the loss and its statistics over the valid pixels and compute the gradient in the same pass.

    Deterministic, and without host synchronisation: every program writes its partial sums, which are added in a fixed
    order in float64.

    Args:
        inputs: logits in float16, bfloat16 or float32. Without ``size``, logits whose (h, w) do not collapse into one
            stride are copied first.
        options: of the loss.
        scale: () float32 on the same device, factor of the gradient; None for 1.
        with_grad: whether to compute the gradient.
        with_stats: whether to compute all sums; otherwise those after the first are zero.

    Returns:
        (sums, grad): float32 (NUM_SUMS,), see ``arguments.SUMS``; scale times the derivative of the first sum, in the
        student's dtype and strides, zero at invalid pixels, or None.
    """
    grad = empty_grad(inputs.student) if with_grad else None
    partial_sums = _launch(inputs, options, scale=scale, grad=grad, pixel_map=None, with_stats=with_stats)
    sums = partial_sums.sum(dim=1, dtype=torch.float64).float()
    return (sums if with_stats else torch.nn.functional.pad(sums, (0, NUM_SUMS - 1))), grad


def fuzzy_positive_map(inputs: LossInputs, options: LossOptions) -> Tensor:
    """The first term of every pixel, (N, H, W) float32, 0 where invalid."""
    pixel_map = torch.zeros(inputs.pixels, dtype=torch.float32, device=inputs.student.device)
    _launch(inputs, options, scale=None, grad=None, pixel_map=pixel_map, with_stats=False)
    return pixel_map


def empty_grad(student: Tensor) -> Tensor:
    """Uninitialised gradient: the student's strides where they are dense and do not overlap."""
    return torch.empty_like(student, memory_format=torch.preserve_format)


def _launch(
    inputs: LossInputs,
    options: LossOptions,
    *,
    scale: Tensor | None,
    grad: Tensor | None,
    pixel_map: Tensor | None,
    with_stats: bool,
) -> Tensor:
    """Run the kernel over all pixels, fill ``grad`` or ``pixel_map`` and return the partial sums, (terms, programs)."""
    assert 1 <= options.max_positives < inputs.student.shape[1] <= MAX_CLASSES.value
    launch = _launch_full if inputs.size is None else upsampled.launch
    num_terms = NUM_SUMS if with_stats else 1
    return launch(inputs, options, scale=scale, grad=grad, pixel_map=pixel_map, num_terms=num_terms)


def _launch_full(
    inputs: LossInputs,
    options: LossOptions,
    *,
    scale: Tensor | None,
    grad: Tensor | None,
    pixel_map: Tensor | None,
    num_terms: int,
) -> Tensor:
    n, num_classes, h, w = inputs.student.shape
    student, student_strides = with_pixel_strides(inputs.student)
    teacher, teacher_strides = with_pixel_strides(inputs.teacher)
    partner, partner_strides = with_pixel_strides(inputs.partner)
    mix_mask, mix_strides = with_pixel_strides(inputs.mix_mask)
    pixel_weight, weight_strides = with_pixel_strides(inputs.pixel_weight)
    valid_mask, valid_strides = with_pixel_strides(inputs.valid_mask)
    # A gradient whose pixels do not collapse (H and W transposed in memory) is written contiguously and copied over.
    writable_grad, grad_strides = with_pixel_strides(writable(grad))

    element_size = max(student.element_size(), teacher.element_size())
    in_rows = [
        strides.in_rows(num_classes) for strides in (student_strides, teacher_strides, partner_strides, grad_strides)
    ]
    config = choose_config(num_classes, element_size, in_rows=any(in_rows))
    blocks_per_image = triton.cdiv(h * w, config.block)
    num_programs = n * blocks_per_image
    sums = torch.empty((num_terms, num_programs), dtype=torch.float32, device=student.device)
    if num_programs == 0:
        return sums
    with torch.cuda.device_of(student):
        fuzzy_positive_kernel[(num_programs,)](
            student_ptr=student,
            teacher_ptr=teacher,
            partner_ptr=partner,
            mix_mask_ptr=mix_mask,
            pixel_weight_ptr=pixel_weight,
            valid_mask_ptr=valid_mask,
            scale_ptr=scale,
            grad_ptr=writable_grad,
            sums_ptr=sums if pixel_map is None else None,
            map_ptr=pixel_map,
            num_pixels=h * w,
            blocks_per_image=blocks_per_image,
            student_stride_n=student_strides.n,
            student_stride_c=student_strides.c,
            student_stride_p=student_strides.p,
            teacher_stride_n=teacher_strides.n,
            teacher_stride_c=teacher_strides.c,
            teacher_stride_p=teacher_strides.p,
            partner_stride_n=partner_strides.n,
            partner_stride_c=partner_strides.c,
            partner_stride_p=partner_strides.p,
            mix_stride_n=mix_strides.n,
            mix_stride_p=mix_strides.p,
            grad_stride_n=grad_strides.n,
            grad_stride_c=grad_strides.c,
            grad_stride_p=grad_strides.p,
            weight_stride_n=weight_strides.n,
            weight_stride_p=weight_strides.p,
            valid_stride_n=valid_strides.n,
            valid_stride_p=valid_strides.p,
            **option_arguments(options),
            C=num_classes,
            G=config.group,
            BLOCK=config.block,
            STUDENT_ROWS=config.group == 1 and in_rows[0],
            TEACHER_ROWS=config.group == 1 and in_rows[1],
            PARTNER_ROWS=config.group == 1 and in_rows[2],
            GRAD_ROWS=config.group == 1 and in_rows[3],
            KEY=key_type(teacher.dtype, config.group),
            WITH_STATS=num_terms > 1,
            FAST=has_libdevice(fuzzy_positive_kernel),
            num_warps=config.num_warps,
            enable_fp_fusion=True,  # the counts rely on fused multiply-adds; Triton's default is about to change
        )
    if grad is not None and writable_grad is not None and writable_grad is not grad:
        grad.copy_(writable_grad)
    return sums
