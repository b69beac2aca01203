"""Layers that the decoder heads share."""

from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    dilation: int = 1,
    bias: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """A convolution that keeps height and width, batch norm, ReLU, and dropout of whole channels where asked for."""
    padding = dilation * (kernel_size // 2)
    layers = [
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=bias),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, nn.Dropout2d(dropout)) if dropout else nn.Sequential(*layers)


def upsample_to(x: Tensor, like: Tensor) -> Tensor:
    """(N, C, h, w) bilinearly, with aligned corners, to the height and width of ``like``."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)
