"""The one table of tolerances for the loss and its kernels, as keywords of ``torch.testing.assert_close``.

Kernels accumulate in float32 and are compared with float64; a 16-bit gradient is rounded once on the way out, and the
interpreter truncates where devices round to nearest, which costs one unit in the last place.
"""

import torch

# Cumulative probabilities closer than this to the threshold may fall either way in float32.
THRESHOLD_MARGIN = 2e-6

# The weights subtract nearly equal probabilities and multiply by 50: about 2e-6 of absolute error in w, times the loss.
WEIGHT = 2e-6
LOSS = {"rtol": 1e-5, "atol": 5e-5}
SUMS = {"rtol": 1e-5, "atol": 1e-4}
GRADIENT = {
    torch.float32: {"rtol": 2e-5, "atol": 1e-5},
    torch.float16: {"rtol": 2**-10, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-5},
}
# Relative error of an exponential per unit of its argument's size: it is subtracted from a rounded product. A device
# fuses the other product with the subtraction, so that even the largest logit's exponential is not exactly 1.
PER_LOGIT = 1.5e-7
# Interpolated logits closer than this may be ranked either way.
RANK_MARGIN = 1e-5
# Float32 quantities of one pixel on the way: keys' logits, masses, weights, log-sum-exps.
SINGLE = {"rtol": 1e-5, "atol": 1e-5}
# Six printed decimals.
PUBLISHED = {"rtol": 0.0, "atol": 6e-7}
# Float64 against float64.
EXACT = {"rtol": 1e-10, "atol": 1e-12}
# Logits of a small network on another processor.
NETWORK = {"rtol": 1e-4, "atol": 2e-5}
# Identities that hold in exact arithmetic, in float32: sums over classes and shifts of the logits.
INVARIANT = {"rtol": 1e-4, "atol": 2e-6}


def widened(tolerance: dict[str, float], logits: torch.Tensor, *, count: int = 1) -> dict[str, float]:
    """Widen a tolerance by the rounding of exponentials of logits of this size, in each of ``count`` terms."""
    largest = 0.0 if logits.numel() == 0 else logits.abs().max().item()
    assert largest < float("inf")
    return {**tolerance, "atol": tolerance["atol"] + count * PER_LOGIT * largest}
