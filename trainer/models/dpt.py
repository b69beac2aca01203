"""The dense prediction transformer (Ranftl et al. 2021) of UniMatch V2 (Yang et al. 2025): the decoder head.

It has no normalisation layers. Convolutions start as PyTorch draws them.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fpl_fast.trainer.models.features import PatchFeatures
from fpl_fast.trainer.upsample import pixel_size, upsample

_SHARES = (1 / 8, 1 / 4, 1 / 2, 1)  # of the transformer's channels that the projection of each block keeps
_FUSED_SHARE = 1 / 6  # of the transformer's channels: 64 of DINOv2-small, 128 of DINOv2-base


class DPTHead(nn.Module):
    """Patch tokens of four blocks, brought to four resolutions and fused from the coarsest to the finest.

    The widths follow from the transformer, as in the configurations of UniMatch V2: 48, 96, 192, 384 and 64 channels
    for DINOv2-small, twice as many for DINOv2-base. The public code also builds a residual unit for the skip
    connection of the coarsest fusion, which has none; that unit is left out, as no loss reaches it.

    Args:
        in_channels: Channels of the tokens.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        widths = [max(1, round(share * in_channels)) for share in _SHARES]
        self.channels = max(1, round(_FUSED_SHARE * in_channels))
        self.project = nn.ModuleList(nn.Conv2d(in_channels, width, 1) for width in widths)
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        self.reduce = nn.ModuleList(nn.Conv2d(width, self.channels, 3, padding=1, bias=False) for width in widths)
        self.fusions = nn.ModuleList(_Fusion(self.channels, with_skip=place < 3) for place in range(4))
        self.refine = nn.Sequential(nn.Conv2d(self.channels, self.channels, 3, padding=1), nn.ReLU(inplace=True))

    @property
    def fused_channels(self) -> int:
        """Channels of the features that are refined."""
        return self.channels

    def fuse(self, features: PatchFeatures) -> Tensor:
        """Map patch tokens (N, in_channels, h, w) to (N, fused_channels, 8 h, 8 w)."""
        layers = zip(self.project, self.resize, self.reduce, features.blocks, strict=True)
        first, second, third, path = (reduce(resize(project(x))) for project, resize, reduce, x in layers)
        path = self.fusions[3](path, size=pixel_size(third))
        path = self.fusions[2](path, third, size=pixel_size(second))
        path = self.fusions[1](path, second, size=pixel_size(first))
        return self.fusions[0](path, first, size=[2 * side for side in pixel_size(first)])

    def forward(self, features: PatchFeatures) -> Tensor:
        """Map patch tokens (N, in_channels, h, w) to (N, channels, 8 h, 8 w)."""
        return self.refine(self.fuse(features))


class _Fusion(nn.Module):
    """A coarse path, joined by finer features where there are any, refined and upsampled.

    Args:
        channels: Of the path and of the features.
        with_skip: Whether finer features join.
    """

    def __init__(self, channels: int, *, with_skip: bool) -> None:
        super().__init__()
        self.skip = _ResidualUnit(channels) if with_skip else None
        self.unit = _ResidualUnit(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, path: Tensor, features: Tensor | None = None, *, size: Sequence[int]) -> Tensor:
        if self.skip is not None:
            path = path + self.skip(features)
        return self.out(upsample(self.unit(path), size))


class _ResidualUnit(nn.Module):
    """Two convolutions, each behind a ReLU, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))
