"""Layers that the decoder heads share."""

from torch import nn


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    dilation: int = 1,
    bias: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build a convolution that keeps height and width, batch norm, ReLU, and optional dropout of whole channels."""
    padding = dilation * (kernel_size // 2)
    layers = [
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=bias),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, nn.Dropout2d(dropout)) if dropout else nn.Sequential(*layers)
