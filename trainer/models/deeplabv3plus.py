"""The DeepLabv3+ variant of Cross Pseudo Supervision (Chen et al. 2021): the decoder head."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpl_fast.trainer.models.blocks import conv_norm_relu
from fpl_fast.trainer.models.features import Features
from fpl_fast.trainer.upsample import upsample

_RATES = (6, 12, 18)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: four parallel convolutions, then the image mean added.

    One batch norm over the concatenated branches, none inside them; leaky ReLU. In training, batch norm on the image
    mean needs two or more images a batch (over all processes with SyncBatchNorm).

    Args:
        in_channels: Of the input.
        channels: Of each branch and of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.Conv2d(in_channels, channels, 1, bias=False)]
            + [nn.Conv2d(in_channels, channels, 3, padding=rate, dilation=rate, bias=False) for rate in _RATES]
        )
        self.branches_norm = nn.BatchNorm2d(4 * channels)
        self.reduce = nn.Conv2d(4 * channels, channels, 1, bias=False)
        self.pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, h, w) to (N, channels, h, w)."""
        branches = torch.cat([branch(x) for branch in self.branches], dim=1)
        branches = self.reduce(F.leaky_relu(self.branches_norm(branches)))
        return F.leaky_relu(self.norm(branches + self.pool(x)))


class DeepLabV3PlusHead(nn.Module):
    """ASPP on the last features, refined with the fine features.

    Args:
        in_channels: Channels of the fine and the last features.
        channels: Of the ASPP and of the output.
        low_channels: Channels that the fine features are reduced to.
    """

    def __init__(self, in_channels: tuple[int, int], channels: int = 256, low_channels: int = 48) -> None:
        super().__init__()
        low, high = in_channels
        self.fused_channels = channels + low_channels
        self.aspp = ASPP(high, channels)
        self.low = conv_norm_relu(low, low_channels, 1)
        self.refine = nn.Sequential(
            conv_norm_relu(channels + low_channels, channels, 3),
            conv_norm_relu(channels, channels, 3),
        )

    def fuse(self, features: Features) -> Tensor:
        """Map features to (N, fused_channels, H / 4, W / 4)."""
        low = self.low(features.low)
        high = upsample(self.aspp(features.high), low.shape[-2:])
        return torch.cat([high, low], dim=1)

    def forward(self, features: Features) -> Tensor:
        """Map features to (N, channels, H / 4, W / 4)."""
        return self.refine(self.fuse(features))
