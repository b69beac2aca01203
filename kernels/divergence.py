"""Terms of the divergence between a pixel's positives and its neighbours', as a table on the device.

A term depends on three small integers, so that it is looked up instead of computed. The terms are integers, too: sums
of them are exact in any order, all engines choose the same, and divergences that are equal in exact arithmetic, as 0 is
in a region of one label whatever the threshold, stay equal. Torch alone: every engine uses the same table.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fpl_fast.kernels.arguments import ContextOptions
from fpl_fast.kernels.kept import kept

EPSILON = 1e-6
# Divergences lie below log(1 / EPSILON) = 13.8: times 2^26 they fit into an int32, and a term's error is 7.5e-9.
ONE = 1 << 26


# A table beyond this does not stay in a cache, and grows with the square of the cap: the terms are then computed.
MAX_ENTRIES = 1 << 22


def table_shape(options: ContextOptions) -> tuple[int, int, int]:
    """Shape of the table: K (0 off the positives), sum of K over the neighbours, neighbours with the class."""
    return options.max_positives + 1, options.num_neighbours * options.max_positives + 1, options.num_neighbours + 1


@kept(most=16)
def divergence_table(options: ContextOptions, device: torch.device) -> Tensor:
    """Terms round(2^26 * b (log b - log d)) of one class, contiguous int32; 0 without neighbours."""
    place = torch.device("cpu") if device.type == "mps" else device  # MPS has no float64
    k, sums, neighbours = (torch.arange(size, device=place) for size in table_shape(options))
    return torch.stack([terms(x, sums.unsqueeze(1), neighbours) for x in k]).to(device)


def terms(k: Tensor, sums: Tensor, neighbours: Tensor) -> Tensor:
    """The entries of the table at k (0 off the positives), the sum of K over the neighbours, and those with the class.

    b = EPSILON + B / S, d = EPSILON + 1 / K for a positive and EPSILON for any other class.
    """
    b = EPSILON + (neighbours.double() / sums.clamp(min=1)).clamp(max=1)
    d = EPSILON + (1 / k.double().clamp(min=1)).masked_fill(k == 0, 0)
    term: Tensor = (ONE * b * (b.log() - d.log())).round().to(torch.int32)
    return term.masked_fill(sums == 0, 0)


def write_least(chosen: Tensor, divergence: Tensor, thresholds: Sequence[float], counted: Tensor) -> None:
    """Write the threshold of the least divergence of each pixel, the first one among equals.

    Args:
        chosen: (H, W) float32, where the result goes.
        divergence: (M, H, W) int32.
        thresholds: M numbers; pixels that do not count have the first.
        counted: (H, W) bool.
    """
    chosen.fill_(thresholds[0])
    least = divergence[0]
    for m, threshold in enumerate(thresholds[1:], start=1):  # ten times as fast as argmin along the first dimension
        chosen.masked_fill_((divergence[m] < least) & counted, threshold)
        least = torch.minimum(least, divergence[m])
