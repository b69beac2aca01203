"""The feature maps that an encoder hands to a head."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["Features", "PatchFeatures"]


class Features(NamedTuple):
    """Feature maps of a convolutional encoder, finest first.

    Attributes:
        low: (N, C_low, ceil(H / 4), ceil(W / 4)).
        middle: (N, C_middle, h', w'), the stage before the last: layer3 of a ResNet.
        high: (N, C_high, ceil(H / s), ceil(W / s)) at the output stride s.
    """

    low: Tensor
    middle: Tensor
    high: Tensor


class PatchFeatures(NamedTuple):
    """Normalised patch tokens of four blocks of a vision transformer, first block first.

    Attributes:
        blocks: Each (N, C, H / p, W / p) for patches of p x p pixels.
    """

    blocks: tuple[Tensor, ...]

    @property
    def high(self) -> Tensor:
        """Tokens of the last block."""
        return self.blocks[-1]
