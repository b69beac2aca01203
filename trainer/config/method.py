"""Settings that training methods are composed of; the settings of one method alone are defined beside the method.

The configuration of a method inherits only the parts that it reads, so that the command line offers no setting without
effect.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from fpl_fast.trainer.config.rules import check_scale_range, config_class, require

if TYPE_CHECKING:
    from fpl_fast.trainer.config.training import AugmentConfig, TrainConfig

__all__ = [
    "ConfidencePart",
    "ConsistencyConfig",
    "CutMixPart",
    "EmaPart",
    "FlipPart",
    "MethodConfig",
    "MethodPart",
    "PairedCutMixPart",
    "PartnerPart",
    "PastePart",
    "PseudoLabelConfig",
]


@config_class
class MethodPart:
    """A part of a method's settings."""

    def __post_init__(self) -> None:
        """Check the values; each part calls the next through ``super``."""


@config_class
class MethodConfig(MethodPart):
    """Settings of every method: the supervised loss and the engine of all losses."""

    name: str
    """Training method; fixed by the recipe."""
    sup_loss: Literal["ce", "ohem"] = "ce"
    """Supervised loss: cross entropy over labelled pixels, or over the hard ones of each image only."""
    ohem_min_kept: int = 50_000
    """"ohem": pixels kept per group of ohem_group images at least (CPS: 50 000 of 800 x 800; AEL: 100 000 of two)."""
    ohem_group: int = 1
    """"ohem": images mined together, a divisor of each process's labelled images: 1 in CPS, 2 in AEL."""
    aux_weight: float = 0.4
    """Factor of the supervised loss of an auxiliary head, where the network has one."""
    engine: Literal["auto", "triton", "compiled", "eager"] = "auto"
    """Engine of the losses; "eager" is the same recipe unfused. Losses with labels have no "compiled" engine, and take
    "auto" instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ohem_min_kept >= 1, "method.ohem_min_kept", ">= 1 pixel", self.ohem_min_kept)
        require(self.ohem_group >= 1, "method.ohem_group", ">= 1 image", self.ohem_group)
        require(self.aux_weight >= 0, "method.aux_weight", ">= 0", self.aux_weight)

    def check_run(self, train: "TrainConfig", augment: "AugmentConfig") -> None:
        """Check the method's requirements on length, batches, hardware and crops.

        Raises:
            ValueError: The run does not meet them.
        """


@config_class
class PseudoLabelConfig(MethodConfig):
    """Settings of a loss on pseudo-labels: cross entropy or Fuzzy Positive Learning."""

    loss: Literal["ce", "fpl"] = "fpl"
    """Unsupervised loss: cross entropy with the pseudo-label, or Fuzzy Positive Learning."""
    unsup_weight: float = 1.0
    """Factor of the unsupervised loss."""
    ramp_share: float = 0.0
    """Share of the run over which this factor rises from 0. Networks that start from random weights predict large
    classes first; taught from the first step by such predictions, they learn rare classes late or never."""
    ramp_kind: Literal["linear", "sigmoid", "cosine", "log", "exp"] = "sigmoid"
    """Shape of this rise."""
    threshold: float = 0.9
    """"fpl": probability T_u that the fuzzy positives and the first negative accumulate to."""
    threshold_candidates: tuple[float, ...] = ()
    """"fpl": ascending probabilities, of which each pixel takes the one that agrees best with its neighbours, in place
    of threshold (Adaptive FPL). Empty for none; 0.84, 0.89, 0.94, 0.99 in its public code, with max_positives 4."""
    threshold_window: int = 5
    """"fpl" with threshold_candidates: side of the window around a pixel, odd."""
    max_positives: int | None = 3
    """"fpl": cap on the number of fuzzy positives; 3 made the published tables, null is the paper's rule."""
    weighting: Literal["none", "linear", "convex", "concave"] = "none"
    """"fpl": pixel weight from the margin to the first rejected class."""
    convex_scale: float = 1.0
    """"fpl" with "convex": factor of the first rejected probability; 1 in the code of CPS, 4 in the code of AEL."""
    form: Literal["smooth", "hinge"] = "smooth"
    """"fpl": log-sum-exp on both sides, or the hinge between the lowest positive and the highest negative."""
    balance: bool = True
    """"fpl": whether the losses of a step are rescaled by one factor to the value of the plain pseudo-label loss."""
    ignore_padding: bool = False
    """Whether pixels outside the image are left out of the unsupervised loss; CPS counts them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("unsup_weight", "convex_scale"):
            require(getattr(self, name) >= 0, f"method.{name}", ">= 0", getattr(self, name))
        require(0 <= self.ramp_share <= 1, "method.ramp_share", "in [0, 1]", self.ramp_share)
        require(0 < self.threshold <= 1, "method.threshold", "in (0, 1]", self.threshold)
        self._check_candidates()
        require(self.max_positives is None or self.max_positives >= 1, "method.max_positives", ">= 1 or null",
                 self.max_positives)  # fmt: skip

    @property
    def largest_threshold(self) -> float:
        """The largest threshold that a pixel may have."""
        return max(self.threshold_candidates, default=self.threshold)

    def _check_candidates(self) -> None:
        candidates, window = self.threshold_candidates, self.threshold_window
        ascend = all(a < b for a, b in pairwise((0.0, *candidates, 1.0 + 2**-52)))
        require(ascend, "method.threshold_candidates", "ascending numbers in (0, 1], such as [0.84, 0.94]", candidates)
        require(window % 2 == 1 and 3 <= window <= 15, "method.threshold_window", "an odd number from 3 to 15", window)
        usual = PseudoLabelConfig.threshold
        require(not candidates or self.threshold == usual, "method.threshold", f"left at {usual} with "
                "method.threshold_candidates, which replace it", self.threshold)  # fmt: skip


@config_class
class ConsistencyConfig(PseudoLabelConfig):
    """Settings of a loss between two predictions of the same pixels; it may be a squared difference."""

    loss: Literal["ce", "fpl", "mse"] = "fpl"  # type: ignore[assignment]  # wider, and nothing assigns it
    """Unsupervised loss: cross entropy with the pseudo-label, Fuzzy Positive Learning, or the squared difference of
    probabilities, as the method's authors use it."""
    divide_by_all: bool = False
    """With ignore_padding: whether the loss is still divided by all pixels, padding included, as in the public code of
    CutMix-Seg."""


@config_class
class EmaPart(MethodPart):
    """Settings of a teacher that is a moving average."""

    ema_decay: float = 0.99
    """Decay of the teacher's moving average, a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.ema_decay <= 1, "method.ema_decay", "in [0, 1]", self.ema_decay)


@config_class
class ConfidencePart(MethodPart):
    """Settings of a method that depends on the confidence of its teacher."""

    confidence_threshold: float = 0.0
    """Probability from which a teacher's pixel counts as sure. CutMix-Seg: the share of sure pixels weighs the whole
    loss (0.97 in the public code). AEL with "ce": other pixels are left out (0 on Cityscapes, 0.7 elsewhere). CCT:
    surer pixels alone count (0 in the tables; 0.5 in the public code, which does not use it)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.confidence_threshold <= 1, "method.confidence_threshold", "in [0, 1]",
                 self.confidence_threshold)  # fmt: skip


@config_class
class CutMixPart(MethodPart):
    """Settings of CutMix masks."""

    mix_boxes: int = 3
    """CutMix: boxes a mask, combined by exclusive or; 3 in CPS, 1 in CutMix-Seg and AEL."""
    mix_area: tuple[float, float] = (0.25, 0.5)
    """CutMix: range of a mask's area before overlaps cancel, as a share of the image; 0.5 to 0.5 in CutMix-Seg and
    AEL."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.mix_boxes >= 1, "method.mix_boxes", ">= 1", self.mix_boxes)
        require(0 < self.mix_area[0] <= self.mix_area[1] <= 1, "method.mix_area", "an ascending pair in (0, 1]",
                 self.mix_area)  # fmt: skip


@config_class
class PartnerPart(MethodPart):
    """Settings of the images that CutMix pastes."""

    partner: Literal["different", "same"] = "different"
    """Images that CutMix pastes: "different" ones, as in the CutMix paper and as the authors of CPS intend, or a second
    view of the "same" image, as in the samplers of their code. The published tables were made with "same"; "different"
    is the default because it adds context that no single image has."""


@config_class
class PairedCutMixPart(PartnerPart, CutMixPart):
    """Settings of CutMix between two views that the loaders choose."""


@config_class
class FlipPart(MethodPart):
    """Settings of CutMix within a batch, which is flipped along itself."""

    flip_group: int = 2
    """CutMix: images that are flipped together, so that the first pastes from the last, the second from the last but
    one; a divisor of the unlabelled images of each process and micro-batch. The middle one of an odd number stays
    unmixed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.flip_group >= 1, "method.flip_group", ">= 1 image", self.flip_group)


@config_class
class PastePart(MethodPart):
    """Settings of pasting from labelled images."""

    paste_probability: float = 0.5
    """Share of the labelled images that receive pixels of another image."""
    paste_scales: tuple[float, float] = (0.1, 2.0)
    """Range of the scales of an image that is pasted from, as augment.scale_range."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.paste_probability <= 1, "method.paste_probability", "in [0, 1]", self.paste_probability)
        check_scale_range(self.paste_scales, "method.paste_scales")
