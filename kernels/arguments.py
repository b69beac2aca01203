"""Arguments of every engine of the loss. This needs torch alone: engines without Triton take the same arguments.

Shapes: N images, C classes, (h, w) logits, (H, W) pixels of the loss.
"""

from typing import NamedTuple

from torch import Tensor

# Sums over the valid pixels; the terms of one pixel are, with q the teacher's largest probability, the gate
# g = [q >= confidence_threshold] and b = pixel_weight * q ** confidence_power:
SUMS = (
    "loss",  # g * b * w * L
    "num_valid",  # 1
    "weighted",  # w * L
    "unweighted",  # L
    "cross_entropy",  # of the student with the teacher's most probable class
    "positives",  # K
    "one_positive",  # [K = 1]
    "two_positives",  # [K = 2]
    "three_positives",  # [K = 3]
    "confidence",  # q
    "num_selected",  # g
    "weight",  # b
)
NUM_SUMS = len(SUMS)


class LossInputs(NamedTuple):
    """The tensors of one call. Logits have any strides and are never written to."""

    student: Tensor  # (N, C, h, w)
    teacher: Tensor  # (N, C, h, w), a dtype and strides of its own
    partner: Tensor | None = None  # the teacher where mix_mask is true, of the teacher's dtype
    mix_mask: Tensor | None = None  # (N, H, W) bool
    pixel_weight: Tensor | None = None  # (N, H, W) float32, or float64 with float64 logits; None for 1
    valid_mask: Tensor | None = None  # (N, H, W) bool; None for all
    size: tuple[int, int] | None = None  # (H, W) that the logits are upsampled to; None for (h, w)
    align_corners: bool = True  # of the upsampling

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Shape of the pixels of the loss, (N, H, W)."""
        height, width = self.size or self.student.shape[2:]
        return len(self.student), height, width


class LossOptions(NamedTuple):
    """The numbers and names of one call; hashable, so that compiled code can be kept per option set."""

    threshold: float  # T in (0, 1]
    max_positives: int  # cap on K, 1 to C - 1
    weighting: str  # "none", "linear", "convex" or "concave"
    convex_scale: float
    form: str  # "smooth" or "hinge"
    confidence_threshold: float = 0.0  # pixels with q below it contribute no loss
    confidence_power: float = 0.0  # q to this power is a factor of the loss

    @property
    def uses_confidence(self) -> bool:
        """Whether q matters beyond the statistics."""
        return self.confidence_threshold > 0 or self.confidence_power != 0


# Sums over the labelled pixels, with a the pixel weight and v the weight of the pixel's class:
LABEL_SUMS = (
    "loss",  # a * v * L
    "num_valid",  # 1
    "weight",  # a * v
)
NUM_LABEL_SUMS = len(LABEL_SUMS)


class LabelInputs(NamedTuple):
    """The tensors of one call of a loss with labels. Logits have any strides and are never written to."""

    student: Tensor  # (N, C, h, w)
    target: Tensor  # (N, H, W) uint8, int32 or int64
    class_weight: Tensor | None = None  # (C,) float32, or float64 with float64 logits; None for 1
    pixel_weight: Tensor | None = None  # (N, H, W) float32, or float64 with float64 logits; None for 1
    ignore_index: int = 255
    size: tuple[int, int] | None = None  # (H, W) that the logits are upsampled to; None for (h, w)
    align_corners: bool = True  # of the upsampling

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Shape of the pixels of the loss, (N, H, W)."""
        height, width = self.size or self.student.shape[2:]
        return len(self.student), height, width
