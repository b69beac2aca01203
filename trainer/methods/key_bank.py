"""Memory bank of U2PL: for each class the latest features of pixels that are unlikely to belong to it."""

import torch
from torch import Tensor, nn

__all__ = ["KeyBank"]


class KeyBank(nn.Module):
    """A ring of the latest keys of each class, in buffers, so that checkpoints hold them.

    Args:
        sizes: Keys that the ring of each class holds.
        channels: D, of a key.
    """

    keys: Tensor
    pushed: Tensor
    sizes: Tensor
    starts: Tensor

    def __init__(self, sizes: list[int], channels: int) -> None:
        super().__init__()
        ends = torch.tensor(sizes).cumsum(0)
        self.register_buffer("keys", torch.zeros(sum(sizes) + 1, channels))  # the last row is written in vain
        self.register_buffer("pushed", torch.zeros(len(sizes), dtype=torch.int64))  # keys of each class so far
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.register_buffer("starts", ends - torch.tensor(sizes), persistent=False)

    @property
    def length(self) -> Tensor:
        """Keys of each class that are held, (C,) int64."""
        return torch.minimum(self.pushed, self.sizes)

    @torch.no_grad()
    def push(self, keys: Tensor, count: Tensor) -> None:
        """Add the first ``count`` (C,) of the keys (C, K, D) of each class; K is at most the size of each ring."""
        place = torch.arange(keys.shape[1], device=keys.device).expand(len(count), -1)
        given = place < count.unsqueeze(1)
        row = self._row(self.pushed.unsqueeze(1) + place).where(given, len(self.keys) - 1)
        # Equal rows for the row written in vain, so that the order of the writes does not matter.
        self.keys[row.flatten()] = (keys * given.unsqueeze(-1)).flatten(0, 1).to(self.keys.dtype)
        self.pushed += given.sum(1)

    def take(self, classes: Tensor, wanted: Tensor) -> Tensor:
        """Take keys (C, ..., D) by their numbers.

        Args:
            classes: (C,) int64, class of each row of ``wanted``.
            wanted: (C, ...) int64, from the oldest key, 0, to ``length`` - 1.
        """
        first = (self.pushed - self.length)[classes].view(-1, *[1] * (wanted.ndim - 1))
        return self.keys[self._row(first + wanted, classes)]

    def _row(self, number: Tensor, classes: Tensor | slice = slice(None)) -> Tensor:
        """Row of each class's key with a number since the beginning."""
        sizes, starts = (x[classes].view(-1, *[1] * (number.ndim - 1)) for x in (self.sizes, self.starts))
        return number % sizes + starts
