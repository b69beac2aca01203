"""Network that finds the flaws of a segmentation (Guided Collaborative Training, Ke et al. 2020)."""

import torch
from torch import Tensor, nn

from fpl_fast.trainer.upsample import pixel_size, upsample

__all__ = ["FlawDetector"]

_LAYERS = ((1, 2), (2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1))  # channels as multiples of the first's, stride
_SLOPE = 0.2  # of the leaky ReLU


class FlawDetector(nn.Module):
    """Convolutions of 4 x 4 pixels over an image and the probabilities that a network predicts for it.

    Each but the last is followed by a normalisation and a leaky ReLU. In training, batch norm and instance norm need
    several pixels in the deepest layer.

    Args:
        num_classes: C.
        channels: Of the first layer; 64 in the paper.
        scale: Factor by which height and width are enlarged first; 1 in the paper.
    """

    LEAST_SIZE = 60
    """Height and width that an image must have, once enlarged, for a pixel to be left in every layer."""

    def __init__(self, num_classes: int, channels: int = 64, scale: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3 + num_classes
        for factor, stride in _LAYERS:
            after = factor * channels
            layers += [nn.Conv2d(before, after, 4, stride, 1), _HalfNorm(after), nn.LeakyReLU(_SLOPE, inplace=True)]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 4, 2, 1))
        self.scale = scale

    def forward(self, image: Tensor, probability: Tensor) -> Tensor:
        """Predict how wrong each pixel is, 0 where it is right and 1 where it is wrong, without bounds.

        Args:
            image: (N, 3, H, W), normalised.
            probability: (N, C, H, W).

        Returns:
            (N, H, W).
        """
        (height, width), scale = pixel_size(image), self.scale
        x = torch.cat([image, probability], dim=1)
        maps = self.layers(x if scale == 1 else upsample(x, (scale * height, scale * width)))
        return upsample(maps, (height, width)).squeeze(1)


class _HalfNorm(nn.Module):
    """Batch norm of the first half of the channels, instance norm without weights of the second half."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.batch = nn.BatchNorm2d((channels + 1) // 2)
        self.instance = nn.InstanceNorm2d(channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, channels, h, w)."""
        first, second = x.split([self.batch.num_features, self.instance.num_features], dim=1)
        return torch.cat([self.batch(first), self.instance(second)], dim=1)
