"""Random numbers of a step that do not depend on how many processes share it."""

import math

import torch
from torch import Tensor

from fpl_fast.trainer.processes import rank_and_world_size

__all__ = ["StepRandom", "draw"]


class StepRandom:
    """Random numbers of a step, drawn on the device.

    Every process draws the numbers of the whole step from an equally seeded generator, and takes the ones of its own
    images. A step is therefore the same on one process and on many. It is also the same after a resumption, because no
    state is carried from step to step.

    Args:
        seed: Seed of the step (``Batch.seed``).
        device: Device that draws the numbers.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)

    def common(self, *shape: int) -> Tensor:
        """Draw uniform numbers in [0, 1), (*shape), the same for all images and in all processes."""
        return torch.rand(*shape, device=self.generator.device, generator=self.generator)

    def rows(self, num: int, *shape: int) -> Tensor:
        """Draw uniform numbers in [0, 1), (num, *shape), a row for each of this process's ``num`` images."""
        rank, world_size = rank_and_world_size()
        return self.common(world_size * num, *shape)[rank * num : (rank + 1) * num]

    def chosen(self, num: int, share: float) -> Tensor:
        """Choose a share of all processes' images, rounded up; (num,) bool, for this process's ``num`` images."""
        rank, world_size = rank_and_world_size()
        left_alone = math.floor(world_size * num * (1 - share) + 1e-9)
        place = self.common(world_size * num).argsort().argsort()
        return (place >= left_alone)[rank * num : (rank + 1) * num]


def draw(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw indices (...,) with probability proportional to ``weight`` (..., n) along its last axis.

    Among exponential variables with these rates, each is the smallest with these probabilities. Unlike
    ``torch.multinomial``, this does not synchronise with the host.
    """
    return (weight / torch.empty_like(weight).exponential_(generator=generator)).argmax(-1)
