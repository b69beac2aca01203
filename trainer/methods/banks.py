"""Memory banks of Adaptive Equalization Learning: the student's confidence in each class, and the classes per image.

Both are buffers, so that checkpoints hold them. Both see the whole batch of all processes, so that they are equal in
every process. (The public code keeps a bank per GPU, filled from its own two images; an average over the whole batch
estimates the same confidence with less noise, and does not change with the number of GPUs.)
"""

import torch
from torch import Tensor, distributed, nn

from fpl_fast.trainer.methods.step_random import draw
from fpl_fast.trainer.processes import gather_rows

__all__ = ["ConfidenceBank", "CutMixBank"]


class ConfidenceBank(nn.Module):
    """Moving average of the probability that the student gives to the true class, class by class.

    b <- momentum * b + (1 - momentum) * v after each step, where v_c is the mean over the labelled pixels of class c,
    and 0 for a class that no image of the step holds: a low b_c means "rare or badly learnt". Starts at random in
    [0, 1).

    Source: Hu et al., Semi-Supervised Semantic Segmentation via Adaptive Equalization Learning (NeurIPS 2021).

    Args:
        num_classes: C.
        momentum: 0.999 in the paper.
    """

    confidence: Tensor

    def __init__(self, num_classes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("confidence", torch.rand(num_classes))
        self._seen: Tensor | None = None  # no buffer: each process has its own

    def observe(self, total: Tensor, count: Tensor) -> None:
        """Add a batch, or a part of one, to the sums of this step.

        Args:
            total: (C,) sum of the true class's probability over this process's pixels.
            count: (C,) number of these pixels.
        """
        seen = torch.stack([total, count])
        self._seen = seen if self._seen is None else self._seen + seen

    def step(self) -> None:
        """End a step: average the sums of all processes into the bank."""
        assert self._seen is not None
        if distributed.is_initialized():
            distributed.all_reduce(self._seen)
        total, count = self._seen
        self.confidence.lerp_(total / count.clamp(min=1), 1 - self.momentum)
        self._seen = None

    @property
    def deficit(self) -> Tensor:
        """Deficit 1 - b of each class, (C,), at least 1e-6."""
        return (1 - self.confidence).clamp(min=1e-6)


class CutMixBank(nn.Module):
    """Table of the classes that each unlabelled image was last predicted to hold.

    Args:
        num_classes: C.
        num_images: Unlabelled images.
    """

    holds: Tensor

    def __init__(self, num_classes: int, num_images: int) -> None:
        super().__init__()
        self.register_buffer("holds", torch.zeros(num_classes, num_images, dtype=torch.bool))

    @torch.no_grad()
    def update(self, index: Tensor, label: Tensor, min_area: float) -> None:
        """Record the classes in images; for an image that occurs twice the later entry counts.

        Args:
            index: (N,) int64, the images.
            label: (N, h, w) int64, the classes predicted in them.
            min_area: Share of the pixels that a class needs to be held.
        """
        share = torch.stack([(label == c).float().mean((1, 2)) for c in range(len(self.holds))], dim=1)
        index, present = gather_rows(index), gather_rows(share >= min_area)
        # Equal rows for equal images, so that the order of the writes does not matter.
        later = torch.arange(len(index), device=index.device) * (index.unsqueeze(1) == index)
        self.holds[:, index] = present[later.amax(1)].T

    def draw_images(self, wanted: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw an image for each wanted class (...,), among the images that hold it, or among all if none does."""
        held = self.holds[wanted]
        return draw((held | ~held.any(-1, keepdim=True)).float(), generator)
