"""Perturbation of an encoder's features by factors of whole channels, next to the features as they are."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:  # methods, which make factors, need no timm
    from fpl_fast.trainer.models.features import Features

__all__ = ["ChannelFactors", "with_perturbed"]


class ChannelFactors(NamedTuple):
    """Factors of each image's channels, such as 0 and 2 for a channel dropout of one half."""

    low: Tensor  # (N, C_low, 1, 1)
    high: Tensor  # (N, C_high, 1, 1)


def with_perturbed(features: "Features", factors: ChannelFactors) -> "Features":
    """Append the perturbed low and high features of N images to the clean ones, 2N in all.

    A decoder that sees both halves at once normalises them by common statistics. The middle features stay N and clean:
    only auxiliary heads read them.
    """

    def both(clean: Tensor, factor: Tensor) -> Tensor:
        return torch.cat([clean, clean * factor.to(clean.dtype)])

    return features._replace(low=both(features.low, factors.low), high=both(features.high, factors.high))
