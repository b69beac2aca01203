"""Gradients that are taken within a forward pass."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["inner_gradient"]


def inner_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute a 0-d function of x and its gradient by x alone; the backward pass of the step does not know of it.

    Tensors that autograd keeps for it are freed here, so that hooks around the step, such as the count of memory of the
    dry run, do not see them.
    """
    with torch.enable_grad(), saved_tensors_hooks(_same, _same):
        x = x.detach().requires_grad_()
        value = function(x)
        (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


def _same(tensor: Tensor) -> Tensor:
    return tensor
