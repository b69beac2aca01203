"""Distances between the probabilities of a student and of its target, computed without keeping them.

Loss and gradient are computed in one pass: nothing of the size of the upsampled logits is held for the backward pass.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fpl_fast.trainer.methods.inner_gradient import inner_gradient
from fpl_fast.trainer.upsample import pixel_size, upsample

__all__ = ["DistanceKind", "softmax_distance"]

DistanceKind = Literal["mse", "kl", "js"]

_LEAST = 1e-5  # added to the target's probabilities in the logarithm of "js", as in the public code


def _mse(z: Tensor, q: Tensor) -> Tensor:
    return (z.softmax(1) - q).square()


def _kl(z: Tensor, q: Tensor) -> Tensor:
    return F.kl_div(z.log_softmax(1), q, reduction="none")


def _js(z: Tensor, q: Tensor) -> Tensor:
    mean = (z.softmax(1) + q) / 2
    divergences = (F.kl_div(log, mean, reduction="none") for log in (z.log_softmax(1), (q + _LEAST).log()))
    return sum(divergences, z.new_zeros(())) / 2


_DISTANCES: dict[DistanceKind, Callable[[Tensor, Tensor], Tensor]] = {"mse": _mse, "kl": _kl, "js": _js}


def softmax_distance(kind: DistanceKind, logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Sum over pixels of a distance D(p, q), p = softmax(upsampled logits), which is a sum over classes.

    "mse": sum_c (p_c - q_c)^2. "kl": sum_c q_c log(q_c / p_c). "js", with m = (p + q) / 2: the mean of
    sum_c m_c log(m_c / p_c) and sum_c m_c log(m_c / (q_c + 1e-5)); both divergences are of m, as in the public code,
    which the Jensen-Shannon divergence has the other way round.

    Source: Ouali et al., Semi-Supervised Semantic Segmentation with Cross-Consistency Training (CVPR 2020) and its
    public code.

    Args:
        kind: "mse", "kl" or "js".
        logits: (N, C, h, w), upsampled to the target's size bilinearly with align_corners.
        target: q, (N, C, H, W) float32 probabilities, without gradient.
        counted: (N, H, W) bool, the pixels that count; None for all.

    Returns:
        0-d float32. It has no second derivative.
    """
    total: Tensor = _SumOfDistances.apply(logits, target, counted, _DISTANCES[kind])
    return total


class _SumOfDistances(torch.autograd.Function):
    """The sum, and its gradient at the resolution of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, counted: Tensor | None, distance: Any) -> Tensor:
        def total(z: Tensor) -> Tensor:
            pixels = distance(upsample(z, pixel_size(target)), target).sum(1)
            return (pixels if counted is None else pixels.masked_fill(~counted, 0)).sum()

        value, gradient = inner_gradient(total, logits.float())
        ctx.save_for_backward(gradient.to(logits.dtype))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad).to(gradient.dtype), None, None, None
