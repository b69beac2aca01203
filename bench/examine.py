"""Examination of a peer before timing: correctness, cost of the first call, and memory."""

import functools
import time
from typing import NamedTuple

import torch
from torch import Tensor

from fpl_fast.bench.cases import Case, make_inputs
from fpl_fast.bench.correctness import allowed_share, truth, wrong_share
from fpl_fast.bench.measure import peak_memory_mb, synchronize
from fpl_fast.bench.peers.peer import Peer

__all__ = ["Examination", "examine"]


class Examination(NamedTuple):
    """Result of one peer on one case."""

    wrong_share: float
    """Share of the positions of the logits whose gradient differs from the float64 solution."""
    allowed_share: float
    """Largest share that is allowed to differ."""
    mean_positives: float
    """Mean K of the loss that the peer computes, over the pixels that have a target."""
    first_call_s: float
    """Seconds of the first step, compilation included."""
    step_s: float
    """Seconds of the second step."""
    peak_memory_mb: float
    """Most memory held during a step beyond the inputs, 2**20 bytes."""


@functools.cache
def examine(case: Case, peer: Peer, device: torch.device) -> Examination:
    """Run loss and gradient a few times, and compare them with the solution; cached for the cells that share it."""
    inputs, solved = make_inputs(case, device), peer.solved(case)
    loss_of = peer.bind(case, inputs)

    def step() -> tuple[Tensor, Tensor]:
        loss = loss_of(inputs.student)
        (gradient,) = torch.autograd.grad(loss, inputs.student)
        return loss, gradient

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
        allowed_share=allowed_share(solved, ordered_ties=peer.ordered_ties),
        mean_positives=truth(solved, device).mean_positives,
        first_call_s=first_call_s,
        step_s=time.perf_counter() - start,
        peak_memory_mb=peak_memory_mb(step, device),
    )
