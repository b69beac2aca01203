"""Launchers of the full-resolution kernel: loss sums with the gradient in one pass, and the map of pixel losses.

Shapes: logits (N, C, H, W), per-pixel tensors (N, H, W).
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fpl_fast.kernels.configs import choose_config
from fpl_fast.kernels.device.fuzzy_positive import fuzzy_positive_kernel
from fpl_fast.kernels.device.keys import MAX_CLASSES

NUM_SUMS = 6


class PixelStrides(NamedTuple):
    """Strides of a tensor seen as (N, C, P) or (N, P), P = H * W, in elements."""

    n: int
    c: int
    p: int


def fuzzy_positive_sums(
    student: Tensor,
    teacher: Tensor,
    *,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    scale: Tensor | None,
    threshold: float,
    max_positives: int,
    weighting: str,
    convex_scale: float,
    form: str,
    with_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Sum the loss and its statistics over the valid pixels and write the gradient in the same pass.

    Per pixel, L is the fuzzy positive loss, w its confidence weight, a the pixel weight, CE the plain cross entropy
    with the teacher's most probable class and K the number of positives. Deterministic, and without host
    synchronisation: every program writes its partial sums, which are added in a fixed order in float64.

    Args:
        student: (N, C, H, W) float16, bfloat16 or float32, any strides. Logits whose (H, W) do not collapse into one
            stride are copied first.
        teacher: like ``student``, dtype and strides of its own.
        pixel_weight: (N, H, W) float32, any strides; None for 1.
        valid_mask: (N, H, W) bool, any strides; None for all. Invalid pixels add nothing, whatever their logits hold.
        scale: () float32 on the same device, factor of the gradient; None for 1.
        threshold: T in (0, 1].
        max_positives: cap on K, from 1 to C - 1.
        weighting: "none", "linear", "convex" or "concave".
        convex_scale: factor of p_{K+1} in the denominator of "convex".
        form: "smooth" or "hinge".
        with_grad: whether to compute the gradient.

    Returns:
        (sums, grad): float32 (6,) = sums of a*w*L, w*L, L, CE, K and 1; scale * a * w * dL/dz in the student's dtype
        and strides, zero at invalid pixels, or None.
    """
    grad = empty_grad(student) if with_grad else None
    partial_sums = _launch(
        student,
        teacher,
        pixel_weight=pixel_weight,
        valid_mask=valid_mask,
        scale=scale,
        grad=grad,
        pixel_map=None,
        threshold=threshold,
        max_positives=max_positives,
        weighting=weighting,
        convex_scale=convex_scale,
        form=form,
    )
    return partial_sums.sum(dim=1, dtype=torch.float64).float(), grad


def fuzzy_positive_map(
    student: Tensor,
    teacher: Tensor,
    *,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    threshold: float,
    max_positives: int,
    weighting: str,
    convex_scale: float,
    form: str,
) -> Tensor:
    """The loss a*w*L of every pixel, (N, H, W) float32, 0 where invalid; arguments as in ``fuzzy_positive_sums``."""
    n, _, h, w = student.shape
    pixel_map = student.new_empty((n, h, w), dtype=torch.float32)
    _launch(
        student,
        teacher,
        pixel_weight=pixel_weight,
        valid_mask=valid_mask,
        scale=None,
        grad=None,
        pixel_map=pixel_map,
        threshold=threshold,
        max_positives=max_positives,
        weighting=weighting,
        convex_scale=convex_scale,
        form=form,
    )
    return pixel_map


def empty_grad(student: Tensor) -> Tensor:
    """Uninitialised gradient: the student's strides where they are dense and do not overlap."""
    return torch.empty_like(student, memory_format=torch.preserve_format)


def _launch(
    student: Tensor,
    teacher: Tensor,
    *,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    scale: Tensor | None,
    grad: Tensor | None,
    pixel_map: Tensor | None,
    threshold: float,
    max_positives: int,
    weighting: str,
    convex_scale: float,
    form: str,
) -> Tensor:
    """Run the kernel over all pixels, fill ``grad`` or ``pixel_map`` and return the partial sums, (6, programs)."""
    n, num_classes, h, w = student.shape
    assert 1 <= max_positives < num_classes <= MAX_CLASSES.value
    student, student_strides = _with_pixel_strides(student)
    teacher, teacher_strides = _with_pixel_strides(teacher)
    pixel_weight, weight_strides = _with_pixel_strides(pixel_weight)
    valid_mask, valid_strides = _with_pixel_strides(valid_mask)
    # A gradient whose pixels do not collapse (H and W transposed in memory) is written contiguously and copied over.
    writable_grad, grad_strides = _with_pixel_strides(grad)

    element_size = max(student.element_size(), teacher.element_size())
    in_rows = [_in_rows(strides, num_classes) for strides in (student_strides, teacher_strides, grad_strides)]
    config = choose_config(num_classes, element_size, in_rows=any(in_rows))
    blocks_per_image = triton.cdiv(h * w, config.block)
    num_programs = n * blocks_per_image
    sums = torch.empty((NUM_SUMS, num_programs), dtype=torch.float32, device=student.device)
    if num_programs == 0:
        return sums
    on_nvidia = isinstance(fuzzy_positive_kernel, triton.JITFunction) and torch.version.hip is None
    with torch.cuda.device_of(student):
        fuzzy_positive_kernel[(num_programs,)](
            student_ptr=student,
            teacher_ptr=teacher,
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
            grad_stride_n=grad_strides.n,
            grad_stride_c=grad_strides.c,
            grad_stride_p=grad_strides.p,
            weight_stride_n=weight_strides.n,
            weight_stride_p=weight_strides.p,
            valid_stride_n=valid_strides.n,
            valid_stride_p=valid_strides.p,
            threshold=threshold,
            max_positives=max_positives,
            convex_scale=convex_scale,
            C=num_classes,
            G=config.group,
            BLOCK=config.block,
            STUDENT_ROWS=config.group == 1 and in_rows[0],
            TEACHER_ROWS=config.group == 1 and in_rows[1],
            GRAD_ROWS=config.group == 1 and in_rows[2],
            CAPPED=max_positives if max_positives <= 3 else 0,
            WIDE_KEYS=teacher.dtype == torch.float32,
            WEIGHTING=weighting,
            FORM=form,
            FAST=on_nvidia,
            num_warps=config.num_warps,
            enable_fp_fusion=True,  # the counts rely on fused multiply-adds; Triton's default is about to change
        )
    if grad is not None and writable_grad is not grad:
        grad.copy_(writable_grad)
    return sums


def _in_rows(strides: PixelStrides, num_classes: int) -> bool:
    """Whether the pixels lie densely one behind the other, channels_last."""
    return strides.c == 1 and strides.p == num_classes


def _with_pixel_strides(x: Tensor | None) -> tuple[Tensor | None, PixelStrides]:
    """The tensor, copied if its (H, W) do not collapse into one dimension of one stride, and its strides."""
    if x is None:
        return None, PixelStrides(n=0, c=0, p=0)
    h, w = x.shape[-2:]
    stride_h, stride_w = x.stride()[-2:]
    if h > 1 and w > 1 and stride_h != w * stride_w:
        x, stride_w = x.contiguous(), 1
    return x, PixelStrides(n=x.stride(0), c=x.stride(1) if x.ndim == 4 else 0, p=stride_h if w == 1 else stride_w)
