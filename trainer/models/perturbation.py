"""Perturbation of an encoder's features by factors of whole channels, alone or next to the features as they are."""

from typing import TypeVar

import torch
from torch import Tensor

from fpl_fast.trainer.models.features import Features, PatchFeatures

__all__ = ["ChannelFactors", "perturbed"]

ChannelFactors = tuple[Tensor, ...]
"""Factors of each image's channels, such as 0 and 2 for a channel dropout of one half, each (N, C, 1, 1).

There is one for the low and one for the high features of a convolutional encoder, and one for all blocks of a
transformer, in the order of ``SegmentationNetwork.feature_channels``.
"""


_Maps = TypeVar("_Maps", Features, PatchFeatures)


def perturbed(features: _Maps, factors: ChannelFactors, *, beside_clean: bool) -> _Maps:
    """Multiply the channels of N images' features.

    Args:
        features: Of an encoder. The middle ones of a convolutional encoder stay N and clean: only auxiliary heads read
            them.
        factors: One for each entry of ``SegmentationNetwork.feature_channels``.
        beside_clean: Whether the result is appended to the clean features, 2N images in all, which a decoder then
            normalises by common statistics; otherwise it replaces them.
    """

    def scale(clean: Tensor, factor: Tensor) -> Tensor:
        scaled = clean * factor.to(clean.dtype)
        return torch.cat([clean, scaled]) if beside_clean else scaled

    if isinstance(features, PatchFeatures):
        (factor,) = factors
        return features._replace(blocks=tuple(scale(block, factor) for block in features.blocks))
    low, high = factors
    return features._replace(low=scale(features.low, low), high=scale(features.high, high))
