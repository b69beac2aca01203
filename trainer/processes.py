"""Communication between the processes of a run, and random generators of their own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from fpl_fast.trainer.run.checkpoint import random_state

if TYPE_CHECKING:  # importing it takes seconds, and reading a configuration gets here
    from lightning.fabric import Fabric

__all__ = [
    "first_decides",
    "gather_rows",
    "mean_over_processes",
    "random_states",
    "rank_and_world_size",
    "seed_process",
    "share_buffers",
    "weight_among_processes",
]


def rank_and_world_size() -> tuple[int, int]:
    """Number of this process, from 0, and of all processes."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def mean_over_processes(value: Tensor) -> Tensor:
    """Average over all processes, in place. Nothing waits for the device, as Fabric's own reduction would."""
    _, world_size = rank_and_world_size()
    if world_size > 1:
        distributed.all_reduce(value)
        value /= world_size
    return value


def gather_rows(x: Tensor) -> Tensor:
    """Gather the rows of all processes, equally many of each, in the order of their ranks."""
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size)]
    distributed.all_gather(parts, x)
    return torch.cat(parts)


def weight_among_processes(count: Tensor) -> Tensor:
    """Weight of this process's mean so that averaging over processes gives the global mean.

    The mean is over ``count`` items on this process; the weight is count / mean count, 1 where all counts are 0.
    """
    mean = mean_over_processes(count.to(torch.float32, copy=True))
    return torch.where(mean > 0, count / mean, 1.0)


def first_decides(fabric: "Fabric", action: Callable[[], object]) -> None:
    """Run an action in the first process; if it fails, all processes stop, and the first one says why.

    Raises:
        ValueError: In the first process, if the action raised it.
        OSError: In the first process, if the action raised it.
        SystemExit: In the other processes, if the action failed.
    """
    error: Exception | None = None
    if fabric.is_global_zero:
        try:
            action()
        except (ValueError, OSError) as met:
            error = met
    if fabric.broadcast(error is not None):
        raise error or SystemExit(2)


def seed_process(fabric: "Fabric", seed: int) -> None:
    """Seed the global generators by run and process, so that dropout differs from process to process."""
    state = np.random.SeedSequence([seed, fabric.global_rank]).generate_state(1)
    fabric.seed_everything(int(state[0]), verbose=False)


def random_states(fabric: "Fabric") -> list[dict[str, Any]]:
    """Gather ``random_state()`` of every process, in the order of ranks."""
    states: list[dict[str, Any]] = [random_state()] * fabric.world_size
    if fabric.world_size > 1:
        distributed.all_gather_object(states, states[fabric.global_rank])
    return states


def share_buffers(fabric: "Fabric", module: nn.Module) -> None:
    """Copy the first process's buffers to all: without SyncBatchNorm, their running statistics differ."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)
