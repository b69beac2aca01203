"""The Jensen-Shannon divergence of Cross-Consistency Training, loss and gradient in one pass.

Nothing of the size of the upsampled logits is held for the backward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fpl_fast.trainer.methods.inner_gradient import inner_gradient
from fpl_fast.trainer.upsample import pixel_size, upsample

__all__ = ["sum_of_divergences"]

_LEAST = 1e-5  # added to the target's probabilities in a logarithm, as in the public code


def sum_of_divergences(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Sum over pixels of the mean of sum_c m_c log(m_c / p_c) and sum_c m_c log(m_c / (q_c + 1e-5)).

    p = softmax(upsampled logits), m = (p + q) / 2. Both divergences are of m, as in the public code, which the
    Jensen-Shannon divergence has the other way round.

    Source: Ouali et al., Semi-Supervised Semantic Segmentation with Cross-Consistency Training (CVPR 2020) and its
    public code.

    Args:
        logits: (N, C, h, w), upsampled to the target's size bilinearly with align_corners.
        target: q, (N, C, H, W) float32 probabilities, without gradient.
        counted: (N, H, W) bool, the pixels that count; None for all.

    Returns:
        0-d float32. It has no second derivative.
    """
    total: Tensor = _SumOfDivergences.apply(logits, target, counted)
    return total


def _divergence(z: Tensor, q: Tensor) -> Tensor:
    mean = (z.softmax(1) + q) / 2
    of_student, of_target = (F.kl_div(log, mean, reduction="none") for log in (z.log_softmax(1), (q + _LEAST).log()))
    return (of_student + of_target).sum(1) / 2


class _SumOfDivergences(torch.autograd.Function):
    """The sum, and its gradient at the resolution of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, counted: Tensor | None) -> Tensor:
        def total(z: Tensor) -> Tensor:
            pixels = _divergence(upsample(z, pixel_size(target)), target)
            return (pixels if counted is None else pixels.masked_fill(~counted, 0)).sum()

        value, gradient = inner_gradient(total, logits.float())
        ctx.save_for_backward(gradient.to(logits.dtype))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad).to(gradient.dtype), None, None
