"""The divisor of a mean: pixels are counted and their number inverted in one launch."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.labels import load_labels

# Bits of a counter that count pixels; those above count programs.
PIXEL_BITS = tl.constexpr(40)


@triton.jit(do_not_specialize=["ignored", "num_pixels"])
def mean_scale_kernel(
    label_ptr,  # (num_pixels,) uint8, int32 or int64
    counter_ptr,  # () int64, 0 before the launch and after it
    reciprocal_ptr,  # out () float32
    ignored,  # the label that does not count
    num_pixels,
    BLOCK: tl.constexpr,
):
    """Compute 1 / number of pixels whose label counts; 1 where there is none.

    A program adds its pixels and itself to the counter at once: the one that finds all others there has the sum, and
    nothing else passes between programs. Whole numbers are the same in every order.
    """
    counted = tl.zeros((BLOCK,), tl.int32)
    step = tl.num_programs(0).to(tl.int64) * BLOCK
    for first in range(tl.program_id(0).to(tl.int64) * BLOCK, num_pixels, step):
        offsets = first + tl.arange(0, BLOCK)
        _, counts = load_labels(label_ptr, offsets, offsets < num_pixels, ignored)
        counted += counts.to(tl.int32)
    number = tl.sum(counted).to(tl.int64)
    one_program = tl.full((), 1, tl.int64) << PIXEL_BITS
    before = tl.atomic_add(counter_ptr, number + one_program)
    if (before >> PIXEL_BITS) + 1 == tl.num_programs(0):
        total = tl.maximum((before & (one_program - 1)) + number, 1)
        # Rounded as PyTorch does on any device: the number to float32, then its reciprocal, once.
        tl.store(reciprocal_ptr, (1.0 / total.to(tl.float32).to(tl.float64)).to(tl.float32))
        tl.store(counter_ptr, tl.zeros((), tl.int64))
