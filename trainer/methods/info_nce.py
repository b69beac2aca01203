"""InfoNCE of many anchors against many keys, in parts, with the gradient computed along with the value.

Shapes: M anchors, K keys, D channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["info_nce"]

_EPSILON = 1e-8
_PART = 2**25
"""Most products of anchors and keys that are held at once: 128 MB."""


def info_nce(
    anchor: Tensor, positive: Tensor, label: Tensor, keys: Tensor, key_labels: Tensor, *, temperature: float
) -> Tensor:
    """Compute -log(e^s / (e^s + sum over keys of other labels of e^(a . k / t)) + 1e-8) with s = a . b / t.

    The constant bounds the loss and lets the gradient vanish where the positive has next to no share, as in the public
    code of CAC. Of all products of anchors and keys only a part exists at a time. The arithmetic is float32.

    Source: Lai et al., "Semi-supervised Semantic Segmentation with Directional Context-aware Consistency" (CVPR 2021).

    Args:
        anchor: a, (M, D), which alone receives a gradient.
        positive: b, (M, D).
        label: (M,) int64, the anchors'.
        keys: k, (K, D).
        key_labels: (K,) int64; keys with a label below 0 count nowhere.
        temperature: t.

    Returns:
        (M,) float32.

    Example:
        >>> a = torch.tensor([[1.0, 0.0]])
        >>> info_nce(a, a, torch.tensor([0]), -a, torch.tensor([1]), temperature=1.0)
        tensor([0.1269])
    """
    return _InfoNCE.apply(anchor, positive, label, keys, key_labels, temperature)


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, positive: Tensor, label: Tensor, keys: Tensor, key_labels: Tensor, temperature: float
    ) -> Tensor:
        """Compute the losses, and keep their gradients."""
        rows = max(1, _PART // max(1, len(keys)))
        with torch.autocast(anchor.device.type, enabled=False):
            keys = keys.float()
            parts = [
                _values_and_gradients(a.float(), b.float(), c, keys, key_labels, temperature)
                for a, b, c in zip(anchor.split(rows), positive.split(rows), label.split(rows), strict=True)
            ]
        losses, gradients = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(gradients.to(anchor.dtype))
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients."""
        (gradients,) = ctx.saved_tensors
        return upstream.unsqueeze(1).to(gradients.dtype) * gradients, None, None, None, None, None


def _values_and_gradients(
    anchor: Tensor, positive: Tensor, label: Tensor, keys: Tensor, key_labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Compute the losses (M,) of a part of the anchors, and their gradients (M, D)."""
    similar = (anchor * positive).sum(1, keepdim=True) / temperature
    counts = (label.unsqueeze(1) != key_labels) & (key_labels >= 0)
    products = (anchor @ keys.T).div_(temperature).masked_fill_(~counts, -torch.inf)
    greatest = torch.maximum(similar, products.amax(1, keepdim=True))
    products.sub_(greatest).exp_()
    own = (similar - greatest).exp()
    total = products.sum(1, keepdim=True) + own
    share = own / total
    # d loss = share / (share + eps) * d (log total - s)
    others = (products @ keys + own * positive) / total - positive
    gradients = others * (share / (share + _EPSILON) / temperature)
    return -(share + _EPSILON).log().squeeze(1), gradients
