"""The DeepLabv3+ variant of Adaptive Equalization Learning (Hu et al. 2021): decoder and auxiliary head.

Convolutions and batch norm start as PyTorch draws them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fpl_fast.trainer.models.blocks import conv_norm_relu
from fpl_fast.trainer.models.features import Features
from fpl_fast.trainer.upsample import upsample

_RATES = (12, 24, 36)
_DROPOUT = 0.1  # of whole channels


class PyramidPooling(nn.Module):
    """Atrous spatial pyramid pooling: the image mean and four parallel convolutions, each with batch norm and ReLU.

    In training, batch norm on the image mean needs two or more images a batch (over all processes with SyncBatchNorm).

    Args:
        in_channels: Of the input.
        channels: Of each branch; the output has five times as many.
        rates: Dilations of the three 3 x 3 convolutions.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int] = _RATES) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm_relu(in_channels, channels, 1))
        self.branches = nn.ModuleList(
            [conv_norm_relu(in_channels, channels, 1)]
            + [conv_norm_relu(in_channels, channels, 3, dilation=rate) for rate in rates]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, h, w) to (N, 5 * channels, h, w): image mean, 1 x 1, then the rates in order."""
        mean = self.pool(x).expand(-1, -1, *x.shape[-2:])  # equals upsampling a single pixel
        return torch.cat([mean, *(branch(x) for branch in self.branches)], dim=1)


class AELHead(nn.Module):
    """Pyramid pooling on the last features, refined with the fine features.

    Args:
        in_channels: Channels of the fine and the last features.
        channels: Of every layer and of the output.
    """

    def __init__(self, in_channels: tuple[int, int], channels: int = 256) -> None:
        super().__init__()
        low, high = in_channels
        self.fused_channels = 2 * channels
        self.aspp = PyramidPooling(high, channels)
        self.high = conv_norm_relu(5 * channels, channels, 3, dropout=_DROPOUT)
        self.low = conv_norm_relu(low, channels, 1, bias=True)
        self.refine = nn.Sequential(
            conv_norm_relu(2 * channels, channels, 3, bias=True, dropout=_DROPOUT),
            conv_norm_relu(channels, channels, 3, bias=True, dropout=_DROPOUT),
        )

    def fuse(self, features: Features) -> Tensor:
        """Map features to (N, fused_channels, h, w), with the size of the fine features."""
        low = self.low(features.low)
        high = upsample(self.high(self.aspp(features.high)), low.shape[-2:])
        return torch.cat([low, high], dim=1)

    def forward(self, features: Features) -> Tensor:
        """Map features to (N, channels, h, w), with the size of the fine features."""
        return self.refine(self.fuse(features))


class RepresentationHead(nn.Sequential):
    """Features to compare with each other, from the fused ones (U2PL, Wang et al. 2022).

    Args:
        in_channels: Channels of the fused features.
        channels: Channels of the hidden layers and of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(
            conv_norm_relu(in_channels, channels, 3, bias=True, dropout=_DROPOUT),
            conv_norm_relu(channels, channels, 3, bias=True, dropout=_DROPOUT),
            nn.Conv2d(channels, channels, 1),
        )


class AuxiliaryHead(nn.Sequential):
    """Logits from the features before the last (layer3 of a ResNet), for a second supervised loss.

    Args:
        in_channels: Channels of these features.
        channels: Channels of the hidden layer.
        num_classes: Channels of the logits.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__(
            conv_norm_relu(in_channels, channels, 3, bias=True, dropout=_DROPOUT), nn.Conv2d(channels, num_classes, 1)
        )
