"""The losses of a training step without its networks, to measure their share of the time."""

import functools

import torch
from torch import Tensor, nn

from fpl_fast.bench.training.peers import Peer

__all__ = ["LossReplay"]


class LossReplay:
    """The losses of a step and their gradient in the logits, on recorded outputs of the networks.

    Args:
        peer: Peer whose method is rebuilt around networks that only repeat these logits.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        image = peer.batch.labelled.image
        with torch.no_grad(), peer.fabric.autocast():
            logits = iter([network(image) for network in peer.method.networks])
        method = peer.method
        self._method = type(method)(method.config, lambda: _Repeat(next(logits)), ignore_index=method.ignore_index)
        self._leaves = list(self._method.parameters())

    def step(self) -> None:
        """Compute losses and gradient."""
        with self._peer.fabric.autocast():
            terms = self._method.losses(self._peer.batch, 0.5).terms
        torch.autograd.grad(functools.reduce(torch.add, terms.values()), self._leaves)
        self._peer.read(terms)


class _Repeat(nn.Module):
    """A network that returns the same logits for any batch."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.detach().clone())

    def forward(self, image: Tensor) -> Tensor:
        return self.logits
