"""Pixels with 16-bit logits two at a time, as a 32-bit register of an NVIDIA device holds them.

A thread loads neighbours as one word, which the compiler takes apart before it does anything with them: one instruction
more than it takes to widen bfloat16, and twice as many as it takes to look for NaN and infinity. FAST is as in
``arithmetic``; the interpreter and other devices take the plain operations.
"""

import triton
import triton.language as tl


@triton.jit
def to_float32(x, FAST: tl.constexpr):
    """Convert to float32: a bfloat16 is the upper half of its float32."""
    if FAST and x.dtype == tl.bfloat16:
        return tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16;\nand.b32 $1, $2, 0xffff0000;",
            "=r,=r,r",
            [x],
            dtype=tl.float32,
            is_pure=True,
            pack=2,
        )
    else:
        return x.to(tl.float32)


@triton.jit
def add_zero_times(total, x, FAST: tl.constexpr):
    """Compute ``total + 0 * x`` of tensors of one type: NaN where ``x`` is NaN or infinite."""
    if FAST and x.dtype.primitive_bitwidth == 16:
        zero = tl.zeros_like(x)
        return tl.inline_asm_elementwise(
            "fma.rn.bf16x2 $0, $1, $2, $3;" if x.dtype == tl.bfloat16 else "fma.rn.f16x2 $0, $1, $2, $3;",
            "=r,r,r,r",
            [x, zero, total],
            dtype=x.dtype,
            is_pure=True,
            pack=2,
        )
    else:
        return tl.fma(x.to(tl.float32), 0.0, total.to(tl.float32))


@triton.jit
def split_halves(words, dtype: tl.constexpr):
    """The lower and the upper halves of int32 words as values of a 16-bit type."""
    lower = words.to(tl.int16).to(dtype, bitcast=True)
    return lower, (words >> 16).to(tl.int16).to(dtype, bitcast=True)


@triton.jit
def join_halves(lower, upper, dtype: tl.constexpr, FAST: tl.constexpr):
    """Inverse of ``split_halves``, for float32 values, which it rounds to nearest."""
    if FAST:
        return tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $2, $1;" if dtype == tl.bfloat16 else "cvt.rn.f16x2.f32 $0, $2, $1;",
            "=r,r,r",
            [lower, upper],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        lower = lower.to(dtype).to(tl.int16, bitcast=True).to(tl.int32)
        upper = upper.to(dtype).to(tl.int16, bitcast=True).to(tl.int32)
        return (upper << 16) | (lower & 0xFFFF)
