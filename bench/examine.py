"""What there is to know of a provider before the clock runs: is it right, what does it cost to start, what to hold."""

import functools
import time
from typing import NamedTuple

import torch
from torch import Tensor

from fpl_fast.bench.cases import Case, make_inputs
from fpl_fast.bench.correctness import truth, wrong_share
from fpl_fast.bench.measure import peak_memory_mb, synchronize
from fpl_fast.bench.peers import Provider

__all__ = ["Examination", "examine"]

# Pixels that may differ from float64: K flips where the cumulative probability meets the threshold to rounding; and
# torch.topk takes any of several equal logits, which 16-bit types have in a few per cent of the pixels.
_FLIPPED, _TIED = 1e-4, 0.05


class Examination(NamedTuple):
    """Result of one provider on one case."""

    wrong_share: float
    """Share of the pixels whose gradient is not that of the float64 solution."""
    allowed_share: float
    """The most that may be wrong."""
    mean_positives: float
    """Mean K of the loss that the provider computes."""
    first_call_s: float
    """Seconds of the first step, compilation included."""
    step_s: float
    """Seconds of the second step."""
    peak_memory_mb: float
    """Most memory held during a step beyond the inputs, 2**20 bytes."""


@functools.cache
def examine(case: Case, provider: Provider, device: torch.device) -> Examination:
    """Run loss and gradient a few times, once for every cell of a table that needs to know."""
    inputs, solved = make_inputs(case, device), provider.solved(case)
    loss_of = provider.bind(case, inputs.teacher)

    def step() -> tuple[Tensor, Tensor]:
        loss = loss_of(inputs.student)
        return loss, *torch.autograd.grad(loss, inputs.student)

    start = time.perf_counter()
    loss, gradient = step()
    synchronize(device)
    first_call_s = time.perf_counter() - start
    share = wrong_share(solved, inputs, loss, gradient)
    del loss, gradient
    start = time.perf_counter()
    step()
    synchronize(device)
    return Examination(
        wrong_share=share,
        allowed_share=_FLIPPED if provider.ordered_ties or case.dtype == torch.float32 else _TIED,
        mean_positives=truth(solved, device).mean_positives,
        first_call_s=first_call_s,
        step_s=time.perf_counter() - start,
        peak_memory_mb=peak_memory_mb(step, device),
    )
