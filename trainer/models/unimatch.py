"""The DeepLabv3+ head of UniMatch (Yang et al. 2023), CorrMatch (Sun et al. 2024) and CAC (Lai et al. 2021).

Convolutions and batch norm start as PyTorch draws them.
"""

import torch
from torch import Tensor, nn

from fpl_fast.trainer.models.ael import PyramidPooling
from fpl_fast.trainer.models.blocks import conv_norm_relu
from fpl_fast.trainer.models.features import Features
from fpl_fast.trainer.upsample import upsample

_RATES = (6, 12, 18)


class UniMatchHead(nn.Module):
    """Pyramid pooling on the last features, refined with the fine features.

    Args:
        in_channels: Channels of the fine and the last features.
        channels: Of every layer and of the output.
        low_channels: Channels that the fine features are reduced to.
        wide: Whether the dilations are twice as large, for features at output stride 8, as in CorrMatch.
        dropout: Probability of dropping a value of the pooled features and of the decoder's hidden layer: 0.5 in CAC.
    """

    def __init__(
        self,
        in_channels: tuple[int, int],
        channels: int = 256,
        low_channels: int = 48,
        *,
        wide: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        low, high = in_channels
        self.fused_channels = low_channels + channels
        rates = [rate * (1 + wide) for rate in _RATES]
        drop = [nn.Dropout(dropout) for _ in range(2)] if dropout else []
        self.aspp = nn.Sequential(
            PyramidPooling(high, channels, rates), conv_norm_relu(5 * channels, channels, 1), *drop[:1]
        )
        self.low = conv_norm_relu(low, low_channels, 1)
        self.refine = nn.Sequential(
            conv_norm_relu(self.fused_channels, channels, 3),
            *drop[1:],
            conv_norm_relu(channels, channels, 3),
        )

    def fuse(self, features: Features) -> Tensor:
        """Map features to (N, fused_channels, h, w), with the size of the fine features."""
        low = self.low(features.low)
        high = upsample(self.aspp(features.high), low.shape[-2:])
        return torch.cat([low, high], dim=1)

    def forward(self, features: Features) -> Tensor:
        """Map features to (N, channels, h, w)."""
        return self.refine(self.fuse(features))
