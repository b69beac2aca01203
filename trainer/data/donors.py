"""CutMix donors that a method chooses on the device, some steps before a loader reads them.

The choice depends on the state of the networks, yet loaders read ahead. A donor is therefore chosen ``lead`` steps
before it is used: its index is copied to the host asynchronously, and neither host nor device waits.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn

__all__ = ["Donor", "DonorQueue"]


class Donor(NamedTuple):
    """An image to paste from."""

    index: int  # type: ignore[assignment]  # hides tuple.index; into the data set
    wanted: int  # the class to paste


class DonorQueue(nn.Module):
    """Queue of the donors of the next ``lead`` steps, over all processes.

    The queue is a buffer: a checkpoint holds the donors that were chosen but not used yet, so that a resumed run reads
    the same images.

    Args:
        donors: (lead, B, 2) int64, image and wanted class of each of the B donors of the first steps.
    """

    donors: Tensor

    def __init__(self, donors: Tensor) -> None:
        super().__init__()
        self.register_buffer("donors", donors)
        self._ahead: deque[tuple[Tensor, torch.cuda.Event | None]] | None = None

    @property
    def batch_size(self) -> int:
        """Number of donors a step, B."""
        return self.donors.shape[1]

    def push(self, donors: Tensor) -> None:
        """End a step: drop its donors and append the donors, (B, 2), of the step ``lead`` steps later.

        With several processes, the donors of the first are used.
        """
        if distributed.is_initialized():
            distributed.broadcast(donors, src=0)
        self.donors.copy_(torch.cat([self.donors[1:], donors.unsqueeze(0)]))
        if self._ahead is not None:
            arrived, copied = donors.to("cpu", non_blocking=True), None
            if donors.is_cuda:
                copied = torch.cuda.Event()
                copied.record()
            self._ahead.append((arrived, copied))

    def steps(self, rank: int = 0, world_size: int = 1) -> Iterator[list[Donor]]:
        """Yield the donors of one of ``world_size`` processes in the current step, in the next one, and so on.

        At most ``lead`` steps beyond the last ``push`` can be asked for.
        """
        self._ahead = deque((donors, None) for donors in self.donors.to("cpu", copy=True))
        while True:
            assert self._ahead, "a loader reads further ahead than the donors are chosen"
            donors, copied = self._ahead.popleft()
            if copied is not None:
                copied.synchronize()  # recorded steps ago, so that this does not wait
            yield [Donor(*map(int, donor)) for donor in donors.chunk(world_size)[rank].numpy()]
