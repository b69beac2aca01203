"""CorrMatch's correlation of pixels (Sun et al. 2024): logits that spread over similar pixels, and their regions."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fpl_fast.trainer.models.blocks import conv_norm_relu
from fpl_fast.trainer.upsample import pixel_size, upsample

__all__ = ["Correlation", "CorrelationHead", "region_masks"]

_DROPOUT = 0.1  # of whole channels


class Correlation(NamedTuple):
    """Pairwise similarity of the pixels of an encoder's features, and what it makes of logits."""

    logits: Tensor  # (N, C, h, w), sum over i of z_i A_ij
    affinity: Tensor  # A, (N, h * w, h * w); row i sums to 1


class CorrelationHead(nn.Module):
    """A projection of the encoder's last features, and two classifiers whose products compare pixels.

    A = softmax over j of f_1(i) . f_2(j) / sqrt(C). It has (h w)^2 numbers an image: 11 MB for crops of 321 x 321 at
    output stride 8, 416 MB for 801 x 801.

    Args:
        in_channels: Of the encoder's features.
        channels: Of the projection; 256 in the paper.
        num_classes: C.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.project: nn.Module = conv_norm_relu(in_channels, channels, 3, bias=True, dropout=_DROPOUT)
        self.first, self.second = (nn.Conv2d(channels, num_classes, 1) for _ in range(2))

    def forward(self, features: Tensor, logits: Tensor, size: tuple[int, int]) -> Correlation:
        """Compare the pixels of an image's features, and spread its logits by their similarity.

        Args:
            features: (N, in_channels, h, w).
            logits: (N, C, h', w'), which receive no gradient. They are brought to the size of the image and from there
                to the size of the features, as in the public code, bilinearly with align_corners.
            size: Height and width of the image.
        """
        small = upsample(upsample(logits.detach(), size), pixel_size(features))
        return self.correlate(self.project(features), small)

    def correlate(self, projected: Tensor, logits: Tensor) -> Correlation:
        """Correlate projected features (N, channels, h, w), and spread logits (N, C, h, w)."""
        first, second = (layer(projected).flatten(2) for layer in (self.first, self.second))
        affinity = (first.transpose(1, 2) @ second / math.sqrt(first.shape[1])).softmax(-1)
        return Correlation((logits.flatten(2).to(affinity.dtype) @ affinity).view_as(logits), affinity)


@torch.no_grad()
def region_masks(affinity: Tensor, rows: Tensor, features: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Mark the pixels that are more than half as similar to a pixel as the most similar one.

    Args:
        affinity: (N, h * w, h * w).
        rows: (R,) int64, pixels of the features, the same in all images.
        features: (h, w).
        size: (H, W) of the regions, to which similarities are upsampled.

    Returns:
        (N, R, H, W) bool: similarity above the middle between its lowest and its highest value.
    """
    images = affinity.index_select(1, rows).unflatten(2, features)
    return torch.stack([relative_similarity(image, size) > 0.5 for image in images])


def relative_similarity(similarity: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample similarities (R, h, w) to (R, H, W) and bring each map to the range from 0 to 1."""
    similarity = upsample(similarity.float().unsqueeze(1), size).squeeze(1)
    low, high = (extreme((1, 2), keepdim=True) for extreme in (similarity.amin, similarity.amax))
    return (similarity - low) / (high - low)
