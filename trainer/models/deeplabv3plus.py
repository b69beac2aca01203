"""The DeepLabv3+ variant of Cross Pseudo Supervision (Chen et al. 2021) on any encoder."""

from os import PathLike

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpl_fast.trainer.models.backbone import Backbone, Features

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
        """(N, in_channels, h, w) to (N, channels, h, w)."""
        branches = torch.cat([branch(x) for branch in self.branches], dim=1)
        branches = self.reduce(F.leaky_relu(self.branches_norm(branches)))
        return F.leaky_relu(self.norm(branches + self.pool(x)))


class DeepLabV3PlusHead(nn.Module):
    """ASPP on the last features, refined with the fine ones.

    Args:
        in_channels: Channels of the fine and the last features.
        channels: Of the ASPP and of the output.
        low_channels: The fine features are reduced to this many.
    """

    def __init__(self, in_channels: tuple[int, int], channels: int = 256, low_channels: int = 48) -> None:
        super().__init__()
        low, high = in_channels
        self.aspp = ASPP(high, channels)
        self.low = _conv_norm_relu(low, low_channels, kernel_size=1)
        self.refine = nn.Sequential(
            _conv_norm_relu(channels + low_channels, channels, kernel_size=3),
            _conv_norm_relu(channels, channels, kernel_size=3),
        )

    def forward(self, features: Features) -> Tensor:
        """Features to (N, channels, H / 4, W / 4)."""
        low = self.low(features.low)
        high = F.interpolate(self.aspp(features.high), low.shape[-2:], mode="bilinear", align_corners=True)
        return self.refine(torch.cat([high, low], dim=1))


class SegmentationNetwork(nn.Module):
    """Encoder, decoder head and a 1 x 1 classifier; logits stay at stride 4, because the losses upsample them.

    Args:
        backbone: The encoder.
        num_classes: Channels of the logits.
        head_channels: Of the decoder.
        low_channels: The fine features are reduced to this many.
    """

    def __init__(self, backbone: Backbone, num_classes: int, head_channels: int = 256, low_channels: int = 48) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = DeepLabV3PlusHead(backbone.channels, head_channels, low_channels)
        self.classifier = nn.Conv2d(head_channels, num_classes, 1)
        for module in (*self.head.modules(), self.classifier):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def encode(self, image: Tensor) -> Features:
        """(N, 3, H, W) normalised images to features at stride 4 and at the output stride."""
        return self.backbone(image)

    def decode(self, features: Features) -> Tensor:
        """Features to the decoder's feature map (N, head_channels, ceil(H / 4), ceil(W / 4))."""
        return self.head(features)

    def classify(self, decoded: Tensor) -> Tensor:
        """Decoder features to logits of the same height and width."""
        return self.classifier(decoded)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to logits (N, num_classes, ceil(H / 4), ceil(W / 4))."""
        return self.classify(self.decode(self.encode(image)))


def build_network(
    backbone: str,
    num_classes: int,
    *,
    output_stride: int | None = 16,
    head_channels: int = 256,
    low_channels: int = 48,
    pretrained: bool = False,
    weights_file: str | PathLike[str] | None = None,
) -> SegmentationNetwork:
    """A segmentation network by name.

    Head and classifier are drawn from torch's global generator (Kaiming normal over fan-in; biases as PyTorch draws
    them), so that two calls give the two branches of CPS their only difference.

    Args:
        backbone: ``resnet50`` or ``resnet101`` (deep stem, as in the papers) or any timm encoder with features at
            stride 4.
        num_classes: At least 2.
        output_stride: Of the encoder, or None for its own.
        head_channels: Width of the decoder; 256 in the papers.
        low_channels: Width of the reduced fine features; 48 in the papers.
        pretrained: Whether to fetch ImageNet weights through timm.
        weights_file: Local weights of the encoder alone.

    Raises:
        ValueError: If an argument breaks its rule; see :class:`Backbone`.

    Example:
        >>> network = build_network("resnet50", num_classes=19)
        >>> network(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 19, 16, 16])
    """
    for name, value, least in (
        ("num_classes", num_classes, 2),
        ("head_channels", head_channels, 1),
        ("low_channels", low_channels, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    encoder = Backbone(backbone, output_stride=output_stride, pretrained=pretrained, weights_file=weights_file)
    return SegmentationNetwork(encoder, num_classes, head_channels, low_channels)


def _conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
