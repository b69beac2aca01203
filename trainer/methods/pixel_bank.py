"""Memory bank of CAC: features of the pixels of the last steps, with their predicted classes."""

import torch
from torch import Tensor, nn

__all__ = ["PixelBank"]

EMPTY = -1
"""Label of a row without a pixel."""


class PixelBank(nn.Module):
    """The pixels of the last steps, in buffers, so that checkpoints hold them.

    Args:
        num_steps: Steps that are held.
        num_pixels: Most pixels of a step.
        channels: D, of a feature.
    """

    keys: Tensor
    labels: Tensor

    def __init__(self, num_steps: int, num_pixels: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(num_steps, num_pixels, channels))
        self.register_buffer("labels", torch.full((num_steps, num_pixels), EMPTY))

    @torch.no_grad()
    def push(self, keys: Tensor, labels: Tensor) -> None:
        """Add the pixels of a step, (M, D) and (M,) int64, in place of the oldest step; M is at most ``num_pixels``."""
        for buffer, new in ((self.keys, keys), (self.labels, labels)):
            buffer[1:] = buffer[:-1].clone()
            buffer[0, : len(new)] = new.to(buffer.dtype)
        self.labels[0, len(labels) :] = EMPTY
