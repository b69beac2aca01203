"""Perturbations of an encoder's features, from random numbers that the caller draws.

Source: Ouali et al., Semi-Supervised Semantic Segmentation with Cross-Consistency Training (CVPR 2020) and its public
code. Features h are (N, D, h, w).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fpl_fast.trainer.methods.inner_gradient import inner_gradient

__all__ = ["add_noise", "adversarial_noise", "drop_channels", "drop_salient", "keep_pixels"]

_TINY = 1e-8  # added to a norm before it divides


def drop_channels(h: Tensor, kept: Tensor, rate: float) -> Tensor:
    """Drop whole channels: h / (1 - rate) where ``kept`` (N, D) bool is True, 0 elsewhere."""
    return h * (kept / (1 - rate)).to(h.dtype)[..., None, None]


def add_noise(h: Tensor, noise: Tensor) -> Tensor:
    """Scale by noise: h * (1 + noise), with one noise (D, h, w) for all images."""
    return h * (1 + noise).to(h.dtype)


def drop_salient(h: Tensor, gamma: Tensor) -> Tensor:
    """Drop the most active pixels: those whose mean over channels reaches ``gamma``, 0-d, times the image's highest."""
    with torch.no_grad():
        activity = h.mean(1, keepdim=True, dtype=torch.promote_types(h.dtype, torch.float32))
        kept = activity < gamma * activity.amax((2, 3), keepdim=True)
    return h * kept


def keep_pixels(h: Tensor, kept: Tensor) -> Tensor:
    """Keep the features where ``kept`` (N, H, W) bool, brought to their size by nearest neighbours, is True."""
    return h * F.interpolate(kept.unsqueeze(1).to(h.dtype), h.shape[2:], mode="nearest")


def adversarial_noise(
    h: Tensor, decoder: Callable[[Tensor], Tensor], direction: Tensor, *, xi: float, radius: float, num_images: int
) -> Tensor:
    """Find the noise of length ``radius`` that changes a decoder's predictions most (virtual adversarial training).

    One power step: with p = softmax(decoder(h)) and d the normalised ``direction``, the noise is
    radius * normalised(gradient by d of KL(p || softmax(decoder(h + xi * d))) / num_images), normalised by the norm of
    each image + 1e-8. Float32 resolves this gradient with xi = 0.1, but not with xi = 1e-6.

    Args:
        h: Features, at least float32; no gradient flows into them.
        decoder: Maps features to logits.
        direction: Random, like ``h``, symmetric about 0.
        xi: Length of the step at which the gradient is taken.
        radius: Length of the noise.
        num_images: Images of the step, over all processes.
    """
    h = h.detach()
    with torch.no_grad():
        p = decoder(h).softmax(1)

    def divergence(d: Tensor) -> Tensor:
        return F.kl_div(decoder(h + xi * d).log_softmax(1), p, reduction="sum") / num_images

    _, gradient = inner_gradient(divergence, _normalized(direction))
    return radius * _normalized(gradient)


def _normalized(d: Tensor) -> Tensor:
    """Divide each image by its norm."""
    return d / (d.flatten(1).norm(dim=1) + _TINY).view(-1, 1, 1, 1)
