"""Weight of a pixel from its teacher: near 1 if the first rejected class is improbable, 0 if it ties with the rest."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import divide, log


@triton.jit
def confidence_weight(num_positives, rejected, mass, total, convex_scale, WEIGHTING: tl.constexpr, FAST: tl.constexpr):
    """w(m, r) with m = c_{K+1} / (K + 1) and r = p_{K+1}, both given as masses relative to ``total``."""
    if WEIGHTING == "none":
        return tl.full(mass.shape, 1.0, tl.float32)
    else:
        m = divide(mass, num_positives + 1.0, FAST)
        if WEIGHTING == "linear":
            w = divide(m - rejected, m, FAST)
        elif WEIGHTING == "convex":
            w = divide(m - rejected, m + convex_scale * rejected, FAST)
        else:
            tl.static_assert(WEIGHTING == "concave")
            scale = divide(50.0, total, FAST)
            w = divide(log(1.0 + scale * (m - rejected), FAST), log(1.0 + scale * m, FAST), FAST)
        return tl.minimum(w, 1.0)
