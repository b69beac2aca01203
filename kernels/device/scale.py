"""Multiply a gradient by factors that only the device knows, and do nothing when their product is 1."""

import triton
import triton.language as tl


@triton.jit
def scale_kernel(
    grad_ptr,  # (num_elements,) fp16, bf16, fp32 or fp64, read and written
    upstream_ptr,  # () fp32, or fp64 with an fp64 gradient
    factor_ptr,  # () of the same type, or None for 1
    num_elements,
    BLOCK: tl.constexpr,
):
    """Scale every ``num_programs``-th block of BLOCK elements; where the factor is 1, a program reads only that."""
    factor = tl.load(upstream_ptr)
    if factor_ptr is not None:
        factor *= tl.load(factor_ptr)
    if factor != 1.0:
        step = tl.num_programs(0).to(tl.int64) * BLOCK
        for first in range(tl.program_id(0).to(tl.int64) * BLOCK, num_elements, step):
            offsets = first + tl.arange(0, BLOCK)
            mask = offsets < num_elements
            grad = tl.load(grad_ptr + offsets, mask=mask).to(factor.dtype)
            tl.store(grad_ptr + offsets, (grad * factor).to(grad_ptr.dtype.element_ty), mask=mask)
