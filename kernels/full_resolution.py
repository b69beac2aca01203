"""Launcher of the full-resolution kernels, whose programs own a block of pixels each."""

from typing import Any

import torch
import triton
from torch import Tensor

from fpl_fast.kernels.configs import choose_config
from fpl_fast.kernels.device.operands import Classes
from fpl_fast.kernels.operands import Outputs, classes, scale_arguments, writable
from fpl_fast.kernels.specialisation import has_libdevice


def launch(
    kernel: Any,
    arguments: dict[str, Any],
    shape: torch.Size,
    outputs: Outputs,
) -> Tensor:
    """Run over all pixels, fill the outputs and return the partial sums, (terms, programs).

    Args:
        kernel: :mod:`fpl_fast.kernels.device.fuzzy_positive` or ``cross_entropy``.
        arguments: of the kernel, those that its loss alone has.
        shape: of the logits, (N, C, H, W).
        outputs: to compute.
    """
    num_terms, grad, scale, pixel_map = outputs
    scale_ptr, scale = scale_arguments(scale)
    n, num_classes, h, w = shape
    # A gradient whose pixels do not collapse (H and W transposed in memory) is written contiguously and copied over.
    writable_grad = writable(grad)
    arguments = {**arguments, "grad": classes(writable_grad)}
    logits = [x for x in arguments.values() if isinstance(x, Classes)]
    element_size = max(x.ptr.element_size() for x in logits)
    config = choose_config(num_classes, element_size, in_rows=any(x.ROWS.value for x in logits))
    blocks_per_image = triton.cdiv(h * w, config.block)
    num_programs = n * blocks_per_image
    device = logits[0].ptr.device
    sums = torch.empty((num_terms, num_programs), dtype=torch.float32, device=device)
    if num_programs == 0:
        return sums
    with torch.cuda.device_of(sums):
        kernel[(num_programs,)](
            **arguments,
            scale_ptr=scale_ptr,
            scale=scale,
            sums_ptr=sums if pixel_map is None else None,
            map_ptr=pixel_map,
            num_pixels=h * w,
            blocks_per_image=blocks_per_image,
            C=num_classes,
            G=config.group,
            BLOCK=config.block,
            FAST=has_libdevice(kernel),
            num_warps=config.num_warps,
            enable_fp_fusion=True,  # the counts rely on fused multiply-adds; Triton's default is about to change
        )
    if grad is not None and writable_grad is not None and writable_grad is not grad:
        grad.copy_(writable_grad)
    return sums
