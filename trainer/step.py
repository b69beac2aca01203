"""One step of all optimisers, which the loop repeats and the benchmarks time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule
from torch import Tensor
from torch.optim import Optimizer

from fpl_fast.trainer.accumulate import backward, backward_phase
from fpl_fast.trainer.compiled import begin_step
from fpl_fast.trainer.methods import Batch, Method, Phase

__all__ = ["set_up_phases", "train_step"]


def set_up_phases(fabric: Fabric, method: Method) -> list[Phase]:
    """Make the later phases of a method that is on its device, with optimisers as Fabric wraps them."""
    return [
        phase._replace(optimizer=cast("Optimizer", fabric.setup_optimizers(phase.optimizer)))
        for phase in method.later_phases()
    ]


def train_step(
    fabric: Fabric,
    module: _FabricModule,
    optimizer: Optimizer,
    batch: Batch,
    progress: float,
    *,
    num_micro_batches: int = 1,
    phases: Sequence[Phase] = (),
) -> dict[str, Tensor]:
    """Take one step of each optimiser; nothing waits for the device.

    Args:
        fabric: Device, precision and processes.
        module: The method, as ``fabric.setup`` returned it.
        optimizer: The optimiser, as ``fabric.setup`` returned it.
        batch: This process's share of the batch of the step.
        progress: Share of the run done, in [0, 1).
        num_micro_batches: Parts that follow each other through the networks; the batch's images are a multiple of it.
        phases: What follows once the networks have moved, as ``set_up_phases`` returned it.

    Returns:
        ``loss``, its terms and the telemetry of the method and of its later phases: 0-d, on the device.
    """
    optimizer.zero_grad()
    method = module.module
    assert isinstance(method, Method)
    begin_step(method)
    with _convolutions_chosen_by_trial():
        values = backward(fabric, module, batch, progress, num_micro_batches=num_micro_batches)
    optimizer.step()
    for phase in phases:
        phase.optimizer.zero_grad()
        with _convolutions_chosen_by_trial():
            of_phase = backward_phase(fabric, phase, batch, progress, num_micro_batches=num_micro_batches)
        phase.optimizer.step()
        values |= of_phase | {"loss": values["loss"] + of_phase["loss"]}
    return values


@contextmanager
def _convolutions_chosen_by_trial() -> Iterator[None]:
    """Let cuDNN time its algorithms, in training only: crops have one size, evaluated images have many.

    Where deterministic algorithms are asked for, it does not: another trial may choose another algorithm.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
