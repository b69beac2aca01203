"""Settings of the views of unlabelled images: random colours, pairs of crops, weak and strong views."""

from typing import TYPE_CHECKING, ClassVar

from fpl_fast.trainer.config.method import ConfidencePart, MethodPart, PartnerPart, PseudoLabelConfig
from fpl_fast.trainer.config.rules import check_jitter, check_scale_range, config_class, require

if TYPE_CHECKING:
    from fpl_fast.trainer.config.training import AugmentConfig, TrainConfig

__all__ = ["PAIR_STRIDE", "ColourPart", "PairedCropsPart", "PairedWeakStrongConfig", "WeakStrongConfig"]

PAIR_STRIDE = 8
"""Pixels that the offsets of two crops of an image are a multiple of, and the side of the cells that both compare."""


@config_class
class ColourPart(MethodPart):
    """Settings of random colours of unlabelled crops."""

    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.25)
    """Random colours: largest relative changes of brightness, contrast and saturation, and largest shift of the hue as
    a part of the colour circle."""
    jitter_probability: float = 0.8
    """Random colours: probability of this colour jitter."""
    grey_probability: float = 0.2
    """Random colours: probability of grayscale."""
    blur_probability: float = 0.5
    """Random colours: probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Random colours: range of the blur's standard deviation, pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("jitter_probability", "grey_probability", "blur_probability"):
            require(0 <= getattr(self, name) <= 1, f"method.{name}", "in [0, 1]", getattr(self, name))
        check_jitter(self.jitter, "method.jitter")
        require(0 < self.blur_sigma[0] <= self.blur_sigma[1], "method.blur_sigma", "an ascending pair > 0",
                self.blur_sigma)  # fmt: skip


@config_class
class PairedCropsPart(ColourPart):
    """Settings of pairs of overlapping crops of an unlabelled image, each flipped and coloured by itself."""

    pair_scales: tuple[float, float] = (0.8, 2.0)
    """Range of the scales of an image that a pair is cut from, resized and padded as with augment.geometry cac."""
    pair_overlap: tuple[float, float] = (0.1, 1.0)
    """Range of the intersection over the union of both crops; they are the same where 50 draws find no such pair."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale_range(self.pair_scales, "method.pair_scales")
        require(0 < self.pair_overlap[0] <= self.pair_overlap[1] <= 1, "method.pair_overlap",
                "an ascending pair in (0, 1]", self.pair_overlap)  # fmt: skip

    def check_run(self, train: "TrainConfig", augment: "AugmentConfig") -> None:
        """Require crops of whole cells.

        Raises:
            ValueError: The crop has other sides.
        """
        multiple = all(side % PAIR_STRIDE == 0 for side in augment.crop)
        require(multiple, "augment.crop", f"multiples of {PAIR_STRIDE}, in which pairs of crops are apart",
                augment.crop)  # fmt: skip


@config_class
class WeakStrongConfig(PseudoLabelConfig, ConfidencePart, ColourPart):
    """Settings of a method that learns on strong views of an image from its prediction of the weak one."""

    num_strong_views: ClassVar[int] = 1
    """Strong views of each weak crop; fixed by the method."""

    confidence_threshold: float = 0.0
    """Probability from which a pixel of the weak view counts; the loss of other pixels is 0. 0.95 in the public codes,
    0 on Cityscapes. "fpl" needs less than threshold: behind such a gate it would be the cross entropy."""
    ignore_padding: bool = True
    """Whether pixels outside the image are left out of the unsupervised losses, as in the public codes."""
    mix_probability: float = 0.5
    """CutMix: probability of a box in a strong view."""
    mix_area: tuple[float, float] = (0.02, 0.4)
    """CutMix: range of a box's area, as a share of the image."""
    mix_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """CutMix: range of a box's height over its width, both as shares of the image's sides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.mix_probability <= 1, "method.mix_probability", "in [0, 1]", self.mix_probability)
        require(0 < self.mix_area[0] <= self.mix_area[1] <= 1, "method.mix_area", "an ascending pair in (0, 1]",
                self.mix_area)  # fmt: skip
        check_scale_range(self.mix_aspect, "method.mix_aspect")
        self._check_gate()

    @property
    def gate(self) -> float:
        """Probability from which a pixel counts in the losses that can be fuzzy."""
        return self.confidence_threshold

    def _check_gate(self) -> None:
        name = "method.threshold_candidates" if self.threshold_candidates else "method.threshold"
        largest = self.largest_threshold
        acts = self.loss != "fpl" or self.gate < largest
        require(acts, "method.confidence_threshold", f"below {name} {largest} with method.loss fpl, "
                "which is the cross entropy behind a higher gate (0 leaves the gate out)",
                self.confidence_threshold)  # fmt: skip


@config_class
class PairedWeakStrongConfig(PartnerPart, WeakStrongConfig):
    """Settings of such a method whose boxes come from images that the loaders choose."""
