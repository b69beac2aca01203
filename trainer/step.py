"""One optimiser step, which the loop repeats and the benchmarks time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule
from torch import Tensor
from torch.optim import Optimizer

from fpl_fast.trainer.accumulate import backward
from fpl_fast.trainer.methods import Batch

__all__ = ["train_step"]


def train_step(
    fabric: Fabric,
    module: _FabricModule,
    optimizer: Optimizer,
    batch: Batch,
    progress: float,
    *,
    num_micro_batches: int = 1,
) -> dict[str, Tensor]:
    """Take one optimiser step; nothing waits for the device.

    Args:
        fabric: Device, precision and processes.
        module: The method, as ``fabric.setup`` returned it.
        optimizer: The optimiser, as ``fabric.setup`` returned it.
        batch: This process's share of the batch of the step.
        progress: Share of the run done, in [0, 1).
        num_micro_batches: Parts that follow each other through the networks; the batch's images are a multiple of it.

    Returns:
        ``loss``, its terms and the telemetry of the method: 0-d, on the device.
    """
    optimizer.zero_grad()
    with _convolutions_chosen_by_trial():
        values = backward(fabric, module, batch, progress, num_micro_batches=num_micro_batches)
    optimizer.step()
    return values


@contextmanager
def _convolutions_chosen_by_trial() -> Iterator[None]:
    """Let cuDNN time its algorithms, in training only: crops have one size, evaluated images have many."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
