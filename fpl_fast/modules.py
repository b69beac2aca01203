"""The losses as modules."""

import inspect
from typing import Any

from torch import Tensor, nn

from fpl_fast.functional import LossStats, fuzzy_positive_loss


class FuzzyPositiveLoss(nn.Module):
    """:func:`fpl_fast.fuzzy_positive_loss` with its options fixed at construction.

    Args:
        **options: The keyword options of the function that are not tensors: threshold, max_positives, weighting,
            convex_scale, confidence_threshold, confidence_power, size, align_corners, balance, form, reduction,
            return_stats, engine.

    Example:
        >>> criterion = FuzzyPositiveLoss(threshold=0.9, max_positives=3, weighting="concave")
        >>> loss = criterion(torch.randn(2, 19, 32, 32), torch.randn(2, 19, 32, 32))
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            raise ValueError(f"FuzzyPositiveLoss takes the options {', '.join(sorted(_OPTIONS))}, got {unknown[0]!r}")
        self.options = options

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, **tensors: Tensor
    ) -> Tensor | tuple[Tensor, LossStats]:
        """Evaluate the loss; ``tensors`` are pixel_weight, valid_mask, partner_logits and mix_mask."""
        return fuzzy_positive_loss(student_logits, teacher_logits, **tensors, **self.options)  # type: ignore[call-overload]

    def extra_repr(self) -> str:
        """The options that differ from the defaults."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


_TENSORS = {"student_logits", "teacher_logits", "pixel_weight", "valid_mask", "partner_logits", "mix_mask"}
_OPTIONS = set(inspect.signature(fuzzy_positive_loss).parameters) - _TENSORS
