"""Vision transformers from timm that return the patch tokens of four blocks."""

from os import PathLike
from typing import Any

import timm
from timm.models import is_model_in_modules
from torch import Tensor, nn

from fpl_fast.trainer.models.backbone import create_with_weights, require_model
from fpl_fast.trainer.models.features import PatchFeatures
from fpl_fast.trainer.models.weights import load_weights

__all__ = ["Transformer"]


class Transformer(nn.Module):
    """A timm vision transformer that returns :class:`PatchFeatures` of four blocks, evenly spread up to the last.

    Of 12 blocks these are 2, 5, 8 and 11, counted from 0. Position embeddings are resampled to the size of the image,
    which is a multiple of the patches. ``vit_small_patch14_dinov2`` and ``vit_base_patch14_dinov2`` are the DINOv2
    encoders (Oquab et al. 2024) of UniMatch V2, which need no resampling at 518 x 518.

    Args:
        name: Name of the encoder.
        output_stride: Size of the patches, or None for the encoder's own; there is no choice.
        pretrained: Whether to start from timm's weights, which are fetched.
        weights_file: Local file of weights for the encoder alone, instead of those; see
            :func:`fpl_fast.trainer.models.weights.load_weights`. The published files of DINOv2 fit as they are.

    Attributes:
        channels: Channels of the tokens.
        size_multiple: Size of the patches, which the sides of an image must be a multiple of.

    Raises:
        ValueError: If the name is unknown or no plain vision transformer, its patches have another size than
            ``output_stride``, or its weights cannot be loaded.
    """

    def __init__(
        self,
        name: str,
        *,
        output_stride: int | None = None,
        pretrained: bool = False,
        weights_file: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        require_model(name)
        if not is_model_in_modules(name, ["vision_transformer"]):
            raise ValueError(
                f"backbone must be a plain vision transformer with model.head dpt, got {name!r}: take "
                "--model.backbone vit_small_patch14_dinov2, or another --model.head"
            )
        self.encoder: Any = create_with_weights(
            timm.create_model, name, pretrained and weights_file is None, num_classes=0, dynamic_img_size=True
        )
        depth = len(self.encoder.blocks)
        self._taps = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        self.encoder.prune_intermediate_layers(self._taps)  # the head, and whatever pools for it
        self.channels: int = self.encoder.embed_dim
        self.size_multiple: int = self.encoder.patch_embed.patch_size[0]
        if output_stride not in (None, self.size_multiple):
            raise ValueError(
                f"output_stride must be {self.size_multiple} or None for the backbone {name!r}, whose patches have "
                f"this size, got {output_stride}"
            )
        if weights_file is not None:
            load_weights(self.encoder, weights_file)

    @property
    def perturbed_channels(self) -> tuple[int, ...]:
        """Channels of the tokens, which ``ChannelFactors`` perturb alike in all blocks."""
        return (self.channels,)

    def forward(self, image: Tensor) -> PatchFeatures:
        """Map normalised images (N, 3, H, W) to features."""
        return PatchFeatures(
            tuple(self.encoder.forward_intermediates(image, self._taps, norm=True, intermediates_only=True))
        )
