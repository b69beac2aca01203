"""A segmentation network: encoder, decoder head, classifier, and an auxiliary head where the paper has one."""

from os import PathLike
from typing import Any, Literal

from torch import Tensor, nn

from fpl_fast.trainer.models.ael import AELHead, AuxiliaryHead
from fpl_fast.trainer.models.backbone import Backbone, Stem
from fpl_fast.trainer.models.deeplabv3plus import DeepLabV3PlusHead
from fpl_fast.trainer.models.dpt import DPTHead
from fpl_fast.trainer.models.features import Features, PatchFeatures
from fpl_fast.trainer.models.perturbation import ChannelFactors, perturbed
from fpl_fast.trainer.models.transformer import Transformer
from fpl_fast.trainer.models.unimatch import UniMatchHead


class SegmentationNetwork(nn.Module):
    """Encoder, decoder head and a 1 x 1 classifier; logits stay small, because the losses upsample them.

    Logits have stride 4; those of a transformer are 8 times as large as its grid of patches, which is stride 1.75 for
    patches of 14 pixels.

    Args:
        backbone: The encoder.
        head: Maps features to a feature map (N, head_channels, h, w).
        classifier: Maps that feature map to logits.
        aux_head: Maps the features before the last to auxiliary logits, or None.
        dropout: Probability of dropping a value that the classifier reads.
    """

    def __init__(
        self,
        backbone: Backbone | Transformer,
        head: AELHead | DeepLabV3PlusHead | UniMatchHead | DPTHead,
        classifier: nn.Module,
        aux_head: nn.Module | None = None,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.classifier = classifier
        self.aux_head = aux_head
        self.dropout = nn.Dropout(dropout)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of the features that each of the ``ChannelFactors`` perturbs."""
        return self.backbone.perturbed_channels

    @property
    def size_multiple(self) -> int:
        """Number of pixels that the sides of an image must be a multiple of."""
        return self.backbone.size_multiple

    def encode(self, image: Tensor) -> Features | PatchFeatures:
        """Map normalised images (N, 3, H, W) to features."""
        return self.backbone(image)

    def decode(self, features: Any) -> Tensor:
        """Map features to the decoder's feature map (N, head_channels, h, w), with the size of the fine features."""
        return self.head(features)

    def classify(self, decoded: Tensor) -> Tensor:
        """Map decoder features to logits of the same height and width."""
        return self.classifier(self.dropout(decoded))

    def forward(
        self,
        image: Tensor,
        *,
        with_aux: bool = False,
        with_decoded: bool = False,
        with_fused: bool = False,
        with_high: bool = False,
        factors: ChannelFactors | None = None,
        beside_clean: bool = True,
    ) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Tensor | None, Tensor]:
        """Map normalised images (N, 3, H, W) to logits (N, num_classes, h, w) at stride 4.

        With ``with_aux`` also the auxiliary logits, at the stride of the features before the last; with
        ``with_decoded`` also the decoder's feature map; with ``with_fused`` also the auxiliary logits, if there are
        any, and the features that the decoder refines; with ``with_high`` the encoder's last features instead of
        these, as they are without ``factors``. With ``factors`` of the features' channels, logits (2N,
        num_classes, h, w), first of the clean features, then of the perturbed ones, from one pass of the encoder and
        one of the decoder; not ``beside_clean``, logits of the perturbed features alone.
        """
        features: Any = self.encode(image)
        high = features.high
        if factors is not None:
            features = perturbed(features, factors, beside_clean=beside_clean)
        fused = self.head.fuse(features)
        decoded = self.head.refine(fused)
        logits = self.classify(decoded)
        if with_fused or with_high:
            aux = None if self.aux_head is None else self.aux_head(features.middle)
            return logits, aux, high if with_high else fused
        if with_decoded:
            return logits, decoded
        if not with_aux:
            return logits
        assert self.aux_head is not None
        return logits, self.aux_head(features.middle)

    def forward_with_aux(self, image: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """Compute main and auxiliary logits in one pass; needs ``aux_head``, and is compiled if ``forward`` is."""
        return self(image, with_aux=True, **options)

    def forward_with_decoded(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits and the feature map that the classifier reads, in one pass; compiled if ``forward`` is."""
        return self(image, with_decoded=True)

    @property
    def fused_channels(self) -> int:
        """Channels of the features that the decoder refines."""
        return self.head.fused_channels

    def forward_with_fused(self, image: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Compute logits, auxiliary logits if there are any, and the features that the decoder refines, in one pass."""
        return self(image, with_fused=True)

    def forward_with_high(self, image: Tensor, **options: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        """Compute logits, auxiliary logits if there are any, and the encoder's last features, in one pass."""
        return self(image, with_high=True, **options)


def build_network(
    backbone: str,
    num_classes: int,
    *,
    head: Literal["cps", "ael", "cac", "unimatch", "dpt"] = "cps",
    stem: Stem = "deep",
    output_stride: int | None = 16,
    head_channels: int = 256,
    low_channels: int = 48,
    pretrained: bool = False,
    weights_file: str | PathLike[str] | None = None,
) -> SegmentationNetwork:
    """Build a segmentation network by name.

    Everything but pretrained weights is drawn from torch's global generator. Two calls therefore give the two branches
    of CPS different weights, which is their only difference.

    Args:
        backbone: ``resnet50`` or ``resnet101`` (as in the papers) or any timm encoder with features at stride 4.
        num_classes: At least 2.
        head: "cps": rates 6, 12, 18, Kaiming-normal convolutions (fan-in), made for output stride 16. "ael": rates 12,
            24, 36, dropout, an auxiliary head, PyTorch's initialisation, and max-pooling that rounds sizes up; made
            for output stride 8. "unimatch": rates 6, 12, 18, at output stride 8 twice as much, batch norm in every
            branch, PyTorch's initialisation, and an encoder without multi-grid dilations. "cac": the same head with
            dropout and Kaiming-normal convolutions on the encoder of "cps". "dpt": of a vision transformer, with
            widths that follow from it.
        stem: First layers of the two ResNets: three 3 x 3 convolutions, or one 7 x 7 as in CAC.
        output_stride: Of the encoder, or None for its own.
        head_channels: Width of the decoder; 256 in the papers.
        low_channels: Width of the reduced fine features; 48 in the papers ("ael" takes ``head_channels``).
        pretrained: Whether to fetch ImageNet weights through timm.
        weights_file: Local weights of the encoder alone.

    Raises:
        ValueError: If an argument breaks its rule; see :class:`Backbone` and :class:`Transformer`.

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
    if head == "dpt":
        transformer = Transformer(
            backbone, output_stride=output_stride, pretrained=pretrained, weights_file=weights_file
        )
        decoder = DPTHead(transformer.channels)
        return SegmentationNetwork(transformer, decoder, nn.Conv2d(decoder.channels, num_classes, 1))
    encoder = Backbone(
        backbone,
        output_stride=output_stride,
        stem=stem,
        ceil_pool=head == "ael",
        multi_grid=head != "unimatch",
        pretrained=pretrained,
        weights_file=weights_file,
    )
    low, middle, high = encoder.channels
    classifier = nn.Conv2d(head_channels, num_classes, 1)
    if head == "ael":
        aux_head = AuxiliaryHead(middle, head_channels, num_classes)
        return SegmentationNetwork(encoder, AELHead((low, high), head_channels), classifier, aux_head)
    if head == "unimatch":
        return SegmentationNetwork(
            encoder, UniMatchHead((low, high), head_channels, low_channels, wide=output_stride == 8), classifier
        )
    refined: DeepLabV3PlusHead | UniMatchHead = (
        UniMatchHead((low, high), head_channels, low_channels, wide=output_stride == 8, dropout=0.5)
        if head == "cac"
        else DeepLabV3PlusHead((low, high), head_channels, low_channels)
    )
    for module in (*refined.modules(), classifier):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    return SegmentationNetwork(encoder, refined, classifier, dropout=0.1 if head == "cac" else 0.0)
