"""The training methods."""

from typing import Literal

from fpl_fast.trainer.config.rules import check_scale_range, config_class, require

__all__ = ["MethodConfig"]


@config_class
class MethodConfig:
    """What is minimised.

    ``supervised`` reads ``sup_loss``, ``ohem_min_kept``, ``ohem_group``, ``aux_weight`` and ``engine``; reports take
    ``threshold`` and ``max_positives`` of any method for their maps of K.
    """

    name: Literal["supervised", "cps", "mean_teacher", "cutmix_seg", "ael"] = "cps"
    """Training method."""
    sup_loss: Literal["ce", "ohem"] = "ce"
    """Supervised loss: cross entropy over labelled pixels, or over the hard ones of each image only."""
    ohem_min_kept: int = 50_000
    """"ohem": pixels kept per group of ohem_group images at least (CPS: 50 000 of 800 x 800; AEL: 100 000 of two)."""
    ohem_group: int = 1
    """"ohem": images mined together, a divisor of each process's labelled images: 1 in CPS, 2 in AEL."""
    aux_weight: float = 0.4
    """Factor of the supervised loss of an auxiliary head, where the network has one."""
    loss: Literal["ce", "fpl", "mse"] = "fpl"
    """Unsupervised loss: cross entropy with the pseudo-label, Fuzzy Positive Learning, or (mean_teacher and cutmix_seg
    only) the squared difference of probabilities, as their authors have it."""
    engine: Literal["auto", "triton", "compiled", "eager"] = "auto"
    """What computes the losses; "eager" is the same recipe unfused. Losses with labels have no "compiled" engine."""
    cutmix: bool = True
    """"cps": whether the unsupervised loss is taken on CutMixed unlabelled images, instead of on all images as they
    are."""
    partner: Literal["different", "same"] = "different"
    """"cps" and "cutmix_seg": what CutMix pastes, "different" images, as CutMix means and the authors of CPS intend, or
    two views of the "same" image, as their samplers do. The published tables were made with "same"; "different" is the
    default because it adds context that no single image has."""
    mix_boxes: int = 3
    """CutMix: boxes a mask, combined by exclusive or; 3 in CPS, 1 in CutMix-Seg and AEL."""
    mix_area: tuple[float, float] = (0.25, 0.5)
    """CutMix: range of a mask's area before overlaps cancel, in parts of the image; 0.5 to 0.5 in CutMix-Seg and
    AEL."""
    unsup_weight: float = 1.0
    """Factor of the unsupervised loss."""
    ema_decay: float = 0.99
    """Decay of a teacher's moving average, a step."""
    confidence_threshold: float = 0.0
    """Probability from which a teacher's pixel counts as sure. "cutmix_seg": the share of sure pixels weighs the whole
    loss (0.97 in the public code). "ael" with "ce": others are left out (0 on Cityscapes, 0.7 elsewhere)."""
    confidence_power: float = 2.0
    """"ael": exponent of the teacher's confidence as a pixel weight."""
    equalize_power: float = 1.0
    """"ael": exponent of a class's rate of sampling; 0 samples all pixels."""
    bank_momentum: float = 0.999
    """"ael": momentum of the bank of confidences, a step."""
    paste_probability: float = 0.5
    """"ael": share of the labelled images that pixels of another are pasted into."""
    paste_draws: int = 3
    """"ael": classes drawn a step to be pasted; 3 on Cityscapes, 1 on PASCAL VOC."""
    paste_exclude: tuple[int, ...] = ()
    """"ael": classes that are never pasted. The public code excludes 0, 1, 2, 8 and 10: on Cityscapes road, sidewalk,
    building, vegetation and sky; on PASCAL VOC, where background (0) alone is argued for, four arbitrary objects."""
    paste_scales: tuple[float, float] = (0.1, 2.0)
    """"ael": range of the scales of an image that is pasted from, as augment.scale_range."""
    component_area: float = 0.005
    """"ael": share of the image that a component pasted by CutMix exceeds; 0.005 on Cityscapes, 0.03 on PASCAL VOC."""
    bank_area: float = 0.01
    """"ael": share of an image from which a class counts as held by it; 0.01 on Cityscapes, 0.03 on PASCAL VOC."""
    donor_lead: int = 24
    """"ael": steps between the choice of a CutMix donor and its use, in which loaders read it."""
    threshold: float = 0.9
    """"fpl": probability T_u that the fuzzy positives and the first negative accumulate to."""
    max_positives: int | None = 3
    """"fpl": cap on the number of fuzzy positives; 3 made the published tables, null is the paper's rule."""
    weighting: Literal["none", "linear", "convex", "concave"] = "none"
    """"fpl": pixel weight from the margin to the first rejected class."""
    convex_scale: float = 1.0
    """"fpl" with "convex": factor of the first rejected probability; 1 in the code of CPS, 4 in the one of AEL."""
    form: Literal["smooth", "hinge"] = "smooth"
    """"fpl": log-sum-exp on both sides, or the hinge between the lowest positive and the highest negative."""
    balance: bool = True
    """"fpl": whether the losses of a step are rescaled by one factor to the value of the plain pseudo-label loss."""
    ignore_padding: bool = False
    """Whether pixels outside the image are left out of the unsupervised loss; CPS counts them."""
    divide_by_all: bool = False
    """"mean_teacher" and "cutmix_seg" with ignore_padding: whether the loss is still divided by all pixels, padding
    included, as in the public code of CutMix-Seg."""

    def __post_init__(self) -> None:
        require(self.ohem_min_kept >= 1, "method.ohem_min_kept", ">= 1 pixel", self.ohem_min_kept)
        require(self.ohem_group >= 1, "method.ohem_group", ">= 1 image", self.ohem_group)
        for name in ("aux_weight", "unsup_weight", "confidence_power", "equalize_power", "convex_scale"):
            require(getattr(self, name) >= 0, f"method.{name}", ">= 0", getattr(self, name))
        require(self.loss != "mse" or self.name in ("mean_teacher", "cutmix_seg"), "method.loss",
                 f"'ce' or 'fpl' with {self.name}", self.loss)  # fmt: skip
        require(self.mix_boxes >= 1, "method.mix_boxes", ">= 1", self.mix_boxes)
        require(0 < self.mix_area[0] <= self.mix_area[1] <= 1, "method.mix_area", "an ascending pair in (0, 1]",
                 self.mix_area)  # fmt: skip
        for name in ("ema_decay", "confidence_threshold", "bank_momentum", "paste_probability", "component_area",
                     "bank_area"):  # fmt: skip
            require(0 <= getattr(self, name) <= 1, f"method.{name}", "in [0, 1]", getattr(self, name))
        for name in ("paste_draws", "donor_lead"):
            require(getattr(self, name) >= 1, f"method.{name}", ">= 1", getattr(self, name))
        check_scale_range(self.paste_scales, "method.paste_scales")
        require(0 < self.threshold <= 1, "method.threshold", "in (0, 1]", self.threshold)
        require(self.max_positives is None or self.max_positives >= 1, "method.max_positives", ">= 1 or null",
                 self.max_positives)  # fmt: skip
