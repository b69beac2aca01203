"""Launcher of the conditional in-place scaling."""

import torch
from torch import Tensor

from fpl_fast.kernels.capacity import capacity
from fpl_fast.kernels.device.scale import scale_kernel
from fpl_fast.kernels.repeat import RepeatedLaunches, traits

# A memory-bound stream: 4096 elements are 16 a thread. Programs that all fit on the device at once go through the
# blocks in turns, so that those with nothing to do are a single wave.
BLOCK = 4096
PROGRAMS_PER_MULTIPROCESSOR = 6

_LAUNCHES = RepeatedLaunches(scale_kernel, num_warps=8)


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
    most_programs = PROGRAMS_PER_MULTIPROCESSOR * capacity(grad.device).multiprocessors
    programs = min(-(-num_elements // BLOCK), most_programs)
    arguments = {
        "grad_ptr": grad,
        "upstream_ptr": upstream,
        "factor_ptr": factor,
        "num_elements": num_elements,
        "BLOCK": BLOCK,
    }
    with torch.cuda.device_of(grad):
        _LAUNCHES(traits((grad, upstream, factor)), (programs, 1, 1), arguments)
