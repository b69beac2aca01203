"""Analysis of the positives of pixels whose truth is known: how often they hold the truth, and who pushes it up.

Source: the justification analysis of Fuzzy Positive Learning (CVPR 2023). Shapes: N images, C classes, (H, W) pixels, T
thresholds, B bins.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fpl_fast import positive_gradient_score
from fpl_fast.analysis import PositiveGradientScore
from fpl_fast.reference import accumulate_dtype, assign_positives
from fpl_fast.valid_labels import is_labelled

__all__ = [
    "THRESHOLDS",
    "Calibration",
    "CaseTable",
    "ClassTable",
    "PositivesAnalysis",
    "PositivesTally",
    "ThresholdTable",
]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
_SCORE_BINS, _CONFIDENCE_BINS = 40, 15


class ThresholdTable(NamedTuple):
    """Inclusion of the truth and K under each threshold; (T,) float64."""

    threshold: Tensor
    inclusion: Tensor  # share of the pixels whose truth is a positive
    mean_positives: Tensor  # mean K


class CaseTable(NamedTuple):
    """The three cases: the truth is the pseudo-label, another positive, no positive; (3,) float64."""

    share: Tensor
    vanilla: Tensor  # mean R of the cross entropy with the pseudo-label, NaN without pixels
    fuzzy: Tensor  # mean R of the fuzzy positive loss


class ClassTable(NamedTuple):
    """Pixels by their true class; (C,) float64, NaN for a class without pixels."""

    pixels: Tensor
    accuracy: Tensor  # share whose pseudo-label is right
    inclusion: Tensor
    mean_positives: Tensor
    vanilla: Tensor
    fuzzy: Tensor


class Calibration(NamedTuple):
    """Pixels by the probability of their pseudo-label, in equal bins of [0, 1]; (B,) float64, NaN for an empty bin."""

    pixels: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of confidence and accuracy, weighted by pixels."""
        gap = (self.confidence - self.accuracy).abs().nan_to_num() * self.pixels
        return float(gap.sum() / self.pixels.sum())


class PositivesAnalysis(NamedTuple):
    """Everything that the pixels of a data set say about a student and its teacher."""

    pixels: int
    accuracy: float  # share of the pixels whose pseudo-label is right
    inclusion: float  # share whose truth is a positive
    mean_positives: float
    vanilla: float  # mean R of the cross entropy with the pseudo-label
    fuzzy: float  # mean R of the fuzzy positive loss
    raised: tuple[float, float]  # shares of the pixels whose true class each of them raises, R > 0
    thresholds: ThresholdTable
    cases: CaseTable
    classes: ClassTable
    histogram: Tensor  # (2, B) pixels by their R in equal bins of [-1, 1]: cross entropy, fuzzy
    calibration: Calibration


class PositivesTally:
    """Sums over pixels that an analysis is made from; they stay on the device of the logits.

    Args:
        num_classes: C.
        max_positives: Cap on K, or None.
        ignore_index: Label of pixels whose truth is not known.
        thresholds: Thresholds to compare.

    Example:
        >>> tally = PositivesTally(5, max_positives=3)
        >>> z, t = torch.randn(1, 5, 4, 4), torch.randn(1, 5, 4, 4)
        >>> score = tally.add(z, t, t.argmax(1), threshold=0.9)
        >>> tally.result().accuracy
        1.0
    """

    def __init__(
        self,
        num_classes: int,
        *,
        max_positives: int | None,
        ignore_index: int = 255,
        thresholds: Sequence[float] = THRESHOLDS,
    ) -> None:
        self.num_classes, self.max_positives = num_classes, max_positives
        self.ignore_index, self.thresholds = ignore_index, tuple(thresholds)
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(
        self, student_logits: Tensor, teacher_logits: Tensor, label: Tensor, *, threshold: float | Tensor
    ) -> PositiveGradientScore:
        """Add the pixels of images, and return their scores.

        Args:
            student_logits: (N, C, H, W).
            teacher_logits: (N, C, H, W).
            label: (N, H, W) uint8, int32 or int64 true classes, or ``ignore_index``.
            threshold: T of the loss, or (N, H, W) of each pixel.

        Raises:
            ValueError: See :func:`fpl_fast.positive_gradient_score`.
        """
        cap = self.num_classes if self.max_positives is None else self.max_positives
        score = positive_gradient_score(
            student_logits,
            teacher_logits,
            label,
            threshold=threshold,
            max_positives=self.max_positives,
            ignore_index=self.ignore_index,
        )
        known = is_labelled(label, self.ignore_index)
        truth = label[known].long()
        teacher = teacher_logits.to(accumulate_dtype(teacher_logits)).movedim(1, -1)[known]
        own = threshold[known] if isinstance(threshold, Tensor) else threshold
        assignment = assign_positives(teacher, own, cap)
        vanilla, fuzzy, case = (part[known] for part in score)
        right, held = case == 1, case < 3
        values = torch.stack([torch.ones_like(vanilla), right, held, assignment.num_positives, vanilla, fuzzy]).double()
        by_case = torch.stack([torch.ones_like(vanilla), vanilla, fuzzy]).double()
        bins = [_bin(r, -1, 1, _SCORE_BINS) for r in (vanilla, fuzzy)]
        confident = torch.stack([torch.ones_like(vanilla), assignment.confidence, right]).double()
        self._accumulate(
            classes=values @ F.one_hot(truth, self.num_classes).double(),
            cases=by_case @ F.one_hot(case.long() - 1, 3).double(),
            raised=torch.stack([vanilla > 0, fuzzy > 0]).sum(1).double(),
            histogram=torch.stack([torch.bincount(place, minlength=_SCORE_BINS) for place in bins]).double(),
            calibration=confident
            @ F.one_hot(_bin(assignment.confidence, 0, 1, _CONFIDENCE_BINS), _CONFIDENCE_BINS).double(),
            thresholds=torch.stack([self._at(teacher, truth, threshold, cap) for threshold in self.thresholds], dim=1),
        )
        return score

    def result(self) -> PositivesAnalysis:
        """Compute the analysis of all pixels so far.

        Raises:
            ValueError: No pixel has been added whose truth is known.
        """
        sums = {name: value.cpu() for name, value in self._sums.items()}
        total = sums["classes"].sum(1) if sums else torch.zeros(6, dtype=torch.float64)
        num = total[0]
        if num == 0:
            raise ValueError("images must hold a pixel with a class to analyse, got none: take others with --split")
        accuracy, inclusion, mean_positives, vanilla, fuzzy = (total[1:] / num).tolist()
        classes, cases, calibration = sums["classes"], sums["cases"], sums["calibration"]
        vanilla_raised, fuzzy_raised = (sums["raised"] / num).tolist()
        return PositivesAnalysis(
            pixels=int(num),
            accuracy=accuracy,
            inclusion=inclusion,
            mean_positives=mean_positives,
            vanilla=vanilla,
            fuzzy=fuzzy,
            raised=(vanilla_raised, fuzzy_raised),
            thresholds=ThresholdTable(torch.tensor(self.thresholds, dtype=torch.float64), *(sums["thresholds"] / num)),
            cases=CaseTable(cases[0] / num, *(cases[1:] / cases[0])),
            classes=ClassTable(classes[0], *(classes[1:] / classes[0])),
            histogram=sums["histogram"],
            calibration=Calibration(calibration[0], *(calibration[1:] / calibration[0])),
        )

    def _at(self, teacher: Tensor, truth: Tensor, threshold: float, cap: int) -> Tensor:
        """Sum inclusion and K at another threshold, (2,)."""
        assignment = assign_positives(teacher, threshold, cap)
        held = assignment.positives.gather(1, truth.unsqueeze(1))
        return torch.stack([held.sum(), assignment.num_positives.sum()]).double()

    def _accumulate(self, **parts: Tensor) -> None:
        for name, part in parts.items():
            self._sums[name] = self._sums[name] + part if name in self._sums else part


def _bin(x: Tensor, low: float, high: float, num: int) -> Tensor:
    """Bins of values in [low, high], the highest bin with its upper end."""
    return ((x - low) * (num / (high - low))).long().clamp(0, num - 1)
