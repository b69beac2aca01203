"""Random numbers of a step that do not depend on how many processes share it."""

import torch
from torch import Tensor

from fpl_fast.trainer.processes import rank_and_world_size

__all__ = ["StepRandom", "draw"]


class StepRandom:
    """What a step draws on the device.

    Every process draws the numbers of the whole step from generators that begin alike, and takes those of its own
    images: a step is the same on one process and on many, and after a resumption, because nothing has to be remembered.

    Args:
        seed: Of the step (``Batch.seed``).
        device: Where the numbers are drawn.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)

    def rows(self, num: int, *shape: int) -> Tensor:
        """Uniform in [0, 1): (num, *shape), a row for each of this process's ``num`` images."""
        rank, world_size = rank_and_world_size()
        rows = torch.rand(world_size * num, *shape, device=self.generator.device, generator=self.generator)
        return rows[rank * num : (rank + 1) * num]


def draw(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Indices (...,) drawn with probability proportional to ``weight`` (..., n) along its last axis.

    The smallest of exponential variables with these rates comes first with these probabilities; unlike
    ``torch.multinomial`` that asks the host nothing.
    """
    return (weight / torch.empty_like(weight).exponential_(generator=generator)).argmax(-1)
