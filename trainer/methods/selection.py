"""Selection of pixels by their number in sets that reach over the images of all processes.

A set is numbered in the order of the images of the step: first all labelled ones, then all unlabelled ones. A step
therefore selects the same pixels on one process and on many, and the host waits for nothing.
"""

import torch
from torch import Tensor, distributed

from fpl_fast.trainer.processes import rank_and_world_size

__all__ = ["Selection", "sum_over_processes"]


class Selection:
    """C sets of this process's M pixels, as parts of the sets of all processes.

    Args:
        member: (C, M) bool, the members of each set.
        num_labelled: Pixels of labelled images; they come first.

    Attributes:
        total: (C,) int64, members of each set over all processes.
    """

    def __init__(self, member: Tensor, num_labelled: int) -> None:
        rank, world_size = rank_and_world_size()
        parts = [part.long().cumsum(1) for part in member.split([num_labelled, member.shape[1] - num_labelled], dim=1)]
        counts = torch.stack([part.sum(1) for part in member.split([num_labelled, member.shape[1] - num_labelled], 1)])
        gathered = [counts]
        if world_size > 1:
            gathered = [torch.empty_like(counts) for _ in range(world_size)]
            distributed.all_gather(gathered, counts)
        of_all = torch.stack(gathered)  # (processes, 2, C)
        self.total = of_all.sum((0, 1))
        before = of_all[:rank].sum(0)
        begin = torch.stack([before[0], of_all[:, 0].sum(0) + before[1]])
        self._member = member
        self._number = torch.cat([part + start.unsqueeze(1) for part, start in zip(parts, begin, strict=True)], dim=1)

    def find(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Find the members with the numbers ``wanted`` (C, K), from 0.

        Returns:
            Their indices among this process's pixels, (C, K), and whether each is a pixel of this process.
        """
        index = torch.searchsorted(self._number, wanted + 1).clamp(max=self._number.shape[1] - 1)
        here = (self._number.gather(1, index) == wanted + 1) & self._member.gather(1, index)
        return index, here & (wanted < self.total.unsqueeze(1))


def sum_over_processes(value: Tensor) -> Tensor:
    """Add the values of all processes, in place."""
    if rank_and_world_size()[1] > 1:
        distributed.all_reduce(value)
    return value
