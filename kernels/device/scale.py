"""Multiply a gradient by a factor that only the device knows, and do nothing when it is 1."""

import triton
import triton.language as tl


@triton.jit
def scale_kernel(
    grad_ptr,  # (num_elements,) fp16, bf16, fp32 or fp64, read and written
    factor_ptr,  # () fp32, or fp64 with an fp64 gradient
    num_elements,
    BLOCK: tl.constexpr,
):
    """Scale BLOCK elements in one program, which reads the factor first and returns at once if it is 1."""
    factor = tl.load(factor_ptr)
    if factor != 1.0:
        offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = offsets < num_elements
        grad = tl.load(grad_ptr + offsets, mask=mask).to(factor.dtype)
        tl.store(grad_ptr + offsets, (grad * factor).to(grad_ptr.dtype.element_ty), mask=mask)
