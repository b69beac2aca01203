"""Launcher of the conditional in-place scaling."""

# A launch takes options beside the parameters of the kernel.
# pyright: reportCallIssue=false

import functools

import torch
import triton
from torch import Tensor

from fpl_fast.kernels.device.scale import scale_kernel

# A memory-bound stream: 4096 elements are 16 a thread. Programs that all fit on the device at once go through the
# blocks in turns, so that those with nothing to do are a single wave.
BLOCK = 4096
PROGRAMS_PER_MULTIPROCESSOR = 6


def scale_(grad: Tensor, upstream: Tensor, factor: Tensor | None = None) -> None:
    """Multiply in place by ``upstream`` times the first element of ``factor``; no traffic where the product is 1.

    Args:
        grad: floating point and dense: its elements fill their storage without gaps, in any order.
        upstream: () on the same device.
        factor: of the same dtype, at least one element; None for 1.
    """
    num_elements = grad.numel()
    if num_elements == 0:
        return
    programs = min(triton.cdiv(num_elements, BLOCK), _most_programs(grad.device))
    with torch.cuda.device_of(grad):
        scale_kernel[(programs,)](
            grad_ptr=grad,
            upstream_ptr=upstream,
            factor_ptr=factor,
            num_elements=num_elements,
            BLOCK=BLOCK,
            num_warps=8,
        )


@functools.cache
def _most_programs(device: torch.device) -> int:
    """The number of programs that stay busy on a device; on the CPU, where the interpreter runs, two."""
    if device.type != "cuda":
        return 2
    return PROGRAMS_PER_MULTIPROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count
