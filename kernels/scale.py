"""Launcher of the conditional in-place scaling."""

# A launch takes options beside the parameters of the kernel.
# pyright: reportCallIssue=false

import torch
import triton
from torch import Tensor

from fpl_fast.kernels.device.scale import scale_kernel

# A memory-bound stream: 4096 elements a program are 16 per thread, and few enough programs to skip quickly.
BLOCK = 4096


def scale_(grad: Tensor, factor: Tensor) -> None:
    """Multiply in place by a 0-d ``factor`` on the same device; no traffic where the factor is 1.

    ``grad`` is floating point and dense: its elements fill their storage without gaps, in any order.
    """
    num_elements = grad.numel()
    if num_elements == 0:
        return
    with torch.cuda.device_of(grad):
        scale_kernel[(triton.cdiv(num_elements, BLOCK),)](
            grad_ptr=grad, factor_ptr=factor, num_elements=num_elements, BLOCK=BLOCK, num_warps=8
        )
