"""The Triton engine of the cross entropy with labels.

Shapes: logits (N, C, h, w), labels and other per-pixel tensors (N, H, W).
"""

# A launch takes options beside the parameters of the kernel.
# pyright: reportCallIssue=false

import torch
import triton
from torch import Tensor

from fpl_fast.kernels import upsampled
from fpl_fast.kernels.arguments import NUM_LABEL_SUMS, LabelInputs
from fpl_fast.kernels.configs import choose_config
from fpl_fast.kernels.device.cross_entropy import cross_entropy_kernel
from fpl_fast.kernels.specialisation import has_libdevice
from fpl_fast.kernels.strides import with_pixel_strides, writable


def cross_entropy_sums(inputs: LabelInputs, *, scale: Tensor | None, with_grad: bool) -> tuple[Tensor, Tensor | None]:
    """The sums of ``arguments.LABEL_SUMS``, float32, and scale times the derivative of the first one, or None."""
    grad = torch.empty_like(inputs.student) if with_grad else None
    partial_sums = _launch(inputs, scale=scale, grad=grad, pixel_map=None)
    return partial_sums.sum(dim=1, dtype=torch.float64).float(), grad


def cross_entropy_map(inputs: LabelInputs) -> Tensor:
    """The first term of every pixel, (N, H, W) float32, 0 where ignored."""
    pixel_map = torch.zeros(inputs.pixels, dtype=torch.float32, device=inputs.student.device)
    _launch(inputs, scale=None, grad=None, pixel_map=pixel_map)
    return pixel_map


def _launch(inputs: LabelInputs, *, scale: Tensor | None, grad: Tensor | None, pixel_map: Tensor | None) -> Tensor:
    if inputs.size is not None:
        return upsampled.launch(inputs, None, scale=scale, grad=grad, pixel_map=pixel_map, num_terms=NUM_LABEL_SUMS)
    n, num_classes, h, w = inputs.student.shape
    logits, logits_strides = with_pixel_strides(inputs.student)
    target, target_strides = with_pixel_strides(inputs.target)
    pixel_weight, weight_strides = with_pixel_strides(inputs.pixel_weight)
    writable_grad, grad_strides = with_pixel_strides(writable(grad))
    in_rows = [strides.in_rows(num_classes) for strides in (logits_strides, grad_strides)]
    config = choose_config(num_classes, logits.element_size(), in_rows=any(in_rows))
    blocks_per_image = triton.cdiv(h * w, config.block)
    num_programs = n * blocks_per_image
    sums = torch.empty((NUM_LABEL_SUMS, num_programs), dtype=torch.float32, device=logits.device)
    if num_programs == 0:
        return sums
    with torch.cuda.device_of(logits):
        cross_entropy_kernel[(num_programs,)](
            logits_ptr=logits,
            target_ptr=target,
            class_weight_ptr=inputs.class_weight,
            pixel_weight_ptr=pixel_weight,
            scale_ptr=scale,
            grad_ptr=writable_grad,
            sums_ptr=sums if pixel_map is None else None,
            map_ptr=pixel_map,
            num_pixels=h * w,
            blocks_per_image=blocks_per_image,
            logits_stride_n=logits_strides.n,
            logits_stride_c=logits_strides.c,
            logits_stride_p=logits_strides.p,
            grad_stride_n=grad_strides.n,
            grad_stride_c=grad_strides.c,
            grad_stride_p=grad_strides.p,
            target_stride_n=target_strides.n,
            target_stride_p=target_strides.p,
            weight_stride_n=weight_strides.n,
            weight_stride_p=weight_strides.p,
            ignore_index=inputs.ignore_index,
            C=num_classes,
            G=config.group,
            BLOCK=config.block,
            LOGITS_ROWS=config.group == 1 and in_rows[0],
            GRAD_ROWS=config.group == 1 and in_rows[1],
            FAST=has_libdevice(cross_entropy_kernel),
            num_warps=config.num_warps,
            enable_fp_fusion=True,
        )
    if grad is not None and writable_grad is not None and writable_grad is not grad:
        grad.copy_(writable_grad)
    return sums
