"""Weight of a pixel from its teacher: near 1 if the first rejected class is improbable, 0 if it ties with the rest."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import divide, log


@triton.jit
def confidence_weight(num_positives, rejected, mass, total, options, FAST: tl.constexpr):
    """Weight w(m, r) with m = c_{K+1} / (K + 1) and r = p_{K+1}, both given as masses relative to ``total``.

    ``options`` holds ``weighting``, a constexpr, and ``convex_scale``.

    m - r is taken as (c - (K + 1) r) / (K + 1), which is one division less. Where all K + 1 classes tie it is 0, or
    some 1e-7 of c: the rounding of c, which a device that fuses the product with the subtraction finds.
    """
    if options.weighting == "none":
        return tl.full(mass.shape, 1.0, tl.float32)
    else:
        num_ranks = num_positives + 1.0
        margin = mass - num_ranks * rejected
        if options.weighting == "linear":
            w = divide(margin, mass, FAST)
        elif options.weighting == "convex":
            w = divide(margin, mass + options.convex_scale * (num_ranks * rejected), FAST)
        else:
            tl.static_assert(options.weighting == "concave")
            scale = divide(50.0, num_ranks * total, FAST)
            w = divide(log(1.0 + scale * margin, FAST), log(1.0 + scale * mass, FAST), FAST)
        return tl.minimum(w, 1.0)
