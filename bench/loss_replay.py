"""The losses of a training step without its networks, to measure their share of the time."""

import functools

import torch
from torch import Tensor, nn

from fpl_fast.bench.contenders import Contender

__all__ = ["LossReplay"]


class LossReplay:
    """The losses of a step and their gradient in the logits, on recorded outputs of the networks.

    Args:
        contender: Contender whose method is rebuilt around networks that only repeat these logits.
    """

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        image = contender.batch.labelled.image
        with torch.no_grad(), contender.fabric.autocast():
            logits = iter([network(image) for network in contender.method.networks])
        method = contender.method
        self._method = type(method)(method.config, lambda: _Repeat(next(logits)), ignore_index=method.ignore_index)
        self._leaves = list(self._method.parameters())

    def step(self) -> None:
        """Compute losses and gradient."""
        with self._contender.fabric.autocast():
            terms = self._method.losses(self._contender.batch, 0.5).terms
        torch.autograd.grad(functools.reduce(torch.add, terms.values()), self._leaves)
        self._contender.read(terms)


class _Repeat(nn.Module):
    """A network that returns the same logits for any batch."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.detach().clone())

    def forward(self, image: Tensor) -> Tensor:
        return self.logits
